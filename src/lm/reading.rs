//! The readout of a forward pass: reads from the device, and scores from the numbers that were read.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn::backend::{ExecutionError, read_sync};
use burn::tensor::TensorData;

use super::batch::{HEAD_ROWS_MAX, RowSelect};
use super::{ModelError, Scores, Select, TokenScore};
use crate::backend::readout::{LogitsRow, top_k};
use crate::backend::{EncoderBackend, ReadoutSpec, Tensor, read};

/// Consecutive chunks that are read at once: all of them, but at most as many full rows as logits are computed at once.
pub fn chunk_groups(specs: &[ReadoutSpec]) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut full_rows = 0;
    for (chunk, spec) in specs.iter().enumerate() {
        full_rows += spec.full_rows.len();
        match groups.last_mut() {
            Some(group) if full_rows <= HEAD_ROWS_MAX => group.end = chunk + 1,
            _ => {
                full_rows = spec.full_rows.len();
                groups.push(chunk..chunk + 1);
            }
        }
    }
    groups
}

/// The scores of all readout rows, sequence by sequence.
pub fn by_sequence(rows: Vec<Vec<TokenScore>>, counts: &[usize]) -> Vec<Scores> {
    let mut rows = rows.into_iter();
    counts
        .iter()
        .map(|&count| rows.by_ref().take(count).collect())
        .collect()
}

type Read = Result<Vec<TensorData>, ExecutionError>;

/// A read from the device, which its queue holds before any computation that is submitted later.
pub enum Reading {
    Running(Pin<Box<dyn Future<Output = Read>>>),
    Done(Read),
}

impl Reading {
    pub fn start<B: EncoderBackend>(tensors: Vec<Tensor<B, 1>>) -> Self {
        if tensors.is_empty() {
            return Self::Done(Ok(Vec::new()));
        }
        let mut running = Box::pin(read(tensors));
        // The first poll queues the read.
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => Self::Done(read),
            Poll::Pending => Self::Running(running),
        }
    }

    /// The tensors end to end. They are joined here, because a device would compile a kernel for each size.
    pub fn wait(self) -> Result<Vec<f32>, ModelError> {
        let read = match self {
            Self::Running(running) => read_sync(running),
            Self::Done(read) => read,
        };
        let mut all = Vec::new();
        for data in read.map_err(|e| ModelError::Readback(e.to_string()))? {
            let numbers = data.try_into_vec_as::<f32>();
            let mut numbers = numbers.map_err(|e| ModelError::Readback(e.to_string()))?;
            match all.is_empty() {
                true => all = numbers,
                false => all.append(&mut numbers),
            }
        }
        Ok(all)
    }
}

/// The scores of the rows of `specs`, from the `numbers` that were read of them, end to end; `selects` has one
/// entry for each row.
pub fn scores(
    mut numbers: &[f32],
    specs: &[ReadoutSpec],
    vocab_size: usize,
    selects: &[RowSelect],
) -> Result<Vec<Vec<TokenScore>>, ModelError> {
    let mut answers = Vec::new();
    for (spec, selects) in specs.iter().zip(selects.chunks(HEAD_ROWS_MAX)) {
        if spec.rows == 0 {
            answers.extend(selects.iter().map(|_| Vec::new()));
            continue;
        }
        let (of_chunk, rest) = numbers
            .split_at_checked(spec.numbers() + spec.full_rows.len() * vocab_size)
            .ok_or_else(|| ModelError::Readback("it is shorter than it should be".to_owned()))?;
        numbers = rest;
        for (row, select) in selects.iter().enumerate() {
            answers.push(score(&LogitsRow::new(of_chunk, spec, row), select)?);
        }
    }
    Ok(answers)
}

/// The softmax of one row at the selected tokens, and at the row's own token after them.
fn score(row: &LogitsRow<'_>, RowSelect { select, own }: &RowSelect) -> Result<Vec<TokenScore>, ModelError> {
    if !row.is_finite() {
        return Err(ModelError::NotFinite);
    }
    let score = |(token, logit): (u32, f32)| TokenScore {
        token,
        log_prob: row.log_probability(logit),
    };
    let mut scores: Vec<TokenScore> = match select {
        Select::Tokens(tokens) => tokens
            .iter()
            .copied()
            .zip(row.token_logits.iter().copied())
            .map(score)
            .collect(),
        Select::Pool(_) => Vec::new(),
        Select::TopK(k) => match row.full {
            None => row.top().take(*k).map(score).collect(),
            Some(logits) => {
                let tokens = top_k(logits, *k).into_iter();
                tokens.map(|token| score((token, logits[token as usize]))).collect()
            }
        },
    };
    let own = own.zip(row.token_logits.last().copied());
    scores.extend(own.map(score));
    Ok(scores)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::backend::ForwardInputs;
    use crate::backend::cpu::Cpu;
    use crate::encoder::PositionRule;
    use crate::lm::{Batch, Sequence};

    /// Inputs of sequences with one readout row each.
    fn inputs(selects: &[Select], top_k_max: usize) -> ForwardInputs {
        let mut batch = Batch::default();
        for select in selects {
            batch.push(&Sequence::new([4], [0], select.clone()));
        }
        batch.padded(top_k_max, PositionRule::Index, |rows| rows)
    }

    fn row_selects(selects: &[Select]) -> Vec<RowSelect> {
        selects.iter().cloned().map(RowSelect::from).collect()
    }

    /// The scores of readout rows with these logits and selections.
    fn answers(logits: &[[f32; 4]], selects: &[Select], top_k_max: usize) -> Vec<Vec<TokenScore>> {
        let inputs = inputs(selects, top_k_max);
        let rows = logits.chunks(inputs.readouts[0].rows);
        let numbers = rows
            .zip(&inputs.readouts)
            .enumerate()
            .flat_map(|(chunk, (rows, spec))| {
                let logits = Tensor::<Cpu, 2>::from_data(
                    TensorData::new(rows.as_flattened().to_vec(), [rows.len(), 4]),
                    &Default::default(),
                );
                let mut numbers = Cpu::read_logits(logits, &inputs, chunk).into_vec().unwrap();
                numbers.extend(spec.full_rows.iter().flat_map(|&row| rows[row as usize]));
                numbers
            });
        let numbers: Vec<f32> = numbers.collect();
        scores(&numbers, &inputs.readouts, 4, &row_selects(selects)).unwrap()
    }

    #[test]
    fn each_row_gets_what_it_selects_however_it_was_found() {
        let logits = [[0.0, 3.0f32.ln(), 0.0, 0.0], [0.0, 0.0, 0.0, 7.0f32.ln()]];
        for top_k_max in [1, 2, 4] {
            let selects = [Select::TopK(2), Select::Tokens([3, 0].into())];
            let answers = answers(&logits, &selects, top_k_max);
            let tokens = |row: usize| answers[row].iter().map(|score| score.token).collect::<Vec<_>>();
            assert_eq!(
                (tokens(0), tokens(1)),
                (vec![1, 0], vec![3, 0]),
                "{top_k_max} on the device"
            );
            for (row, scores) in [[0.5, 1.0 / 6.0], [0.7, 0.1]].into_iter().enumerate() {
                for (answer, score) in answers[row].iter().zip(scores) {
                    assert!(
                        (answer.probability() - score).abs() < 1e-6,
                        "{top_k_max} on the device: {answers:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn many_rows_are_answered_in_order() {
        // More than one part: each row's most probable token says which it is.
        let logits: Vec<[f32; 4]> = (0..150)
            .map(|mask| std::array::from_fn(|token| if token == mask % 4 { 9.0 } else { 0.0 }))
            .collect();
        let answers = answers(&logits, &vec![Select::TopK(1); 150], 64);
        let tokens: Vec<usize> = answers.iter().map(|scores| scores[0].token as usize).collect();
        assert_eq!(tokens, (0..150).map(|mask| mask % 4).collect::<Vec<_>>());
    }

    #[test]
    fn a_readout_that_is_cut_off_or_not_finite_is_an_error() {
        let selects = [Select::TopK(1)];
        let inputs = inputs(&selects, 64);
        let of = |numbers: &[f32]| scores(numbers, &inputs.readouts, 4, &row_selects(&selects));
        assert!(of(&[0.0, 1.0, 0.0, 0.0, 0.0, 2.0]).is_ok());
        assert!(matches!(of(&[0.0, 1.0, 0.0, 0.0, 0.0]), Err(ModelError::Readback(_))));
        assert_eq!(of(&[0.0, 1.0, 0.0, 1.0, 0.0, 2.0]), Err(ModelError::NotFinite));
    }

    #[test]
    fn full_rows_are_read_in_groups_of_bounded_size() {
        let specs = |counts: &[usize]| -> Vec<ReadoutSpec> {
            let spec = |&count: &usize| ReadoutSpec {
                full_rows: vec![0; count],
                ..inputs(&[Select::TopK(1)], 64).readouts.remove(0)
            };
            counts.iter().map(spec).collect()
        };
        assert_eq!(chunk_groups(&specs(&[0, 0, 0])), std::slice::from_ref(&(0..3)));
        assert_eq!(chunk_groups(&specs(&[40, 24, 0, 1, 64, 64])), [0..3, 3..4, 4..5, 5..6]);
    }
}
