//! What is kept of logits, so that a device gives back some numbers and not whole rows of the vocabulary.
//!
//! A summary is a flat list of f32. For each row: the largest logit, the sum of `exp(logit - largest)` in two parts of
//! which the second is what the first lost by rounding, how many logits are NaN or infinite, and then, best
//! first, pairs of a logit and its token. After all rows come the logits of the tokens that were asked for; behind the
//! summary may come rows of logits as they are. A token's id is exact in f32 below 2²⁴, which is more than a vocabulary may have.

use super::Wanted;

/// Numbers of a row before its likeliest tokens.
pub const STATISTICS: usize = 4;

/// Likeliest tokens that a row in the host's memory tells at most. All rows of a batch tell as many as the greediest
/// asks for, so there is an end to it.
pub const HOST_TOP_MAX: usize = 64;

/// Numbers of a row with its `top` likeliest tokens.
pub const fn row_len(top: usize) -> usize {
    STATISTICS + 2 * top
}

/// The softmax of one row, as far as it was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    largest: f32,
    sum: f64,
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
            sum,
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

    /// The probability that belongs to a logit of this row.
    pub fn probability(&self, logit: f32) -> f32 {
        (f64::from(logit - self.largest).exp() / self.sum) as f32
    }

    /// The likeliest tokens with their logits, best first.
    pub fn top(&self) -> impl Iterator<Item = (u32, f32)> + 'a {
        self.top.chunks_exact(2).map(|pair| (pair[1] as u32, pair[0]))
    }
}

/// The summary of logits that lie in the host's memory, rows of `columns`. The sum runs in f64: over tens of thousands
/// of small terms f32 would lose the last digits.
pub fn on_host(logits: &[f32], columns: usize, wanted: &Wanted<Vec<u32>>) -> Vec<f32> {
    let mut summary = Vec::with_capacity(wanted.summary_len());
    let rows = || logits.chunks_exact(columns).take(wanted.rows);
    for row in rows() {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // A NaN anywhere makes the sum NaN, an infinite logit makes it NaN too (inf - inf).
        let sum: f64 = row.iter().map(|&logit| f64::from((logit - largest).exp())).sum();
        summary.extend([largest, sum as f32, (sum - f64::from(sum as f32)) as f32, 0.0]);
        for token in top_k(row, wanted.top) {
            summary.extend([row[token as usize], token as f32]);
        }
    }
    for (row, bounds) in rows().zip(wanted.token_bounds.windows(2)) {
        let tokens = &wanted.tokens[bounds[0] as usize..bounds[1] as usize];
        summary.extend(tokens.iter().map(|&token| row[token as usize]));
    }
    summary
}

/// The indices of the `k` largest values, largest first; of equal ones the lower index first.
pub fn top_k(values: &[f32], k: usize) -> Vec<u32> {
    let before = |&a: &u32, &b: &u32| values[b as usize].total_cmp(&values[a as usize]).then(a.cmp(&b));
    let mut best: Vec<u32>;
    if k <= HOST_TOP_MAX {
        // One pass: next to no value is among the best so far, and those that are move few others.
        best = Vec::with_capacity(k + 1);
        let mut worst = f32::NEG_INFINITY;
        for (index, &value) in values.iter().enumerate() {
            if best.len() < k || value > worst || value.is_nan() {
                let index = index as u32;
                let at = best.partition_point(|other| before(other, &index).is_lt());
                best.insert(at, index);
                best.truncate(k);
                worst = best.last().map_or(f32::INFINITY, |&last| values[last as usize]);
            }
        }
    } else {
        best = (0..values.len() as u32).collect();
        if k < best.len() {
            best.select_nth_unstable_by(k - 1, before);
            best.truncate(k);
        }
        best.sort_unstable_by(before);
    }
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
    fn both_ways_of_finding_the_best_agree() {
        // Many ties, and as many values as need both ways.
        let values: Vec<f32> = (0..500u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as f32)
            .collect();
        let all = top_k(&values, values.len());
        for k in 0..=HOST_TOP_MAX + 1 {
            assert_eq!(top_k(&values, k), all[..k], "k = {k}");
        }
    }

    #[test]
    fn probabilities_are_the_softmax_over_the_whole_row() {
        let (logits, wanted) = ([0.0, 3.0f32.ln(), 0.0], wanted(2, &[2]));
        let summary = on_host(&logits, 3, &wanted);
        assert_eq!(summary.len(), wanted.summary_len());
        let row = Row::of(&summary, &wanted, 0);
        let top: Vec<(u32, f32)> = row
            .top()
            .map(|(token, logit)| (token, row.probability(logit)))
            .collect();
        assert_eq!((top[0].0, top[1].0), (1, 0));
        assert!(
            (top[0].1 - 0.6).abs() < 1e-6 && (top[1].1 - 0.2).abs() < 1e-6,
            "{top:?}"
        );
        assert!((row.probability(row.logits[0]) - 0.2).abs() < 1e-6);
        assert!(!row.is_broken());
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let wanted = wanted(1, &[]);
        let summary = on_host(&[1000.0, 1000.0], 2, &wanted);
        let row = Row::of(&summary, &wanted, 0);
        let (_, logit) = row.top().next().unwrap();
        assert!((row.probability(logit) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn a_row_that_is_not_finite_is_broken() {
        let wanted = wanted(1, &[]);
        for bad in [[0.0, f32::NAN], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            let summary = on_host(&bad, 2, &wanted);
            assert!(Row::of(&summary, &wanted, 0).is_broken(), "{bad:?}");
        }
        let summary = on_host(&[0.0, f32::NEG_INFINITY], 2, &wanted);
        assert!(!Row::of(&summary, &wanted, 0).is_broken());
    }
}
