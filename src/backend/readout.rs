//! Readout of logits: the numbers that a device returns in place of whole rows of the vocabulary.
//!
//! The readout of a chunk is a flat list of f32:
//!
//! - for each row: the largest logit; the sum of `exp(logit - largest)` in two summands, the second what the first lost
//!   by rounding; the count of logits that are NaN or infinite; then, best first, `top_k` pairs of logit and token id;
//! - after all rows: the logits of the tokens in [`ReadoutSpec::token_ids`];
//! - after these: the logits of [`ReadoutSpec::full_rows`], which are read separately.
//!
//! A token id is exact in f32 below 2²⁴, which is more than a vocabulary may have.

use super::ReadoutSpec;

/// Numbers of a row before its most probable tokens.
pub const STATISTICS: usize = 4;

/// Numbers of a row with its `top_k` most probable tokens.
pub const fn row_len(top_k: usize) -> usize {
    STATISTICS + 2 * top_k
}

impl ReadoutSpec {
    /// Numbers of the readout, without the rows that are read in full.
    pub fn numbers(&self) -> usize {
        self.rows * row_len(self.top_k) + self.token_ids.len()
    }
}

/// The softmax of one row, as far as it was read.
#[derive(Clone, Copy, Debug)]
pub struct LogitsRow<'a> {
    largest: f32,
    /// Natural logarithm of the sum of `exp(logit - largest)`.
    log_sum: f64,
    finite: bool,
    top: &'a [f32],
    /// The logits of the row's tokens in [`ReadoutSpec::token_ids`].
    pub token_logits: &'a [f32],
    /// The logits of the whole vocabulary, if the row is read in full.
    pub full: Option<&'a [f32]>,
}

impl<'a> LogitsRow<'a> {
    /// Row `row` of the readout of `spec`, with the rows that are read in full after it.
    pub fn new(numbers: &'a [f32], spec: &ReadoutSpec, row: usize) -> Self {
        let len = row_len(spec.top_k);
        let (statistics, top) = numbers[row * len..(row + 1) * len].split_at(STATISTICS);
        let (readout, full_rows) = numbers.split_at(spec.numbers());
        let token_logits = &readout[spec.rows * len..];
        let tokens = spec.row_offsets[row] as usize..spec.row_offsets[row + 1] as usize;
        let full = spec.full_rows.binary_search(&(row as u32)).ok();
        let full = full.and_then(|at| full_rows.chunks_exact(full_rows.len() / spec.full_rows.len()).nth(at));
        let sum = f64::from(statistics[1]) + f64::from(statistics[2]);
        Self {
            largest: statistics[0],
            log_sum: sum.ln(),
            finite: sum.is_finite() && statistics[0].is_finite() && statistics[3] == 0.0,
            top,
            token_logits: &token_logits[tokens],
            full,
        }
    }

    /// False if a logit was NaN or infinite: then nothing of the row has a meaning.
    pub fn is_finite(&self) -> bool {
        self.finite
    }

    /// The natural logarithm of the probability that belongs to a logit of this row.
    pub fn log_probability(&self, logit: f32) -> f32 {
        (f64::from(logit - self.largest) - self.log_sum) as f32
    }

    /// The most probable tokens with their logits, best first.
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

    fn spec(top_k: usize, token_ids: &[u32]) -> ReadoutSpec {
        ReadoutSpec {
            rows: 1,
            padded_rows: 1,
            top_k,
            token_ids: token_ids.to_vec(),
            row_offsets: vec![0, token_ids.len() as u32],
            full_rows: Vec::new(),
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
        let (spec, ln3) = (spec(2, &[2]), 3.0f32.ln());
        // Of the logits 0, ln 3, 0; the sum is 1 + 2/3, in two parts.
        let numbers = [ln3, 1.5, 1.0 / 6.0, 0.0, ln3, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(numbers.len(), spec.numbers());
        let row = LogitsRow::new(&numbers, &spec, 0);
        let top: Vec<(u32, f32)> = row.top().collect();
        assert_eq!(top, [(1, ln3), (0, 0.0)]);
        assert_eq!(row.token_logits, [0.0]);
        let probability = |logit: f32| row.log_probability(logit).exp();
        assert!((probability(ln3) - 0.6).abs() < 1e-6 && (probability(0.0) - 0.2).abs() < 1e-6);
        assert!(row.is_finite());
    }

    #[test]
    fn a_row_with_a_logit_that_is_not_finite_is_known() {
        let is_finite = |statistics: [f32; STATISTICS]| LogitsRow::new(&statistics, &spec(0, &[]), 0).is_finite();
        assert!(is_finite([0.0, 1.0, 0.0, 0.0]));
        for (place, bad) in [
            (0, f32::INFINITY),
            (0, f32::NEG_INFINITY),
            (1, f32::NAN),
            (2, f32::NAN),
            (3, 1.0),
        ] {
            let mut statistics = [0.0, 1.0, 0.0, 0.0];
            statistics[place] = bad;
            assert!(!is_finite(statistics), "{statistics:?}");
        }
    }
}
