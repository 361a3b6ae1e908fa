//! Statistics of logits, and the largest of them.

use cloze_kernels::summarize_logits;
use cloze_test_values::random;

use super::{contexts, pools};

#[test]
fn summaries_of_logits() {
    let pools = pools();
    for (rows, columns) in [
        (0, 5),
        (1, 1),
        (4, 15),
        (4, 16),
        (5, 64),
        (4, 65),
        (1, 300),
        (3, 1000),
        (2, 30_522),
    ] {
        // Few values, so that many are equal.
        let mut logits = random(rows * columns, 10);
        logits
            .iter_mut()
            .for_each(|logit| *logit = (*logit * 100.0).round() / 8.0);
        for top in [0, 1, 5, 64, 300] {
            let top = columns.min(top);
            let mut expected = Vec::new();
            for row in logits.chunks_exact(columns) {
                let mut sorted: Vec<(usize, f32)> = row.iter().copied().enumerate().collect();
                // Stable: of equal ones the first stays first.
                sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
                let largest = sorted[0].1;
                let sum: f64 = row.iter().map(|logit| f64::from(logit - largest).exp()).sum();
                let pairs = sorted[..top].iter().flat_map(|&(index, logit)| [logit, index as f32]);
                expected.push((largest, sum, pairs.collect::<Vec<f32>>()));
            }
            let len = 4 + 2 * top;
            for context in contexts(&pools) {
                let case = format!("{} {rows} rows of {columns}, the {top} largest", context.isa);
                let mut summaries = vec![f32::NAN; rows * len];
                summarize_logits(context, &logits, columns, top, &mut summaries);
                for (summary, (largest, sum, pairs)) in summaries.chunks_exact(len).zip(&expected) {
                    assert_eq!((summary[0], summary[3]), (*largest, 0.0), "{case}");
                    assert_eq!(&summary[4..], pairs, "{case}");
                    let ours = f64::from(summary[1]) + f64::from(summary[2]);
                    assert!((ours / sum - 1.0).abs() < 5e-7, "{case}: {ours}, not {sum}");
                }
            }
        }
    }
}

#[test]
fn logits_that_are_not_finite_are_counted() {
    let pools = pools();
    for context in contexts(&pools) {
        for (bad, count) in [
            (f32::NAN, 2.0),
            (-f32::NAN, 2.0),
            (f32::INFINITY, 2.0),
            (f32::NEG_INFINITY, 0.0),
        ] {
            for top in [0, 3] {
                let mut logits = random(2 * 100, 11);
                (logits[7], logits[99]) = (bad, bad);
                let mut summaries = vec![0.0; 2 * (4 + 2 * top)];
                summarize_logits(context, &logits, 100, top, &mut summaries);
                let (first, second) = summaries.split_at(4 + 2 * top);
                assert_eq!((first[3], second[3]), (count, 0.0), "{} {bad}", context.isa);
                assert_eq!(first[1].is_finite(), count == 0.0, "{} {bad}: {first:?}", context.isa);
                assert!(second.iter().all(|number| number.is_finite()));
            }
        }
    }
}
