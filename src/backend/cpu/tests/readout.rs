//! The readout of logits.

use super::*;

/// A readout of `top_k` tokens of each row, and of as many given tokens as the row's index says, spread over the
/// vocabulary.
fn spec(rows: usize, vocab: usize, top_k: usize) -> ReadoutSpec {
    let of_row = |row: usize| (0..row).map(move |index| (index * (vocab - 1) / row.max(2).next_multiple_of(2)) as u32);
    let offsets = (0..=rows).map(|row| (0..row).sum::<usize>() as u32);
    ReadoutSpec {
        rows,
        padded_rows: rows,
        top_k,
        token_ids: (0..rows).flat_map(of_row).collect(),
        row_offsets: offsets.collect(),
        full_rows: Vec::new(),
    }
}

#[test]
fn readout_of_logits() {
    let computes = computes();
    for vocab in [1, 2, 15, 17, 63, 64, 65, 100, 257, 1000, 30_522] {
        for rows in [1, 2, 5] {
            // A softmax that is almost even and one that is not.
            for spread in [1.0, 40.0] {
                let logits = matrix(rows, vocab, 10) * spread;
                for top_k in [0, 1, 5, TOP_K_MAX] {
                    let spec = spec(rows, vocab, top_k.min(vocab));
                    let expected = reference::read_logits(logits.clone(), &spec).into_vec().unwrap();
                    for context in contexts(&computes) {
                        let case = format!("{} {rows} rows of {vocab}, times {spread}, {top_k}", context.isa);
                        let readout = read_logits(context, logits.clone(), &spec).into_vec().unwrap();
                        assert_eq!(readout.len(), expected.len(), "{case}");
                        let len = row_len(spec.top_k);
                        let (ours, tokens) = readout.split_at(rows * len);
                        let (plain, tokens_plain) = expected.split_at(rows * len);
                        for (row, (ours, plain)) in ours.chunks(len).zip(plain.chunks(len)).enumerate() {
                            assert_eq!((ours[0], ours[3]), (plain[0], plain[3]), "{case}, row {row}");
                            let (sum, sum_plain) = (ours[1] + ours[2], plain[1] + plain[2]);
                            // Plain Burn sums in f32; the kernel's own tests compare its sum with one in f64.
                            assert!((sum / sum_plain - 1.0).abs() < 2e-5, "{case}: {sum}, not {sum_plain}");
                            assert_eq!(ours[STATISTICS..], plain[STATISTICS..], "{case}, row {row}");
                        }
                        assert_eq!(tokens, tokens_plain, "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_with_a_logit_that_is_not_finite_is_known_and_no_other() {
    let computes = computes();
    for vocab in [1, 16, 70, 1000] {
        let spec = spec(3, vocab, 1);
        // A value in the row between two good ones; a single -infinity is a token of probability 0.
        for (bad, everywhere) in [
            (f32::NAN, false),
            (f32::NAN, true),
            (f32::INFINITY, false),
            (f32::INFINITY, true),
            (f32::NEG_INFINITY, true),
            (f32::NEG_INFINITY, false),
        ] {
            for place in [0, vocab / 2, vocab - 1] {
                let mut logits = random(3 * vocab, 11);
                match everywhere {
                    true => logits[vocab..2 * vocab].fill(bad),
                    false => logits[vocab + place] = bad,
                }
                let logits = tensor(logits, 3, vocab);
                let are_finite = |readout: Tensor<Cpu, 1>| {
                    let readout = readout.into_vec().unwrap();
                    [0, 1, 2].map(|row| LogitsRow::new(&readout, &spec, row).is_finite())
                };
                let is_possible = bad == f32::NEG_INFINITY && !everywhere && vocab > 1;
                let expected = [true, is_possible, true];
                let case = format!("{bad} of {vocab}, everywhere {everywhere}, at {place}");
                assert_eq!(
                    are_finite(reference::read_logits(logits.clone(), &spec)),
                    expected,
                    "reference: {case}"
                );
                for context in contexts(&computes) {
                    let ours = are_finite(read_logits(context, logits.clone(), &spec));
                    assert_eq!(ours, expected, "{}: {case}", context.isa);
                }
            }
        }
    }
}
