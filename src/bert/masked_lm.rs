//! The model as the layers above see it: a batch in, scores out, no backend in sight.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::backend::ExecutionError;
use burn::tensor::{Tensor, TensorData, Transaction, read_sync};

use crate::backend::summary::{self, Row};
use crate::backend::{BertBackend, Wanted};

use super::batch::{HEAD_ROWS_MAX, MaskQuery};
use super::{Bert, PackedBatch, Selection, TokenScore};

/// A model that fills in blanks.
pub trait MaskedLm: Send {
    /// For each mask of the batch, in order, the tokens it asked for with their probabilities.
    ///
    /// # Errors
    /// [`PredictError`] when the model's own output cannot be trusted.
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError>;

    /// Whether a device of its own computes, so that another batch can [begin](Self::begin) before the last one ends.
    fn computes_beside_host(&self) -> bool {
        false
    }

    /// Hands a batch to the device. Batches end in the order in which they began.
    ///
    /// # Errors
    /// As of [`predict`](Self::predict).
    fn begin(&mut self, batch: &PackedBatch) -> Result<Begun, PredictError> {
        let scores = self.predict(batch)?;
        Ok(Box::new(move || Ok(scores)))
    }
}

/// A batch that has begun: waits for its end and gives what [`MaskedLm::predict`] gives.
pub type Begun = Box<dyn FnOnce() -> Result<Vec<Vec<TokenScore>>, PredictError>>;

/// Why a batch has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// A logit was infinite or not a number: broken weights or a broken device.
    #[error("the model gave a value that is not a finite number")]
    NotFinite,
    /// The device's memory could not be read back.
    #[error("the result could not be read from the device: {0}")]
    Readback(String),
    /// The device is gone or broken, and with it the model on it.
    #[error("{0}")]
    Device(String),
}

impl PredictError {
    /// Whether no batch will ever be answered again.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Device(_))
    }
}

impl<B: BertBackend> MaskedLm for Bert<B> {
    fn predict(&mut self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        self.answer(batch)
    }

    fn computes_beside_host(&self) -> bool {
        B::COMPUTES_BESIDE_HOST
    }

    fn begin(&mut self, batch: &PackedBatch) -> Result<Begun, PredictError> {
        self.begin_answer(batch)
    }
}

impl<B: BertBackend> Bert<B> {
    /// What [`MaskedLm::predict`] says. Nothing in the model changes, so that several workers may ask it at once.
    pub(super) fn answer(&self, batch: &PackedBatch) -> Result<Vec<Vec<TokenScore>>, PredictError> {
        self.begin_answer(batch)?()
    }

    fn begin_answer(&self, batch: &PackedBatch) -> Result<Begun, PredictError> {
        let queries = batch.queries().to_vec();
        if queries.is_empty() {
            return Ok(Box::new(|| Ok(Vec::new())));
        }
        let lists = self.lists(batch);
        let asked = lists.wanted.clone();
        let lists = B::upload(lists, &self.device);
        let states = self.encode(&lists);
        let [_, hidden] = states.dims();
        let mut answers = Vec::with_capacity(queries.len());
        let (mut first, mut read_parts, mut unread, mut whole_rows) = (0, 0, Vec::new(), 0);
        for (part, wanted) in lists.wanted.iter().enumerate() {
            let rows = first..first + wanted.rows_padded;
            first = rows.end;
            let states = match lists.wanted.len() {
                1 => states.clone(),
                _ => states.clone().slice([rows, 0..hidden]),
            };
            let logits = self.logits(states);
            let whole = match wanted.whole_count {
                0 => None,
                _ => Some(B::select_rows(&logits, &wanted.whole).flatten(0, 1)),
            };
            unread.push(B::summarize(logits, wanted));
            unread.extend(whole);
            whole_rows += wanted.whole_count;
            // One read, whatever the number of parts; but no more whole rows at once than logits are anyway.
            let next = asked.get(part + 1);
            if next.is_some_and(|next| whole_rows + next.whole_count > HEAD_ROWS_MAX) {
                let numbers = Reading::begin(std::mem::take(&mut unread)).end()?;
                let parts = &asked[read_parts..=part];
                answers.extend(scores(&numbers, parts, self.vocab_size, &queries[answers.len()..])?);
                (read_parts, whole_rows) = (part + 1, 0);
            }
        }
        let (reading, vocab_size) = (Reading::begin(unread), self.vocab_size);
        Ok(Box::new(move || {
            let parts = &asked[read_parts..];
            answers.extend(scores(&reading.end()?, parts, vocab_size, &queries[answers.len()..])?);
            Ok(answers)
        }))
    }
}

type Read = Result<Vec<TensorData>, ExecutionError>;

/// A read from the device that stands in its queue, before whatever it is told to compute after.
enum Reading {
    Running(Pin<Box<dyn Future<Output = Read>>>),
    Done(Read),
}

impl Reading {
    /// Of all tensors.
    fn begin<B: BertBackend>(tensors: Vec<Tensor<B, 1>>) -> Self {
        let all = tensors.into_iter().fold(Transaction::default(), Transaction::register);
        let mut running = Box::pin(all.execute_async());
        // Nothing is queued before somebody asks for the first time.
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => Self::Done(read),
            Poll::Pending => Self::Running(running),
        }
    }

    /// End to end. They are put together here: a device would compile something for each size.
    fn end(self) -> Result<Vec<f32>, PredictError> {
        let read = match self {
            Self::Running(running) => read_sync(running),
            Self::Done(read) => read,
        };
        let mut all = Vec::new();
        for data in read.map_err(|e| PredictError::Readback(e.to_string()))? {
            let numbers = data.into_vec::<f32>();
            let mut numbers = numbers.map_err(|e| PredictError::Readback(format!("{e:?}")))?;
            match all.is_empty() {
                true => all = numbers,
                false => all.append(&mut numbers),
            }
        }
        Ok(all)
    }
}

/// The scores that the first of `queries` asked for, as many as `parts` have rows, out of what was read of these, end to end.
fn scores(
    mut numbers: &[f32],
    parts: &[Wanted<Vec<u32>>],
    vocab_size: usize,
    queries: &[MaskQuery],
) -> Result<Vec<Vec<TokenScore>>, PredictError> {
    let (mut answers, mut queries) = (Vec::new(), queries.iter());
    for wanted in parts {
        let (of_part, rest) = numbers
            .split_at_checked(wanted.summary_len() + wanted.whole_count * vocab_size)
            .ok_or_else(|| PredictError::Readback("it is shorter than it should be".to_owned()))?;
        numbers = rest;
        for (row, query) in queries.by_ref().take(wanted.rows).enumerate() {
            answers.push(score(&Row::of(of_part, wanted, row), &query.selection)?);
        }
    }
    Ok(answers)
}

/// The softmax of one row at the selected tokens.
fn score(row: &Row<'_>, selection: &Selection) -> Result<Vec<TokenScore>, PredictError> {
    if row.is_broken() {
        return Err(PredictError::NotFinite);
    }
    let score = |(token, logit): (u32, f32)| TokenScore {
        token,
        score: row.probability(logit),
    };
    Ok(match selection {
        Selection::Tokens(tokens) => tokens
            .iter()
            .copied()
            .zip(row.logits.iter().copied())
            .map(score)
            .collect(),
        Selection::TopK(k) => match row.whole {
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

    /// The scores of a batch whose masks have these logits and ask for this.
    fn answers(logits: &[[f32; 4]], selections: &[Selection], top_max: usize) -> Vec<Vec<TokenScore>> {
        let mut batch = PackedBatch::default();
        for selection in selections {
            batch.push(&[4], &[0], selection);
        }
        let wanted = batch.lists(4, top_max, |rows| rows).wanted;
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
        scores(&numbers, &wanted, 4, batch.queries()).unwrap()
    }

    #[test]
    fn each_mask_gets_what_it_asked_for_however_it_was_found() {
        let logits = [[0.0, 3.0f32.ln(), 0.0, 0.0], [0.0, 0.0, 0.0, 7.0f32.ln()]];
        for top_max in [1, 2, 4] {
            let selections = [Selection::TopK(2), Selection::Tokens([3, 0].into())];
            let answers = answers(&logits, &selections, top_max);
            let tokens = |row: usize| answers[row].iter().map(|score| score.token).collect::<Vec<_>>();
            assert_eq!(
                (tokens(0), tokens(1)),
                (vec![1, 0], vec![3, 0]),
                "{top_max} on the device"
            );
            for (row, scores) in [[0.5, 1.0 / 6.0], [0.7, 0.1]].into_iter().enumerate() {
                for (answer, score) in answers[row].iter().zip(scores) {
                    assert!(
                        (answer.score - score).abs() < 1e-6,
                        "{top_max} on the device: {answers:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn many_masks_are_answered_in_order() {
        // More than one part: each mask's likeliest token says which it is.
        let logits: Vec<[f32; 4]> = (0..150)
            .map(|mask| std::array::from_fn(|token| if token == mask % 4 { 9.0 } else { 0.0 }))
            .collect();
        let answers = answers(&logits, &vec![Selection::TopK(1); 150], 64);
        let tokens: Vec<usize> = answers.iter().map(|scores| scores[0].token as usize).collect();
        assert_eq!(tokens, (0..150).map(|mask| mask % 4).collect::<Vec<_>>());
    }

    #[test]
    fn a_summary_that_is_cut_off_or_broken_is_no_answer() {
        let mut batch = PackedBatch::default();
        batch.push(&[4], &[0], &Selection::TopK(1));
        let wanted = batch.lists(4, 64, |rows| rows).wanted;
        let of = |numbers: &[f32]| scores(numbers, &wanted, 4, batch.queries());
        assert!(of(&[0.0, 1.0, 0.0, 0.0, 0.0, 2.0]).is_ok());
        assert!(matches!(of(&[0.0, 1.0, 0.0, 0.0, 0.0]), Err(PredictError::Readback(_))));
        assert_eq!(of(&[0.0, 1.0, 0.0, 1.0, 0.0, 2.0]), Err(PredictError::NotFinite));
    }
}
