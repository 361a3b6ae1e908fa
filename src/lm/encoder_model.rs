//! An encoder on a backend as a [`MaskedLm`]: forward pass, readout of the logits, scores.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::backend::ExecutionError;
use burn::tensor::{Tensor, TensorData, Transaction, read_sync};

use super::batch::HEAD_ROWS_MAX;
use super::{Batch, MaskedLm, ModelError, PendingBatch, Scores, Select, TokenScore};
use crate::backend::summary::{self, Row};
use crate::backend::{BertBackend, Precision, Wanted};
use crate::checkpoint::{TensorError, TensorSource};
use crate::encoder::{Architecture, Encoder};

/// An encoder with its weights on one device of backend `B`.
pub struct EncoderModel<B: BertBackend> {
    encoder: Encoder<B>,
    vocab_size: usize,
    device: B::Device,
}

impl<B: BertBackend> MaskedLm for EncoderModel<B> {
    fn is_async(&self) -> bool {
        B::COMPUTES_BESIDE_HOST
    }

    fn submit(&mut self, batch: Batch) -> Result<PendingBatch, ModelError> {
        self.start(batch)
    }
}

impl<B: BertBackend> EncoderModel<B> {
    /// Reads the weights from `source`, tensor by tensor, and prepares them on `device` in `precision`.
    ///
    /// # Errors
    /// The first tensor that is missing, has another shape, or cannot be read.
    pub fn load(
        architecture: &Architecture,
        source: &mut dyn TensorSource,
        device: &B::Device,
        precision: Precision,
    ) -> Result<Self, TensorError> {
        Ok(Self {
            encoder: Encoder::load(architecture, source, device, precision)?,
            vocab_size: architecture.spec.vocab_size,
            device: device.clone(),
        })
    }

    /// Hidden states of the last layer at the batch's readout rows, `[readout rows, hidden]`.
    ///
    /// # Panics
    /// If the batch has no readout row.
    pub fn readout_states(&self, batch: Batch) -> Tensor<B, 2> {
        let lists = batch.into_lists(self.vocab_size, B::TOP_MAX, B::rows_computed);
        self.encoder.readout_states(&B::upload(lists, &self.device))
    }

    /// Logits over the vocabulary, `[rows, vocab_size]`, of hidden states `[rows, hidden]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.encoder.logits(hidden)
    }

    /// [`MaskedLm::submit`], which several workers may call at once: the model does not change.
    pub(super) fn start(&self, batch: Batch) -> Result<PendingBatch, ModelError> {
        let counts = batch.readout_counts();
        let selects = batch.row_selects();
        if selects.is_empty() {
            return Ok(PendingBatch::ready(vec![Vec::new(); counts.len()]));
        }
        let lists = batch.into_lists(self.vocab_size, B::TOP_MAX, B::rows_computed);
        let asked = lists.wanted.clone();
        let lists = B::upload(lists, &self.device);
        let states = self.encoder.readout_states(&lists);
        let [_, hidden] = states.dims();
        let mut answers = Vec::with_capacity(selects.len());
        let (mut first, mut read_parts, mut unread, mut whole_rows) = (0, 0, Vec::new(), 0);
        for (part, wanted) in lists.wanted.iter().enumerate() {
            let rows = first..first + wanted.rows_padded;
            first = rows.end;
            let states = match lists.wanted.len() {
                1 => states.clone(),
                _ => states.clone().slice([rows, 0..hidden]),
            };
            let logits = self.encoder.logits(states);
            let whole = match wanted.whole_count {
                0 => None,
                _ => Some(B::select_rows(&logits, &wanted.whole).flatten(0, 1)),
            };
            unread.push(B::summarize(logits, wanted));
            unread.extend(whole);
            whole_rows += wanted.whole_count;
            // One read, whatever the number of parts; but at most as many full rows at once as logits are computed at once.
            let next = asked.get(part + 1);
            if next.is_some_and(|next| whole_rows + next.whole_count > HEAD_ROWS_MAX) {
                let numbers = Reading::begin(std::mem::take(&mut unread)).end()?;
                let parts = &asked[read_parts..=part];
                answers.extend(scores(&numbers, parts, self.vocab_size, &selects[answers.len()..])?);
                (read_parts, whole_rows) = (part + 1, 0);
            }
        }
        let (reading, vocab_size) = (Reading::begin(unread), self.vocab_size);
        Ok(PendingBatch::new(move || {
            let parts = &asked[read_parts..];
            answers.extend(scores(&reading.end()?, parts, vocab_size, &selects[answers.len()..])?);
            Ok(by_sequence(answers, &counts))
        }))
    }
}

/// The scores of all readout rows, sequence by sequence.
fn by_sequence(rows: Vec<Vec<TokenScore>>, counts: &[usize]) -> Vec<Scores> {
    let mut rows = rows.into_iter();
    counts
        .iter()
        .map(|&count| rows.by_ref().take(count).collect())
        .collect()
}

type Read = Result<Vec<TensorData>, ExecutionError>;

/// A read from the device, which its queue holds before any computation that is submitted later.
enum Reading {
    Running(Pin<Box<dyn Future<Output = Read>>>),
    Done(Read),
}

impl Reading {
    fn begin<B: BertBackend>(tensors: Vec<Tensor<B, 1>>) -> Self {
        let all = tensors.into_iter().fold(Transaction::default(), Transaction::register);
        let mut running = Box::pin(all.execute_async());
        // The first poll queues the read.
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => Self::Done(read),
            Poll::Pending => Self::Running(running),
        }
    }

    /// The tensors end to end. They are joined here, because a device would compile a kernel for each size.
    fn end(self) -> Result<Vec<f32>, ModelError> {
        let read = match self {
            Self::Running(running) => read_sync(running),
            Self::Done(read) => read,
        };
        let mut all = Vec::new();
        for data in read.map_err(|e| ModelError::Readback(e.to_string()))? {
            let numbers = data.into_vec::<f32>();
            let mut numbers = numbers.map_err(|e| ModelError::Readback(format!("{e:?}")))?;
            match all.is_empty() {
                true => all = numbers,
                false => all.append(&mut numbers),
            }
        }
        Ok(all)
    }
}

/// The scores of the rows of `parts`, out of `numbers` that were read of them, end to end; `selects` says what each row selects.
fn scores(
    mut numbers: &[f32],
    parts: &[Wanted<Vec<u32>>],
    vocab_size: usize,
    selects: &[Select],
) -> Result<Vec<Vec<TokenScore>>, ModelError> {
    let (mut answers, mut selects) = (Vec::new(), selects.iter());
    for wanted in parts {
        let (of_part, rest) = numbers
            .split_at_checked(wanted.summary_len() + wanted.whole_count * vocab_size)
            .ok_or_else(|| ModelError::Readback("it is shorter than it should be".to_owned()))?;
        numbers = rest;
        for (row, select) in selects.by_ref().take(wanted.rows).enumerate() {
            answers.push(score(&Row::of(of_part, wanted, row), select)?);
        }
    }
    Ok(answers)
}

/// The softmax of one row at the selected tokens.
fn score(row: &Row<'_>, select: &Select) -> Result<Vec<TokenScore>, ModelError> {
    if row.is_broken() {
        return Err(ModelError::NotFinite);
    }
    let score = |(token, logit): (u32, f32)| TokenScore {
        token,
        log_prob: row.log_probability(logit),
    };
    Ok(match select {
        Select::Tokens(tokens) => tokens
            .iter()
            .copied()
            .zip(row.logits.iter().copied())
            .map(score)
            .collect(),
        Select::TopK(k) => match row.whole {
            None => row.top().take(*k).map(score).collect(),
            Some(logits) => {
                let tokens = summary::top_k(logits, *k).into_iter();
                tokens.map(|token| score((token, logits[token as usize]))).collect()
            }
        },
    })
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::lm::Sequence;

    fn batch(selects: &[Select]) -> Batch {
        let mut batch = Batch::default();
        for select in selects {
            batch.push(&Sequence::new([4], [0], select.clone()));
        }
        batch
    }

    /// The scores of readout rows with these logits and selections.
    fn answers(logits: &[[f32; 4]], selects: &[Select], top_max: usize) -> Vec<Vec<TokenScore>> {
        let wanted = batch(selects).into_lists(4, top_max, |rows| rows).wanted;
        let rows = logits.chunks(wanted[0].rows);
        let numbers = rows.zip(&wanted).flat_map(|(rows, wanted)| {
            let logits = Tensor::<Cpu, 2>::from_data(
                TensorData::new(rows.as_flattened().to_vec(), [rows.len(), 4]),
                &Default::default(),
            );
            let mut numbers = Cpu::summarize(logits, wanted).into_data().into_vec().unwrap();
            numbers.extend(wanted.whole.iter().flat_map(|&row| rows[row as usize]));
            numbers
        });
        let numbers: Vec<f32> = numbers.collect();
        scores(&numbers, &wanted, 4, selects).unwrap()
    }

    #[test]
    fn each_row_gets_what_it_selects_however_it_was_found() {
        let logits = [[0.0, 3.0f32.ln(), 0.0, 0.0], [0.0, 0.0, 0.0, 7.0f32.ln()]];
        for top_max in [1, 2, 4] {
            let selects = [Select::TopK(2), Select::Tokens([3, 0].into())];
            let answers = answers(&logits, &selects, top_max);
            let tokens = |row: usize| answers[row].iter().map(|score| score.token).collect::<Vec<_>>();
            assert_eq!(
                (tokens(0), tokens(1)),
                (vec![1, 0], vec![3, 0]),
                "{top_max} on the device"
            );
            for (row, scores) in [[0.5, 1.0 / 6.0], [0.7, 0.1]].into_iter().enumerate() {
                for (answer, score) in answers[row].iter().zip(scores) {
                    assert!(
                        (answer.probability() - score).abs() < 1e-6,
                        "{top_max} on the device: {answers:?}"
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
    fn a_summary_that_is_cut_off_or_broken_is_no_answer() {
        let selects = [Select::TopK(1)];
        let wanted = batch(&selects).into_lists(4, 64, |rows| rows).wanted;
        let of = |numbers: &[f32]| scores(numbers, &wanted, 4, &selects);
        assert!(of(&[0.0, 1.0, 0.0, 0.0, 0.0, 2.0]).is_ok());
        assert!(matches!(of(&[0.0, 1.0, 0.0, 0.0, 0.0]), Err(ModelError::Readback(_))));
        assert_eq!(of(&[0.0, 1.0, 0.0, 1.0, 0.0, 2.0]), Err(ModelError::NotFinite));
    }
}
