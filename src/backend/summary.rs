//! What is kept of logits, so that a device gives back some numbers and not whole rows of the vocabulary.
//!
//! A summary is a flat list of f32. For each row: the largest logit, the sum of `exp(logit - largest)` in two parts of
//! which the second is what the first lost by rounding, how many logits are NaN or infinite, and then, best
//! first, pairs of a logit and its token. After all rows come the logits of the tokens that were asked for; behind the
//! summary may come rows of logits as they are. A token's id is exact in f32 below 2²⁴, which is more than a vocabulary may have.

use super::Wanted;

/// Numbers of a row before its likeliest tokens.
pub const STATISTICS: usize = 4;

/// Numbers of a row with its `top` likeliest tokens.
pub const fn row_len(top: usize) -> usize {
    STATISTICS + 2 * top
}

/// The softmax of one row, as far as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    largest: f32,
    /// Natural logarithm of the sum of `exp(logit - largest)`.
    log_sum: f64,
    broken: bool,
    top: &'a [f32],
    /// The logits that were asked for, in order.
    pub logits: &'a [f32],
    /// The logits of the whole vocabulary, where they were asked for.
    pub whole: Option<&'a [f32]>,
}

impl<'a> Row<'a> {
    /// Row `row` of a summary that was made of `wanted`, with the rows that are told whole behind it.
    pub fn of(summary: &'a [f32], wanted: &Wanted<Vec<u32>>, row: usize) -> Self {
        let len = row_len(wanted.top);
        let (statistics, top) = summary[row * len..(row + 1) * len].split_at(STATISTICS);
        let (summary, whole) = summary.split_at(wanted.summary_len());
        let logits = &summary[wanted.rows * len..];
        let bounds = wanted.token_bounds[row] as usize..wanted.token_bounds[row + 1] as usize;
        let at = wanted.whole.binary_search(&(row as u32)).ok();
        let whole = at.and_then(|at| whole.chunks_exact(whole.len() / wanted.whole_count).nth(at));
        let sum = f64::from(statistics[1]) + f64::from(statistics[2]);
        Self {
            largest: statistics[0],
            log_sum: sum.ln(),
            broken: !sum.is_finite() || !statistics[0].is_finite() || statistics[3] != 0.0,
            top,
            logits: &logits[bounds],
            whole,
        }
    }

    /// Whether a logit was not a number: then nothing of the row means anything.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// The natural logarithm of the probability that belongs to a logit of this row.
    pub fn log_probability(&self, logit: f32) -> f32 {
        (f64::from(logit - self.largest) - self.log_sum) as f32
    }

    /// The likeliest tokens with their logits, best first.
    pub fn top(&self) -> impl Iterator<Item = (u32, f32)> + 'a {
        self.top.chunks_exact(2).map(|pair| (pair[1] as u32, pair[0]))
    }
}

/// The indices of the `k` largest values, largest first; of equal ones the lower index first.
pub fn top_k(values: &[f32], k: usize) -> Vec<u32> {
    let before = |&a: &u32, &b: &u32| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b));
    let mut best: Vec<u32> = (0..values.len() as u32).collect();
    if k == 0 {
        best.clear();
    } else if k < best.len() {
        best.select_nth_unstable_by(k - 1, before);
        best.truncate(k);
    }
    best.sort_unstable_by(before);
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(top: usize, tokens: &[u32]) -> Wanted<Vec<u32>> {
        Wanted {
            rows: 1,
            rows_padded: 1,
            top,
            tokens: tokens.to_vec(),
            token_count: tokens.len(),
            token_bounds: vec![0, tokens.len() as u32],
            whole: Vec::new(),
            whole_count: 0,
        }
    }

    #[test]
    fn top_k_is_sorted_and_breaks_ties_by_index() {
        let values = [0.5, 3.0, -1.0, 3.0, 2.0];
        for (k, expected) in [
            (0, vec![]),
            (1, vec![1]),
            (3, vec![1, 3, 4]),
            (5, vec![1, 3, 4, 0, 2]),
            (9, vec![1, 3, 4, 0, 2]),
        ] {
            assert_eq!(top_k(&values, k), expected, "k = {k}");
        }
    }

    #[test]
    fn probabilities_are_the_softmax_over_the_whole_row() {
        let (wanted, ln3) = (wanted(2, &[2]), 3.0f32.ln());
        // Of the logits 0, ln 3, 0; the sum is 1 + 2/3, in two parts.
        let summary = [ln3, 1.5, 1.0 / 6.0, 0.0, ln3, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(summary.len(), wanted.summary_len());
        let row = Row::of(&summary, &wanted, 0);
        let top: Vec<(u32, f32)> = row.top().collect();
        assert_eq!(top, [(1, ln3), (0, 0.0)]);
        assert_eq!(row.logits, [0.0]);
        let probability = |logit: f32| row.log_probability(logit).exp();
        assert!((probability(ln3) - 0.6).abs() < 1e-6 && (probability(0.0) - 0.2).abs() < 1e-6);
        assert!(!row.is_broken());
    }

    #[test]
    fn a_row_that_is_not_finite_is_broken() {
        let is_broken = |statistics: [f32; STATISTICS]| Row::of(&statistics, &wanted(0, &[]), 0).is_broken();
        assert!(!is_broken([0.0, 1.0, 0.0, 0.0]));
        for (place, bad) in [
            (0, f32::INFINITY),
            (0, f32::NEG_INFINITY),
            (1, f32::NAN),
            (2, f32::NAN),
            (3, 1.0),
        ] {
            let mut statistics = [0.0, 1.0, 0.0, 0.0];
            statistics[place] = bad;
            assert!(is_broken(statistics), "{statistics:?}");
        }
    }
}
