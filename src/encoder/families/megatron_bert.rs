//! Megatron-BERT: <https://arxiv.org/abs/1909.08053>; BERT with the normalization before each block.

use super::bert_like::{self, cls_head_names, encoder_names_with};
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, LayerModule, NormPlacement, Parameter};

pub const FAMILY: Family = Family {
    model_type: "megatron-bert",
    name: "Megatron-BERT",
    class: "MegatronBertForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    EncoderSpec {
        embedding_norm: false,
        norm_placement: NormPlacement::Pre,
        final_norm: true,
        ..bert_like::spec(fields)
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::FinalNorm(part) => vec![format!("bert.encoder.ln.{part}")],
        other => encoder_names_with(other, "bert", module).unwrap_or_else(|| cls_head_names(other)),
    }
}

fn module(module: LayerModule) -> &'static str {
    match module {
        LayerModule::AttentionNorm => "attention.ln",
        LayerModule::OutputNorm => "ln",
        other => bert_like::module(other),
    }
}
