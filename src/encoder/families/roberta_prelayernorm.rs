//! RoBERTa with the normalization before each block: <https://arxiv.org/abs/1904.01038>.

use super::bert_like::{self, encoder_names_with, lm_head_names, roberta_spec};
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, LayerModule, NormPlacement, Parameter};

pub const FAMILY: Family = Family {
    model_type: "roberta-prelayernorm",
    name: "RoBERTa-PreLayerNorm",
    class: "RobertaPreLayerNormForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    EncoderSpec {
        norm_placement: NormPlacement::Pre,
        final_norm: true,
        ..roberta_spec(fields)
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::FinalNorm(part) => vec![format!("roberta_prelayernorm.LayerNorm.{part}")],
        other => encoder_names_with(other, "roberta_prelayernorm", module).unwrap_or_else(|| lm_head_names(other)),
    }
}

fn module(module: LayerModule) -> &'static str {
    match module {
        LayerModule::AttentionNorm => "attention.LayerNorm",
        LayerModule::OutputNorm => "intermediate.LayerNorm",
        other => bert_like::module(other),
    }
}
