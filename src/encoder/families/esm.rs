//! ESM, language models of proteins: ESM-2 <https://doi.org/10.1126/science.ade2574>, ESM-1b and ESM-1v.

use super::bert_like::{self, encoder_names_with, lm_head_names};
use super::fields::Fields;
use super::{ConfigError, Family, refuse, whole};
use crate::backend::{Activation, RotaryPairing};
use crate::encoder::{
    EncoderSpec, HeadSpec, LayerModule, MaskScaling, NormPlacement, Parameter, PositionEmbeddings, PositionRule,
    RotarySpec,
};

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

fn spec(fields: &Fields) -> Result<EncoderSpec, ConfigError> {
    if fields.flag_or("is_folding_model", false)? {
        return refuse("is_folding_model is true; a folding model has no masked-language-model head".to_owned());
    }
    let spec = bert_like::spec_with(fields, &bert_like::BERT)?;
    let rows = fields.size_or("max_position_embeddings", 1026)?;
    let (positions, rotary) = match fields.text_or("position_embedding_type", "absolute")? {
        "rotary" => {
            let positions = PositionEmbeddings {
                rows,
                has_table: false,
                rule: PositionRule::Index,
            };
            let rotary = RotarySpec {
                pairing: RotaryPairing::Halves,
                theta: fields.base_or("rope_theta", 10_000.0)?,
                divisor: 1.0,
            };
            (positions, Some(rotary))
        }
        "absolute" => {
            let pad_token = fields.token_or("pad_token_id", 1)?;
            (bert_like::after_padding(rows, pad_token)?, None)
        }
        other => {
            return refuse(format!(
                "position_embedding_type is \"{other}\"; supported are \"rotary\" and \"absolute\""
            ));
        }
    };
    let mask_scaling = match fields.flag_or("token_dropout", false)? {
        true => Some(MaskScaling {
            mask_token: fields.token("mask_token_id")?,
            kept: KEPT,
        }),
        false => None,
    };
    Ok(EncoderSpec {
        positions,
        rotary,
        mask_scaling,
        embedding_norm: fields.flag_or("emb_layer_norm_before", false)?,
        norm_placement: NormPlacement::Pre,
        final_norm: true,
        activation: Activation::Gelu,
        head: HeadSpec {
            activation: Activation::Gelu,
            ..spec.head
        },
        ..spec
    })
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
