//! GTE: <https://arxiv.org/abs/2407.19669>; BERT with rotary positions and gated feed-forward blocks.
//!
//! Most files on the hub have the `model_type` of the code that was published with them, `new`; transformers has the
//! encoder as `gte`.

use serde_json::Value;

use super::bert_like::{BERT, rotary, rotary_positions, spec_with};
use super::fields::Fields;
use super::{Family, Form, joined_query_key_value, module_name};
use crate::backend::{Activation, RotaryPairing};
use crate::encoder::{Biases, EncoderSpec, HeadSpec, LayerModule, Parameter, RotarySpec};

pub const GTE: Family = Family {
    model_type: "gte",
    name: "GTE",
    class: "GteForMaskedLM",
    parse: spec,
    names,
    form,
};

pub const NEW: Family = Family {
    model_type: "new",
    class: "NewForMaskedLM",
    parse: new_spec,
    ..GTE
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = base(fields, 8192);
    fields.check_head_size(spec.hidden_size / spec.heads);
    let theta = fields.rope_theta(None, "rope_theta", 160_000.0);
    EncoderSpec {
        rotary: rotary(fields, &BERT, &spec, RotaryPairing::Halves, theta),
        head: HeadSpec {
            activation: Activation::Gelu,
            ..spec.head
        },
        ..spec
    }
}

/// Without the kind of rotation.
fn base(fields: &Fields, positions: usize) -> EncoderSpec {
    let token_types = fields.count_or("type_vocab_size", 1);
    EncoderSpec {
        positions: rotary_positions(fields, "max_position_embeddings", positions),
        token_types: Some(token_types).filter(|&rows| rows > 0),
        gated: true,
        biases: Biases {
            feed_forward: false,
            ..Biases::ALL
        },
        ..spec_with(fields, &BERT)
    }
}

fn new_spec(fields: &Fields) -> EncoderSpec {
    fields.check_text("position_embedding_type", "rope");
    fields.check_text("layer_norm_type", "layer_norm");
    fields.check(&["pack_qkv"], fields.flag_or("pack_qkv", true), || {
        "pack_qkv is false; only true is supported".to_owned()
    });
    fields.check_false("logn_attention_scale", "only false is supported");
    let spec = base(fields, 2048);
    let head_size = spec.hidden_size / spec.heads;
    let theta = fields.base_or("rope_theta", 10_000.0);
    let factor = scaling_factor(fields);
    // https://kexue.fm/archives/9706, equation 6: a larger base, and smaller frequencies.
    let rotary = rotary(fields, &BERT, &spec, RotaryPairing::Halves, theta * factor);
    EncoderSpec {
        rotary: rotary.map(|rotary| RotarySpec {
            divisor: factor.powf(2.0 / head_size as f64),
            ..rotary
        }),
        ..spec
    }
}

/// The factor of NTK-aware scaling, which counts for texts of every length.
fn scaling_factor(fields: &Fields) -> f64 {
    let Some(scaling) = fields.get("rope_scaling") else {
        return 1.0;
    };
    let is_mixed = scaling.get("mixed_b").is_some_and(|value| !value.is_null());
    match (
        scaling.get("type").and_then(Value::as_str),
        scaling.get("factor").and_then(Value::as_f64),
    ) {
        (Some("ntk"), Some(factor)) if factor >= 1.0 && !is_mixed => factor,
        _ => {
            fields.refuse(
                "rope_scaling",
                format!(
                    "rope_scaling is {scaling}; supported is the type \"ntk\" with a factor of 1 or more and without \
                     mixed_b"
                ),
            );
            1.0
        }
    }
}

fn form(spec: &EncoderSpec, parameter: Parameter, name: &str) -> Form {
    let is_joined = name.contains("up_gate");
    match parameter {
        Parameter::Layer(_, LayerModule::FeedForwardUp, _) if is_joined => Form::part(0, 2, spec.intermediate_size),
        Parameter::Layer(_, LayerModule::FeedForwardGate, _) if is_joined => Form::part(1, 2, spec.intermediate_size),
        other => joined_query_key_value(spec, other, name),
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embeddings.word_embeddings.weight".to_owned(),
        Parameter::TokenTypeEmbeddings => "embeddings.token_type_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("embeddings.LayerNorm.{part}"),
        Parameter::Layer(layer, module, part) => format!("encoder.layer.{layer}.{}.{part}", name_of(module)),
        Parameter::HeadDense(part) => return vec![format!("lm_head.dense.{part}")],
        Parameter::HeadNorm(part) => {
            return ["norm", "layer_norm"]
                .map(|norm| format!("lm_head.{norm}.{part}"))
                .to_vec();
        }
        Parameter::Decoder => return vec!["lm_head.decoder.weight".to_owned()],
        Parameter::DecoderBias => return vec!["lm_head.decoder.bias".to_owned()],
        _ => return Vec::new(),
    };
    let mut names = vec![format!("gte.{name}"), format!("new.{name}"), name];
    names.extend(module_name(parameter, "gte"));
    names
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query | LayerModule::Key | LayerModule::Value => "attention.qkv_proj",
        LayerModule::AttentionOutput => "attention.o_proj",
        LayerModule::AttentionNorm => "attn_ln",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "mlp.up_gate_proj",
        LayerModule::FeedForwardDown => "mlp.down_proj",
        LayerModule::OutputNorm => "mlp_ln",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::encoder::Architecture;

    fn new(changes: Value) -> Result<EncoderSpec, String> {
        let mut config = json!({"model_type": "new", "vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "intermediate_size": 128, "position_embedding_type": "rope",
            "rope_scaling": null, "pack_qkv": true});
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let architecture = Architecture::parse(config.to_string().as_bytes());
        architecture
            .map(|architecture| architecture.spec)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn scaling_changes_the_frequencies() {
        let scaled = new(json!({"rope_theta": 20000, "rope_scaling": {"type": "ntk", "factor": 8.0}})).unwrap();
        let rotary = scaled.rotary.unwrap();
        assert_eq!(rotary.theta, 160_000.0);
        // 8 to the power of 2 by the 16 columns of a head
        assert!((rotary.divisor - 8f64.powf(0.125)).abs() < 1e-12);
        assert_eq!(new(json!({})).unwrap().rotary.unwrap().divisor, 1.0);
    }

    #[test]
    fn an_encoder_may_lack_token_types() {
        assert_eq!(new(json!({"type_vocab_size": 0})).unwrap().token_types, None);
        assert_eq!(new(json!({"type_vocab_size": 2})).unwrap().token_types, Some(2));
    }

    #[test]
    fn unsupported_options_are_refused_by_name() {
        for (changes, named) in [
            (
                json!({"position_embedding_type": "absolute"}),
                "position_embedding_type is \"absolute\"",
            ),
            (
                json!({"layer_norm_type": "rms_norm"}),
                "layer_norm_type is \"rms_norm\"",
            ),
            (json!({"pack_qkv": false}), "pack_qkv is false"),
            (json!({"logn_attention_scale": true}), "logn_attention_scale is true"),
            (
                json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
                "rope_scaling is",
            ),
            (
                json!({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.6}}),
                "rope_scaling is",
            ),
            (
                json!({"rope_scaling": {"type": "ntk", "factor": 0.5}}),
                "rope_scaling is",
            ),
        ] {
            let error = new(changes).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
