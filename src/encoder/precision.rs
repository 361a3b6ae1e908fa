//! The precision of each part of the model, given the precision that was chosen for all of it.

use crate::backend::Precision;

use super::Parameter;

/// Which part computes in which precision.
///
/// | part | f32 | f16 | bf16 | int8 |
/// |---|---|---|---|---|
/// | dense layers of the encoder | f32 | f16 | bf16 | int8 |
/// | attention, layers of BERT's form but the last | f32 | f16 | bf16 | int8 |
/// | attention, last layer and layers of another form | f32 | f32 | bf16 | int8 |
/// | dense layer of the head | f32 | f32 | f32 | f32 |
/// | decoder and word embeddings | f32 | f16, high precision | bf16 | bf16 |
/// | other tables, biases, normalization | f32 | f32 | f32 | f32 |
#[derive(Clone, Copy, Debug)]
pub struct PrecisionPolicy(Precision);

impl PrecisionPolicy {
    pub fn new(precision: Precision) -> Self {
        Self(precision)
    }

    /// The precision of the encoder layers' dense layers.
    pub fn dense(self) -> Precision {
        self.0
    }

    /// The precision of attention's products. `keeps_digits` is true for the last layer, which computes the readout
    /// rows alone: they are few enough to stay f32 from there on where f16 would round them. It is true for layers of
    /// another form than BERT's too, whose residual is f32.
    pub fn attention(self, keeps_digits: bool) -> Precision {
        match self.0 {
            Precision::F16 if keeps_digits => Precision::F32,
            other => other,
        }
    }

    /// The precision of the head's dense layer. It decides between close tokens for few rows, and rounding its weights
    /// cost more agreement with f32 than rounding all of the encoder's.
    pub fn head_dense(self) -> Precision {
        Precision::F32
    }

    /// The precision of the decoder, which may be the word embeddings too: 8 bits are too few for these.
    pub fn decoder(self) -> Precision {
        match self.0 {
            Precision::Int8 => Precision::Bf16,
            other => other,
        }
    }

    /// Bytes that one element of `parameter` takes on a GPU. In f16 the tables keep as many digits as f32 has.
    pub fn gpu_bytes(self, parameter: Parameter) -> usize {
        let is_table = matches!(
            parameter,
            Parameter::WordEmbeddings | Parameter::PositionEmbeddings | Parameter::Decoder
        );
        match self.0 {
            Precision::F16 if !is_table => 2,
            _ => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_lose_agreement_keep_a_higher_precision() {
        use Precision::{Bf16, F16, F32, Int8};
        for (chosen, dense, last_attention, decoder) in [
            (F32, F32, F32, F32),
            (F16, F16, F32, F16),
            (Bf16, Bf16, Bf16, Bf16),
            (Int8, Int8, Int8, Bf16),
        ] {
            let policy = PrecisionPolicy::new(chosen);
            assert_eq!(policy.dense(), dense);
            assert_eq!(policy.attention(false), chosen);
            assert_eq!(policy.attention(true), last_attention);
            assert_eq!(policy.head_dense(), F32);
            assert_eq!(policy.decoder(), decoder);
        }
    }
}
