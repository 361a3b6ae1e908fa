//! An encoder on a backend as a [`MaskedLm`].

use std::ops::Range;

use super::batch::HEAD_ROWS_MAX;
use super::pooled::PooledSequences;
use super::reading::{Reading, by_sequence, chunk_groups, scores};
use super::{Batch, Demand, MaskedLm, ModelError, Scores};
use crate::backend::{Device, EncoderBackend, IndexList, Precision, Tensor};
use crate::checkpoint::TensorSource;
use crate::encoder::{Architecture, Encoder, EncoderError, PositionRule};

/// An encoder with its weights on one device of backend `B`.
pub struct EncoderModel<B: EncoderBackend> {
    encoder: Encoder<B>,
    vocab_size: usize,
    tokens_per_readout: f32,
    position_rule: PositionRule,
    device: Device<B>,
}

impl<B: EncoderBackend> MaskedLm for EncoderModel<B> {
    fn tokens_per_readout(&self) -> f32 {
        self.tokens_per_readout
    }

    fn predict(&mut self, batch: Batch) -> Result<Vec<Scores>, ModelError> {
        self.compute(batch)
    }

    fn warm_up(&mut self, batch: Batch) -> Result<(), ModelError> {
        if batch.readout_rows().is_empty() {
            return Ok(());
        }
        let inputs = batch.into_inputs::<B>(self.vocab_size, self.position_rule);
        let inputs = B::upload(inputs, &self.device);
        let states = self.encoder.warm_up_states(&inputs);
        let mut sizes = Vec::new();
        for (chunk, spec) in inputs.as_ref().readouts.iter().enumerate() {
            if !sizes.contains(&spec.padded_rows) {
                sizes.push(spec.padded_rows);
                self.start_reading(&states, &inputs, chunk..chunk + 1, &[])?.wait()?;
            }
        }
        Ok(())
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
        device: &Device<B>,
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

    /// [`MaskedLm::predict`], which several workers may call at once: the model does not change.
    pub(super) fn compute(&self, mut batch: Batch) -> Result<Vec<Scores>, ModelError> {
        let demand = batch.take_demand();
        let counts = batch.readout_counts();
        let selects = batch.row_selects();
        let pooled = PooledSequences::of(&batch);
        if selects.is_empty() {
            return Ok(vec![Vec::new(); counts.len()]);
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
                Some(Reading::start(vec![values.flatten()]))
            }
        };
        let mut rows = Vec::with_capacity(selects.len());
        for group in chunk_groups(&inputs.as_ref().readouts) {
            let numbers = self.start_reading(&states, &inputs, group.clone(), &demand)?.wait()?;
            let specs = &inputs.as_ref().readouts[group];
            rows.extend(scores(&numbers, specs, self.vocab_size, &selects[rows.len()..])?);
        }
        let mut scores = by_sequence(rows, &counts);
        if let Some(values) = values {
            pooled.put_weights(&values.wait()?, self.vocab_size, &mut scores)?;
        }
        Ok(scores)
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
                false => Some(B::select_rows(&logits, inputs, IndexList::FullRows(chunk)).flatten()),
            };
            unread.push(B::read_logits(logits, inputs, chunk));
            unread.extend(full);
        }
        Ok(Reading::start(unread))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::lm::{DemandGuard, PretrainedModel, Select, Sequence};

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
        assert!(model.compute(needed).is_ok());
        drop(request);
        assert!(!left.is_needed());
        assert_eq!(model.compute(left.clone()).err(), Some(ModelError::Cancelled));
        let other = DemandGuard::default();
        left.needed_by([other.demand()]);
        assert!(model.compute(left).is_ok(), "another request waits");

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
            model.compute(batch).unwrap().remove(0)
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
}
