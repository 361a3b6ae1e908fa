//! MPNet: <https://arxiv.org/abs/2004.09297>; RoBERTa with a bias by distance in attention.

use super::bert_like::{encoder_names_with, lm_head_names, roberta_spec};
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, LayerModule, Parameter, PositionEmbeddings, PositionRule, RelativeBiasSpec};

pub const FAMILY: Family = Family {
    model_type: "mpnet",
    name: "MPNet",
    class: "MPNetForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

/// Distances from here on share a bucket.
const DISTANCE_MAX: usize = 128;

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = roberta_spec(fields);
    let buckets = fields.size_or("relative_attention_num_buckets", 32);
    fields.check(
        &["relative_attention_num_buckets"],
        buckets.is_multiple_of(4) && buckets / 4 < DISTANCE_MAX,
        || {
            format!(
                "relative_attention_num_buckets is {buckets}; it must be a multiple of 4 below {}",
                4 * DISTANCE_MAX
            )
        },
    );
    EncoderSpec {
        token_types: None,
        positions: PositionEmbeddings {
            // Whatever the padding token is.
            rule: PositionRule::SkipPadding { pad_token: 1 },
            ..spec.positions
        },
        relative_bias: Some(RelativeBiasSpec {
            buckets,
            distance_max: DISTANCE_MAX,
        }),
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::RelativeBias => vec![
            "mpnet.encoder.relative_attention_bias.weight".to_owned(),
            "encoder.relative_attention_bias.weight".to_owned(),
        ],
        other => encoder_names_with(other, "mpnet", module).unwrap_or_else(|| lm_head_names(other)),
    }
}

fn module(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query => "attention.attn.q",
        LayerModule::Key => "attention.attn.k",
        LayerModule::Value => "attention.attn.v",
        LayerModule::AttentionOutput => "attention.attn.o",
        LayerModule::AttentionNorm => "attention.LayerNorm",
        other => super::bert_like::module(other),
    }
}
