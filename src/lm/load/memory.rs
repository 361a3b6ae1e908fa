//! Memory that a model takes on the CPU, known before any weight is read.

#[cfg(feature = "cpu")]
use super::BackendKind;
use super::LoadError;
use crate::backend::Precision;
use crate::encoder::{EncoderSpec, LayerModule, Parameter, Part, PrecisionPolicy};
use crate::lm::batch::HEAD_ROWS_MAX;
use crate::sys::memory::{self, Available};
#[cfg(feature = "cpu")]
use crate::{checkpoint::TensorSource, encoder::Architecture};

/// Bytes that a model takes on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Bytes of the loaded weights.
    pub weights: u64,
    /// The most at one time: the weights, and beside them a tensor that is being packed or the logits of a batch.
    pub peak: u64,
    /// To read every tensor and to compare a stored decoder with the word embeddings, without the loaded weights.
    pub reading: u64,
}

/// A dense layer's weights are packed in panels of this many rows.
const PANEL_ROWS: u64 = 32;
const F32_BYTES: u64 = size_of::<f32>() as u64;

impl MemoryNeed {
    /// The need of a model in `precision`.
    pub fn new(spec: &EncoderSpec, precision: Precision) -> Self {
        let policy = PrecisionPolicy::new(precision);
        let (mut weights, mut largest, mut packing) = (0u64, 0u64, 0u64);
        for parameter in spec.parameters() {
            let bytes = (spec.elements(parameter) as u64).saturating_mul(F32_BYTES);
            largest = largest.max(bytes);
            // Key and value are joined in f32 before they are packed.
            packing = packing.max(match parameter {
                Parameter::Layer(_, LayerModule::Key, Part::Weight) => bytes.saturating_mul(3),
                _ => bytes,
            });
            weights = weights.saturating_add(loaded_bytes(spec, parameter, policy));
        }
        let logits = (HEAD_ROWS_MAX * spec.vocab_size) as u64 * F32_BYTES;
        let reading = largest.saturating_mul(2);
        Self {
            weights,
            peak: weights.saturating_add(packing.max(logits)).max(reading),
            reading,
        }
    }

    /// Checks that the weights can be loaded.
    ///
    /// # Errors
    /// [`LoadError::TooLittleMemory`], if it is known how much is available.
    pub fn check(self, precision: Precision) -> Result<(), LoadError> {
        match memory::available() {
            Some(available) if available.bytes < self.peak => Err(LoadError::TooLittleMemory {
                need: self,
                precision,
                available,
            }),
            _ => Ok(()),
        }
    }

    /// True if every tensor can be read, one at a time.
    pub fn can_read(self) -> bool {
        memory::available().is_none_or(|Available { bytes, .. }| self.reading <= bytes)
    }
}

/// Checks that the weights of `source` can be loaded in `precision`.
#[cfg(feature = "cpu")]
pub fn check(
    architecture: &Architecture,
    source: &mut dyn TensorSource,
    precision: Precision,
) -> Result<(), LoadError> {
    let spec = &architecture.spec;
    MemoryNeed::new(spec, precision).check(precision)?;
    let decoder = architecture.stored_name(Parameter::Decoder, source);
    if spec.head.tied_decoder && source.contains(&decoder) {
        let mut untied = spec.clone();
        untied.head.tied_decoder = false;
        let checked = MemoryNeed::new(&untied, precision).check(precision);
        // The tensors are compared only where it matters.
        if checked.is_err() && !stored_decoder_is_tied(architecture, source)? {
            return checked;
        }
    }
    Ok(())
}

#[cfg(feature = "cpu")]
fn stored_decoder_is_tied(architecture: &Architecture, source: &mut dyn TensorSource) -> Result<bool, LoadError> {
    let resolved = architecture.clone().with_stored_decoder(source);
    let resolved = resolved.map_err(|error| LoadError::from_encoder(error.into(), BackendKind::Cpu))?;
    Ok(resolved.spec.head.tied_decoder)
}

/// Bytes of one parameter after it is loaded.
fn loaded_bytes(spec: &EncoderSpec, parameter: Parameter, policy: PrecisionPolicy) -> u64 {
    let precision = match parameter {
        // Packed as the decoder, which they are.
        Parameter::WordEmbeddings if spec.head.tied_decoder => policy.decoder(),
        Parameter::Decoder => policy.decoder(),
        Parameter::HeadDense(Part::Weight) => policy.head_dense(),
        Parameter::Layer(_, _, Part::Weight) | Parameter::EmbeddingProjection(Part::Weight) => policy.dense(),
        _ => return spec.elements(parameter) as u64 * size_of::<f32>() as u64,
    };
    let shape = spec.shape(parameter);
    let elements = match shape.as_slice() {
        [rows, columns] => {
            let rows = *rows as u64;
            let padded = rows.checked_next_multiple_of(PANEL_ROWS).unwrap_or(rows);
            padded.saturating_mul(*columns as u64)
        }
        _ => spec.elements(parameter) as u64,
    };
    elements.saturating_mul(match precision {
        Precision::F32 => 4,
        Precision::Bf16 | Precision::F16 => 2,
        Precision::Int8 => 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Architecture;

    fn bert_base(tied: bool) -> EncoderSpec {
        let config = format!(
            r#"{{"vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072, "tie_word_embeddings": {tied}}}"#
        );
        Architecture::parse(config.as_bytes()).unwrap().spec
    }

    #[test]
    fn the_peak_covers_the_weights_and_a_copy_of_the_largest() {
        let spec = bert_base(true);
        let need = MemoryNeed::new(&spec, Precision::F32);
        let elements: usize = spec.parameters().into_iter().map(|p| spec.elements(p)).sum();
        // The word embeddings are padded by some rows.
        let padding = need.weights - 4 * elements as u64;
        assert!(padding < 4 * 32 * 768, "{padding}");
        let largest = 4 * 30_522 * 768;
        assert_eq!((need.reading, need.peak), (2 * largest, need.weights + largest));
    }

    #[test]
    fn the_peak_covers_the_logits_of_a_narrow_model_and_a_wide_key_and_value() {
        let mut spec = bert_base(true);
        (spec.hidden_size, spec.embedding_size, spec.head.size, spec.heads) = (32, 32, 32, 2);
        let need = MemoryNeed::new(&spec, Precision::F32);
        assert_eq!(need.peak, need.weights + 4 * 64 * 30_522);
        (spec.hidden_size, spec.embedding_size, spec.head.size) = (4096, 4096, 4096);
        (spec.vocab_size, spec.intermediate_size) = (1000, 4096);
        let need = MemoryNeed::new(&spec, Precision::F32);
        assert_eq!(need.peak, need.weights + 3 * 4 * 4096 * 4096);
    }

    #[test]
    fn lower_precisions_need_less_and_an_untied_decoder_needs_more() {
        let weights = |tied, precision| MemoryNeed::new(&bert_base(tied), precision).weights;
        let [f32, bf16, int8] = [Precision::F32, Precision::Bf16, Precision::Int8].map(|p| weights(true, p));
        assert!(int8 < bf16 && bf16 < f32 * 6 / 10, "{f32} {bf16} {int8}");
        let table = 4 * 30_522 * 768;
        assert!(weights(false, Precision::F32) >= f32 + table);
    }
}
