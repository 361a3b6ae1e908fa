//! ESM, language models of proteins: ESM-2 <https://doi.org/10.1126/science.ade2574>, ESM-1b and ESM-1v.

use super::bert_like::{self, BERT, after_padding, encoder_names_with, lm_head_names, rotary, rotary_positions};
use super::fields::Fields;
use super::{Family, whole};
use crate::backend::{Activation, RotaryPairing};
use crate::encoder::{EncoderSpec, HeadSpec, LayerModule, MaskScaling, NormPlacement, Parameter};

pub const FAMILY: Family = Family {
    model_type: "esm",
    name: "ESM",
    class: "EsmForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

/// Share of the tokens that were not masked in training.
const KEPT: f64 = 1.0 - 0.15 * 0.8;

const POSITIONS: &str = "max_position_embeddings";
const POSITIONS_DEFAULT: usize = 1026;

fn spec(fields: &Fields) -> EncoderSpec {
    fields.check_false("is_folding_model", "a folding model has no masked-language-model head");
    let spec = bert_like::spec_with(fields, &BERT);
    let (positions, rotary) = match fields.text_or("position_embedding_type", "absolute") {
        "rotary" => {
            let theta = fields.base_or("rope_theta", 10_000.0);
            let rotary = rotary(fields, &BERT, &spec, RotaryPairing::Halves, theta);
            (rotary_positions(fields, POSITIONS, POSITIONS_DEFAULT), rotary)
        }
        kind => {
            fields.check(&["position_embedding_type"], kind == "absolute", || {
                format!("position_embedding_type is \"{kind}\"; supported are \"rotary\" and \"absolute\"")
            });
            let rows = fields.size_or(POSITIONS, POSITIONS_DEFAULT);
            (after_padding(fields, rows), None)
        }
    };
    let mask_scaling = match fields.flag_or("token_dropout", false) {
        true => Some(MaskScaling {
            mask_token: fields.token("mask_token_id"),
            kept: KEPT,
        }),
        false => None,
    };
    EncoderSpec {
        positions,
        rotary,
        mask_scaling,
        embedding_norm: fields.flag_or("emb_layer_norm_before", false),
        norm_placement: NormPlacement::Pre,
        final_norm: true,
        activation: Activation::Gelu,
        head: HeadSpec {
            activation: Activation::Gelu,
            ..spec.head
        },
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::EmbeddingNorm(part) => vec![format!("esm.embeddings.layer_norm.{part}")],
        Parameter::FinalNorm(part) => vec![format!("esm.encoder.emb_layer_norm_after.{part}")],
        Parameter::DecoderBias => vec!["lm_head.bias".to_owned()],
        other => encoder_names_with(other, "esm", module).unwrap_or_else(|| lm_head_names(other)),
    }
}

fn module(module: LayerModule) -> &'static str {
    match module {
        LayerModule::AttentionNorm => "attention.LayerNorm",
        LayerModule::OutputNorm => "LayerNorm",
        other => bert_like::module(other),
    }
}
