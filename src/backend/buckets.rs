//! Buckets: the few row counts that a device computes if it compiles or tunes kernels for each.
//!
//! A batch is padded to the next bucket, so that a warm-up can run all of them before the first request. Up to 64 rows
//! there is a bucket every sixteen rows, then four for each doubling: padding is a fifth of a batch at most and a tenth
//! on average.

/// Up to here buckets are [`STEP_MIN`] apart.
const EVEN_ROWS_MAX: usize = 64;
const STEP_MIN: usize = 16;

/// The row count that `rows` are padded to.
pub fn bucket_for(rows: usize) -> usize {
    if rows <= EVEN_ROWS_MAX {
        return rows.max(1).next_multiple_of(STEP_MIN);
    }
    // A quarter of the power of two below.
    rows.next_multiple_of(rows.next_power_of_two() / 8)
}

/// All buckets up to that of `rows_max` rows.
pub fn buckets(rows_max: usize) -> Vec<usize> {
    let mut all = vec![bucket_for(1)];
    while *all.last().expect("it is never empty") < rows_max {
        all.push(bucket_for(all[all.len() - 1] + 1));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_few_buckets() {
        assert_eq!(buckets(1), [16]);
        assert_eq!(buckets(65), [16, 32, 48, 64, 80]);
        assert_eq!(
            buckets(512),
            [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]
        );
        assert_eq!(buckets(2048).len(), 24);
    }

    #[test]
    fn every_row_count_is_padded_to_the_next_bucket() {
        let all = buckets(5000);
        for rows in 1..=5000 {
            let next = all.iter().copied().find(|&bucket| bucket >= rows);
            assert_eq!(Some(bucket_for(rows)), next, "{rows}");
        }
        let most = (EVEN_ROWS_MAX + 1..=5000).map(|rows| (bucket_for(rows) - rows) as f64 / bucket_for(rows) as f64);
        assert!(most.fold(0.0, f64::max) < 0.2);
    }
}
