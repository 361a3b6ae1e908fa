//! XLM-RoBERTa-XL: <https://arxiv.org/abs/2105.00572>; XLM-RoBERTa with the normalization before each block.

use super::bert_like::{self, encoder_names_with, lm_head_names, roberta_spec};
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, LayerModule, NormPlacement, Parameter};

pub const FAMILY: Family = Family {
    model_type: "xlm-roberta-xl",
    name: "XLM-RoBERTa-XL",
    class: "XLMRobertaXLForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    EncoderSpec {
        embedding_norm: false,
        norm_placement: NormPlacement::Pre,
        final_norm: true,
        ..roberta_spec(fields)
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::FinalNorm(part) => vec![format!("roberta.encoder.LayerNorm.{part}")],
        other => encoder_names_with(other, "roberta", module).unwrap_or_else(|| lm_head_names(other)),
    }
}

fn module(module: LayerModule) -> &'static str {
    match module {
        LayerModule::AttentionNorm => "attention.self_attn_layer_norm",
        LayerModule::OutputNorm => "LayerNorm",
        other => bert_like::module(other),
    }
}
