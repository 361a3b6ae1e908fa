//! NomicBERT: <https://arxiv.org/abs/2402.01613>; BERT with rotary positions and gated feed-forward blocks.

use super::bert_like::{BERT, Names, cls_head_names, rotary, rotary_positions, spec_with};
use super::fields::Fields;
use super::{Family, joined_query_key_value, module_name};
use crate::backend::{Activation, RotaryPairing};
use crate::encoder::{Biases, EncoderSpec, HeadSpec, LayerModule, Parameter};

pub const FAMILY: Family = Family {
    model_type: "nomic_bert",
    name: "NomicBERT",
    class: "NomicBertForMaskedLM",
    parse: spec,
    names,
    form: joined_query_key_value,
};

/// The fields of the files on the hub, which are GPT-2's.
const OLD: Names = Names {
    hidden_size: "n_embd",
    layers: "n_layer",
    heads: "n_head",
    intermediate_size: "n_inner",
    // Checked apart.
    activation: "hidden_act",
};

/// The published code rounds the width of the feed-forward block up to a multiple of this.
const INTERMEDIATE_MULTIPLE: usize = 256;

fn spec(fields: &Fields) -> EncoderSpec {
    let is_old = fields.get("hidden_size").is_none();
    let names = if is_old { &OLD } else { &BERT };
    let spec = spec_with(fields, names);
    let positions = if is_old {
        "n_positions"
    } else {
        "max_position_embeddings"
    };
    let spec = EncoderSpec {
        positions: rotary_positions(fields, positions, 2048),
        token_types: Some(fields.size_or("type_vocab_size", 2)),
        gated: true,
        ..spec
    };
    match is_old {
        true => old_options(fields, spec),
        false => new_options(fields, spec),
    }
}

fn new_options(fields: &Fields, spec: EncoderSpec) -> EncoderSpec {
    fields.check_head_size(spec.hidden_size / spec.heads);
    let activation = fields.activation_or("hidden_act", "silu");
    let theta = fields.rope_theta(None, "rope_theta", 1000.0);
    EncoderSpec {
        rotary: rotary(fields, &BERT, &spec, RotaryPairing::Halves, theta),
        biases: Biases {
            attention: false,
            feed_forward: false,
            feed_forward_down: false,
            ..Biases::ALL
        },
        activation,
        head: HeadSpec {
            activation,
            ..spec.head
        },
        ..spec
    }
}

fn old_options(fields: &Fields, spec: EncoderSpec) -> EncoderSpec {
    let activation = fields.text_or("activation_function", "gelu_new");
    fields.check(&["activation_function"], activation == "swiglu", || {
        format!("activation_function is \"{activation}\"; only \"swiglu\" is supported")
    });
    for field in ["prenorm", "parallel_block", "use_rms_norm", "causal"] {
        fields.check_false(field, "it is not supported");
    }
    for field in ["rotary_emb_scale_base", "rotary_scaling_factor"] {
        fields.check_absent(field);
    }
    let experts = fields.count_or("moe_every_n_layers", 0);
    fields.check(&["moe_every_n_layers"], experts == 0, || {
        "moe_every_n_layers is set; a mixture of experts is not supported".to_owned()
    });
    let fraction = fields.number_or("rotary_emb_fraction", 0.0);
    fields.check(&["rotary_emb_fraction"], fraction == 1.0, || {
        format!("rotary_emb_fraction is {fraction}; only 1 is supported")
    });
    let in_bias = fields.flag_or("mlp_fc1_bias", true);
    let pairing = match fields.flag_or("rotary_emb_interleaved", false) {
        true => RotaryPairing::Neighbours,
        false => RotaryPairing::Halves,
    };
    let theta = fields.base_or("rotary_emb_base", 10_000.0);
    EncoderSpec {
        rotary: rotary(fields, &OLD, &spec, pairing, theta),
        biases: Biases {
            attention: fields.flag_or("qkv_proj_bias", true),
            feed_forward: in_bias,
            feed_forward_down: fields.flag_or("mlp_fc2_bias", true),
            head: in_bias,
            decoder: in_bias,
            ..Biases::ALL
        },
        intermediate_size: spec.intermediate_size.next_multiple_of(INTERMEDIATE_MULTIPLE),
        activation: Activation::Silu,
        head: HeadSpec {
            activation: Activation::Silu,
            ..spec.head
        },
        layer_norm_eps: fields.epsilon_or("layer_norm_epsilon", 1e-5),
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embeddings.word_embeddings.weight".to_owned(),
        Parameter::TokenTypeEmbeddings => "embeddings.token_type_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("emb_ln.{part}"),
        Parameter::Layer(layer, module, part) => format!("encoder.layers.{layer}.{}.{part}", name_of(module)),
        Parameter::HeadNorm(part) => return vec![format!("cls.predictions.transform.layer_norm.{part}")],
        other => return cls_head_names(other),
    };
    let mut names = vec![format!("nomic_bert.{name}"), format!("bert.{name}"), name];
    names.extend(module_name(parameter, "nomic_bert"));
    names
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query | LayerModule::Key | LayerModule::Value => "attn.Wqkv",
        LayerModule::AttentionOutput => "attn.out_proj",
        LayerModule::AttentionNorm => "norm1",
        LayerModule::FeedForwardGate => "mlp.fc12",
        LayerModule::FeedForwardUp => "mlp.fc11",
        LayerModule::FeedForwardDown => "mlp.fc2",
        LayerModule::OutputNorm => "norm2",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::encoder::Architecture;

    fn parse(mut config: Value, changes: Value) -> Result<EncoderSpec, String> {
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let architecture = Architecture::parse(config.to_string().as_bytes());
        architecture
            .map(|architecture| architecture.spec)
            .map_err(|error| error.to_string())
    }

    fn old(changes: Value) -> Result<EncoderSpec, String> {
        let config = json!({"model_type": "nomic_bert", "vocab_size": 30528, "n_embd": 768, "n_layer": 12,
            "n_head": 12, "n_inner": 3072, "n_positions": 2048, "activation_function": "swiglu",
            "layer_norm_epsilon": 1e-12, "rotary_emb_fraction": 1.0, "rotary_emb_base": 1000, "qkv_proj_bias": false,
            "mlp_fc1_bias": false, "mlp_fc2_bias": false, "rotary_scaling_factor": null});
        parse(config, changes)
    }

    #[test]
    fn old_and_new_fields_describe_the_same_layers() {
        let new = json!({"model_type": "nomic_bert", "vocab_size": 30528, "hidden_size": 768,
            "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072});
        let new = parse(new, json!({})).unwrap();
        let mut old = old(json!({})).unwrap();
        // The published files have no biases in the head; transformers takes zeros for them.
        assert_eq!((old.biases.head, old.biases.decoder), (false, false));
        old.biases = new.biases;
        assert_eq!(old, new);
        assert_eq!(new.rotary.map(|rotary| rotary.theta), Some(1000.0));
    }

    #[test]
    fn the_width_of_the_feed_forward_block_is_rounded_up() {
        assert_eq!(old(json!({"n_inner": 1000})).unwrap().intermediate_size, 1024);
    }

    #[test]
    fn unsupported_options_are_refused_by_name() {
        for (changes, named) in [
            (
                json!({"activation_function": "gelu"}),
                "activation_function is \"gelu\"",
            ),
            (json!({"prenorm": true}), "prenorm"),
            (json!({"use_rms_norm": true}), "use_rms_norm"),
            (json!({"rotary_scaling_factor": 2.0}), "rotary_scaling_factor"),
            (json!({"rotary_emb_fraction": 0.5}), "rotary_emb_fraction is 0.5"),
            (json!({"moe_every_n_layers": 2}), "mixture of experts"),
            (json!({"rotary_emb_base": 0.5}), "rotary_emb_base"),
        ] {
            let error = old(changes).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }
}
