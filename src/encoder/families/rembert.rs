//! RemBERT: <https://arxiv.org/abs/2010.12821>; BERT with input and output embeddings of their own widths.

use super::bert_like;
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, HeadSpec, Parameter};

pub const FAMILY: Family = Family {
    model_type: "rembert",
    name: "RemBERT",
    class: "RemBertForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = bert_like::spec(fields);
    EncoderSpec {
        embedding_size: fields.size_or("input_embedding_size", 256),
        embedding_projection: true,
        head: HeadSpec {
            size: fields.size_or("output_embedding_size", 1664),
            tied_decoder: false,
            ..spec.head
        },
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::EmbeddingProjection(part) => vec![
            format!("rembert.encoder.embedding_hidden_mapping_in.{part}"),
            format!("encoder.embedding_hidden_mapping_in.{part}"),
        ],
        Parameter::HeadDense(part) => vec![format!("cls.predictions.dense.{part}")],
        Parameter::HeadNorm(part) => vec![format!("cls.predictions.LayerNorm.{part}")],
        other => bert_like::encoder_names(other, "rembert").unwrap_or_else(|| bert_like::cls_head_names(other)),
    }
}
