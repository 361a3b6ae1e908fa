//! The generator of ELECTRA: <https://arxiv.org/abs/2003.10555>; BERT with embeddings of their own width.

use super::bert_like::{self, encoder_names};
use super::fields::Fields;
use super::{Family, whole};
use crate::backend::Activation;
use crate::encoder::{EncoderSpec, HeadSpec, Parameter};

pub const FAMILY: Family = Family {
    model_type: "electra",
    name: "ELECTRA",
    class: "ElectraForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = bert_like::spec(fields);
    let embedding_size = fields.size_or("embedding_size", 128);
    EncoderSpec {
        embedding_size,
        embedding_projection: embedding_size != spec.hidden_size,
        head: HeadSpec {
            size: embedding_size,
            activation: Activation::Gelu,
            ..spec.head
        },
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::EmbeddingProjection(part) => vec![
            format!("electra.embeddings_project.{part}"),
            format!("embeddings_project.{part}"),
        ],
        Parameter::HeadDense(part) => vec![format!("generator_predictions.dense.{part}")],
        Parameter::HeadNorm(part) => vec![format!("generator_predictions.LayerNorm.{part}")],
        Parameter::Decoder => vec!["generator_lm_head.weight".to_owned()],
        Parameter::DecoderBias => vec!["generator_lm_head.bias".to_owned()],
        other => encoder_names(other, "electra").unwrap_or_default(),
    }
}
