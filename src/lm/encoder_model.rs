//! An encoder on a backend as a [`MaskedLm`]: forward pass, readout of the logits, scores.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use burn::tensor::backend::ExecutionError;
use burn::tensor::{Tensor, TensorData, Transaction, read_sync};

use super::batch::{HEAD_ROWS_MAX, RowSelect};
use super::pooled::PooledSequences;
use super::{Batch, Demand, MaskedLm, ModelError, PendingBatch, Scores, Select, TokenScore};
use crate::backend::readout::{LogitsRow, top_k};
use crate::backend::{EncoderBackend, IndexList, Precision, ReadoutSpec};
use crate::checkpoint::TensorSource;
use crate::encoder::{Architecture, Encoder, EncoderError, PositionRule};

/// An encoder with its weights on one device of backend `B`.
pub struct EncoderModel<B: EncoderBackend> {
    encoder: Encoder<B>,
    vocab_size: usize,
    tokens_per_readout: f32,
    position_rule: PositionRule,
    device: B::Device,
}

impl<B: EncoderBackend> MaskedLm for EncoderModel<B> {
    fn is_async(&self) -> bool {
        B::IS_ASYNC
    }

    fn tokens_per_readout(&self) -> f32 {
        self.tokens_per_readout
    }

    fn submit(&mut self, batch: Batch) -> Result<PendingBatch, ModelError> {
        self.start(batch)
    }
}

impl<B: EncoderBackend> EncoderModel<B> {
    /// Reads the weights from `source`, tensor by tensor, and prepares them on `device` in `precision`.
    ///
    /// # Errors
    /// As of [`Encoder::load`].
    pub fn load(
        architecture: &Architecture,
        source: &mut dyn TensorSource,
        device: &B::Device,
        precision: Precision,
    ) -> Result<Self, EncoderError> {
        Ok(Self {
            encoder: Encoder::load(architecture, source, device, precision)?,
            vocab_size: architecture.spec.vocab_size,
            tokens_per_readout: architecture.spec.tokens_per_readout(),
            position_rule: architecture.spec.positions.rule,
            device: device.clone(),
        })
    }

    /// Hidden states of the last layer at the batch's readout rows, `[readout rows, hidden]`.
    ///
    /// # Panics
    /// If the batch has no readout row.
    pub fn readout_states(&self, batch: Batch) -> Tensor<B, 2> {
        let inputs = batch.into_inputs::<B>(self.vocab_size, self.position_rule);
        let states = self.encoder.readout_states(&B::upload(inputs, &self.device), || true);
        states.expect("it is needed")
    }

    /// Logits over the vocabulary, `[rows, vocab_size]`, of hidden states `[rows, hidden]`.
    pub fn logits(&self, hidden: Tensor<B, 2>) -> Tensor<B, 2> {
        self.encoder.logits(hidden)
    }

    /// [`MaskedLm::submit`], which several workers may call at once: the model does not change.
    pub(super) fn start(&self, mut batch: Batch) -> Result<PendingBatch, ModelError> {
        let demand = batch.take_demand();
        let counts = batch.readout_counts();
        let selects = batch.row_selects();
        let pooled = PooledSequences::of(&batch);
        if selects.is_empty() {
            return Ok(PendingBatch::ready(vec![Vec::new(); counts.len()]));
        }
        let inputs = batch.into_inputs::<B>(self.vocab_size, self.position_rule);
        let inputs = B::upload(inputs, &self.device);
        let states = self.encoder.readout_states(&inputs, || Demand::any_waits(&demand));
        let states = states.ok_or(ModelError::Cancelled)?;
        let values = match pooled.rows.is_empty() {
            true => None,
            false => {
                let is_needed = || Demand::any_waits(&demand);
                let values = self.encoder.pooled_logits(&states, &pooled.rows, is_needed);
                let values = values.ok_or(ModelError::Cancelled)?;
                Some(Reading::start(vec![values.flatten(0, 1)]))
            }
        };
        let mut rows = Vec::with_capacity(selects.len());
        let mut groups = chunk_groups(&inputs.as_ref().readouts);
        let last = groups.pop().expect("there is a readout row");
        let vocab_size = self.vocab_size;
        for group in groups {
            let numbers = self.start_reading(&states, &inputs, group.clone(), &demand)?.wait()?;
            let specs = &inputs.as_ref().readouts[group];
            rows.extend(scores(&numbers, specs, vocab_size, &selects[rows.len()..])?);
        }
        let reading = self.start_reading(&states, &inputs, last.clone(), &demand)?;
        Ok(PendingBatch::new(move || {
            let specs = &inputs.as_ref().readouts[last];
            rows.extend(scores(&reading.wait()?, specs, vocab_size, &selects[rows.len()..])?);
            let mut scores = by_sequence(rows, &counts);
            if let Some(values) = values {
                pooled.put_weights(&values.wait()?, vocab_size, &mut scores)?;
            }
            Ok(scores)
        }))
    }

    /// Computes the logits of some chunks of readout rows, and starts to read their readouts and full rows.
    fn start_reading(
        &self,
        states: &Tensor<B, 2>,
        inputs: &B::Inputs,
        chunks: Range<usize>,
        demand: &[Demand],
    ) -> Result<Reading, ModelError> {
        let specs = &inputs.as_ref().readouts;
        let [_, hidden] = states.dims();
        let mut unread = Vec::new();
        for chunk in chunks {
            if !Demand::any_waits(demand) {
                return Err(ModelError::Cancelled);
            }
            let spec = &specs[chunk];
            if spec.rows == 0 {
                continue;
            }
            let first = chunk * HEAD_ROWS_MAX;
            let states = match specs.len() {
                1 => states.clone(),
                _ => states.clone().slice([first..first + spec.padded_rows, 0..hidden]),
            };
            let logits = self.encoder.logits(states);
            let full = match spec.full_rows.is_empty() {
                true => None,
                false => Some(B::select_rows(&logits, inputs, IndexList::FullRows(chunk)).flatten(0, 1)),
            };
            unread.push(B::read_logits(logits, inputs, chunk));
            unread.extend(full);
        }
        Ok(Reading::start(unread))
    }
}

/// Consecutive chunks that are read at once: all of them, but at most as many full rows as logits are computed at once.
fn chunk_groups(specs: &[ReadoutSpec]) -> Vec<Range<usize>> {
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
    fn start<B: EncoderBackend>(tensors: Vec<Tensor<B, 1>>) -> Self {
        if tensors.is_empty() {
            return Self::Done(Ok(Vec::new()));
        }
        let all = tensors.into_iter().fold(Transaction::default(), Transaction::register);
        let mut running = Box::pin(all.execute_async());
        // The first poll queues the read.
        match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(read) => Self::Done(read),
            Poll::Pending => Self::Running(running),
        }
    }

    /// The tensors end to end. They are joined here, because a device would compile a kernel for each size.
    fn wait(self) -> Result<Vec<f32>, ModelError> {
        let read = match self {
            Self::Running(running) => read_sync(running),
            Self::Done(read) => read,
        };
        let mut all = Vec::new();
        for data in read.map_err(|e| ModelError::Readback(e.to_string()))? {
            let numbers = data.convert::<f32>().into_vec::<f32>();
            let mut numbers = numbers.map_err(|e| ModelError::Readback(format!("{e:?}")))?;
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
fn scores(
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
            .split_at_checked(spec.len() + spec.full_rows.len() * vocab_size)
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
    use std::cell::Cell;

    use super::*;
    use crate::backend::ForwardInputs;
    use crate::backend::cpu::Cpu;
    use crate::lm::{DemandGuard, PretrainedModel, Sequence};

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
                let mut numbers = Cpu::read_logits(logits, &inputs, chunk).into_data().into_vec().unwrap();
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
    fn a_batch_that_no_request_waits_for_ends_before_the_next_layer() {
        let mut model = PretrainedModel::embedded().unwrap();
        let model = model.load_on::<Cpu>(&Default::default(), Precision::F32).unwrap();
        let batch = || {
            let mut batch = Batch::default();
            batch.push(&Sequence::new([4, 4], [1], Select::TopK(1)));
            batch
        };
        let request = DemandGuard::default();
        let mut needed = batch();
        needed.needed_by([request.demand()]);
        let mut left = needed.clone();
        assert!(model.start(needed).is_ok());
        drop(request);
        assert!(!left.is_needed());
        assert_eq!(model.start(left.clone()).err(), Some(ModelError::Cancelled));
        let other = DemandGuard::default();
        left.needed_by([other.demand()]);
        assert!(model.start(left).is_ok(), "another request waits");

        let inputs = batch().into_inputs::<Cpu>(model.vocab_size, model.position_rule);
        let inputs = Cpu::upload(inputs, &model.device);
        let asked = Cell::new(0);
        let layers = |count| {
            asked.set(0);
            let is_needed = || {
                asked.set(asked.get() + 1);
                asked.get() <= count
            };
            model.encoder.readout_states(&inputs, is_needed).is_some()
        };
        assert!(layers(usize::MAX));
        let all = asked.get();
        assert!(all > 1);
        assert!(!layers(1));
        assert_eq!(asked.get(), 2, "of {all} layers");
    }

    #[test]
    fn the_token_of_a_position_is_read_beside_the_selected_ones() {
        let mut model = PretrainedModel::embedded().unwrap();
        let model = model.load_on::<Cpu>(&Default::default(), Precision::F32).unwrap();
        let scores = |select: Select, with_own: bool| {
            let mut batch = Batch::default();
            let sequence = Sequence::new([2, 300, 400, 3], [1, 2], select);
            batch.push(&if with_own { sequence.with_own() } else { sequence });
            model.start(batch).unwrap().wait().unwrap().remove(0)
        };
        let own = scores(Select::Tokens([300, 400].into()), false);
        // Found by the device, and in full rows.
        for select in [Select::TopK(3), Select::TopK(100), Select::Tokens([7, 8].into())] {
            let (plain, read) = (scores(select.clone(), false), scores(select, true));
            for (row, mut scores) in read.into_iter().enumerate() {
                assert_eq!(scores.pop(), Some(own[row][row]));
                assert_eq!(scores, plain[row]);
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
