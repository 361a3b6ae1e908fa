//! The few numbers of rows that a device computes, where it compiles and tunes something for each.
//!
//! A batch is filled up to the next of them, so that all can be run once before the first text comes: sixteen rows more each up
//! to 64, then four steps an octave, which fills up a fifth of a batch at most and a tenth on average.

/// Below this the steps are [`STEP_MIN`].
const EVEN_ROWS_MAX: usize = 64;
const STEP_MIN: usize = 16;

/// The rows that `rows` are filled up to.
pub fn rung(rows: usize) -> usize {
    if rows <= EVEN_ROWS_MAX {
        return rows.max(1).next_multiple_of(STEP_MIN);
    }
    // A quarter of the power of two below.
    rows.next_multiple_of(rows.next_power_of_two() / 8)
}

/// All of them up to the one that `rows_max` rows take.
pub fn rungs(rows_max: usize) -> Vec<usize> {
    let mut rungs = vec![rung(1)];
    while *rungs.last().expect("it is never empty") < rows_max {
        rungs.push(rung(rungs[rungs.len() - 1] + 1));
    }
    rungs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ladder_has_few_rungs() {
        assert_eq!(rungs(1), [16]);
        assert_eq!(rungs(65), [16, 32, 48, 64, 80]);
        assert_eq!(
            rungs(512),
            [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]
        );
        assert_eq!(rungs(2048).len(), 24);
    }

    #[test]
    fn every_number_of_rows_is_filled_up_to_the_next_rung() {
        let rungs = rungs(5000);
        for rows in 1..=5000 {
            let next = rungs.iter().copied().find(|&rung| rung >= rows);
            assert_eq!(Some(rung(rows)), next, "{rows}");
        }
        let most = (EVEN_ROWS_MAX + 1..=5000).map(|rows| (rung(rows) - rows) as f64 / rung(rows) as f64);
        assert!(most.fold(0.0, f64::max) < 0.2);
    }
}
