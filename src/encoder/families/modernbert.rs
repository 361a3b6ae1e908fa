//! ModernBERT: <https://arxiv.org/abs/2412.13663>; rotary positions, windows, gated feed-forward blocks, pre-norm.

use serde_json::Value;

use super::bert_like::{self, Names, rotary, rotary_positions};
use super::fields::Fields;
use super::{Family, Form, joined_query_key_value};
use crate::backend::RotaryPairing;
use crate::encoder::{Biases, EncoderSpec, HeadSpec, LayerModule, LocalAttention, NormPlacement, Parameter};

pub const FAMILY: Family = Family {
    model_type: "modernbert",
    name: "ModernBERT",
    class: "ModernBertForMaskedLM",
    parse: spec,
    names,
    form,
};

const FIELDS: Names = Names {
    activation: "hidden_activation",
    ..bert_like::BERT
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = bert_like::spec_with(fields, &FIELDS);
    let is_local = is_local(fields, spec.layers);
    let theta = fields.rope_theta(Some("full_attention"), "global_rope_theta", 160_000.0);
    EncoderSpec {
        positions: rotary_positions(fields, "max_position_embeddings", 8192),
        rotary: rotary(fields, &FIELDS, &spec, RotaryPairing::Halves, theta),
        local_attention: Some(LocalAttention {
            is_local,
            distance: fields.size_or("local_attention", 128) / 2,
            theta: fields.rope_theta(Some("sliding_attention"), "local_rope_theta", 10_000.0),
        }),
        norm_placement: NormPlacement::Pre,
        first_attention_norm: false,
        final_norm: true,
        gated: true,
        biases: Biases {
            attention: fields.flag_or("attention_bias", false),
            feed_forward: fields.flag_or("mlp_bias", false),
            feed_forward_down: fields.flag_or("mlp_bias", false),
            norm: fields.flag_or("norm_bias", false),
            head: fields.flag_or("classifier_bias", false),
            decoder: fields.flag_or("decoder_bias", true),
        },
        head: HeadSpec {
            activation: fields.activation_or("classifier_activation", "gelu"),
            ..spec.head
        },
        layer_norm_eps: fields.epsilon_or("norm_eps", 1e-5),
        ..spec
    }
}

/// For each layer whether it is local.
fn is_local(fields: &Fields, layers: usize) -> Vec<bool> {
    let Some(types) = fields.get("layer_types") else {
        let period = fields.size_or("global_attn_every_n_layers", 3);
        return (0..layers).map(|layer| layer % period != 0).collect();
    };
    let Some(types) = types.as_array() else {
        fields.refuse_type("layer_types", types, "a list");
        return Vec::new();
    };
    let is_local = |name: &Value| match name.as_str() {
        Some("full_attention") => false,
        Some("sliding_attention") => true,
        _ => {
            let reason = format!("layer_types has {name}; supported are \"full_attention\" and \"sliding_attention\"");
            fields.refuse("layer_types", reason);
            false
        }
    };
    let is_local: Vec<bool> = types.iter().map(is_local).collect();
    fields.check(&["layer_types", "num_hidden_layers"], is_local.len() == layers, || {
        format!("layer_types has {} entries for {layers} layers", is_local.len())
    });
    is_local
}

fn form(spec: &EncoderSpec, parameter: Parameter, name: &str) -> Form {
    let Parameter::Layer(_, module, _) = parameter else {
        return Form::Whole;
    };
    match module {
        LayerModule::FeedForwardGate => Form::part(0, 2, spec.intermediate_size),
        LayerModule::FeedForwardUp => Form::part(1, 2, spec.intermediate_size),
        _ => joined_query_key_value(spec, parameter, name),
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embeddings.tok_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("embeddings.norm.{part}"),
        Parameter::FinalNorm(part) => format!("final_norm.{part}"),
        Parameter::Layer(layer, module, part) => format!("layers.{layer}.{}.{part}", name_of(module)),
        Parameter::HeadDense(part) => return vec![format!("head.dense.{part}")],
        Parameter::HeadNorm(part) => return vec![format!("head.norm.{part}")],
        Parameter::Decoder => return vec!["decoder.weight".to_owned()],
        Parameter::DecoderBias => return vec!["decoder.bias".to_owned()],
        _ => return Vec::new(),
    };
    vec![format!("model.{name}"), name]
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query | LayerModule::Key | LayerModule::Value => "attn.Wqkv",
        LayerModule::AttentionOutput => "attn.Wo",
        LayerModule::AttentionNorm => "attn_norm",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "mlp.Wi",
        LayerModule::FeedForwardDown => "mlp.Wo",
        LayerModule::OutputNorm => "mlp_norm",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::Architecture;

    fn with(changes: Value) -> Result<EncoderSpec, String> {
        let mut config = serde_json::json!({"model_type": "modernbert", "vocab_size": 50368, "hidden_size": 768,
            "num_hidden_layers": 4, "num_attention_heads": 12, "intermediate_size": 1152});
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let architecture = Architecture::parse(config.to_string().as_bytes());
        architecture
            .map(|architecture| architecture.spec)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn old_and_new_fields_describe_the_same_layers() {
        let old = with(
            serde_json::json!({"global_attn_every_n_layers": 2, "global_rope_theta": 5.0,
            "local_rope_theta": 7.0, "local_attention": 9}),
        );
        let types = [
            "full_attention",
            "sliding_attention",
            "full_attention",
            "sliding_attention",
        ];
        let new = with(
            serde_json::json!({"layer_types": types, "local_attention": 8, "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 5.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}}}),
        );
        assert_eq!(old, new);
        let spec = old.unwrap();
        assert_eq!(spec.local_of(1).map(|local| local.distance), Some(4));
        assert_eq!(spec.rotary_of(0).map(|rotary| rotary.theta), Some(5.0));
        assert_eq!(spec.rotary_of(1).map(|rotary| rotary.theta), Some(7.0));
        assert_eq!(spec.max_tokens(), 8192);
    }

    #[test]
    fn layers_and_rotations_that_are_not_supported_are_refused() {
        for (changes, named) in [
            (
                serde_json::json!({"layer_types": ["full_attention"]}),
                "layer_types has 1 entries for 4",
            ),
            (
                serde_json::json!({"layer_types": ["linear", 1, 1, 1]}),
                "layer_types has \"linear\"",
            ),
            (
                serde_json::json!({"rope_scaling": {"rope_type": "yarn"}}),
                "rope_scaling",
            ),
            (
                serde_json::json!({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}),
                "rope_type is \"yarn\"",
            ),
            (serde_json::json!({"global_rope_theta": 0}), "rope_theta"),
        ] {
            let error = with(changes).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
