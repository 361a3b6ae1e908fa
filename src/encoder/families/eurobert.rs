//! EuroBERT: <https://arxiv.org/abs/2503.05500>; the layers of Llama with attention to both sides.

use super::bert_like::{BERT, rotary, rotary_positions, spec_with};
use super::fields::Fields;
use super::{Family, Form};
use crate::backend::{NormKind, RotaryPairing};
use crate::encoder::{Biases, EncoderSpec, HeadSpec, LayerModule, NormPlacement, Parameter};

pub const FAMILY: Family = Family {
    model_type: "eurobert",
    name: "EuroBERT",
    class: "EuroBertForMaskedLM",
    parse: spec,
    names,
    form,
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = spec_with(fields, &BERT);
    let key_value_heads = fields.size_or("num_key_value_heads", spec.heads);
    fields.check(
        &["num_key_value_heads", "num_attention_heads"],
        spec.heads.is_multiple_of(key_value_heads),
        || {
            format!(
                "num_key_value_heads ({key_value_heads}) does not divide num_attention_heads ({})",
                spec.heads
            )
        },
    );
    fields.check_head_size(spec.hidden_size / spec.heads);
    let theta = fields.rope_theta(None, "rope_theta", 10_000.0);
    EncoderSpec {
        positions: rotary_positions(fields, "max_position_embeddings", 8192),
        rotary: rotary(fields, &BERT, &spec, RotaryPairing::Halves, theta),
        embedding_norm: false,
        norm_placement: NormPlacement::Pre,
        final_norm: true,
        gated: true,
        biases: Biases {
            attention: fields.flag_or("attention_bias", false),
            feed_forward: fields.flag_or("mlp_bias", false),
            feed_forward_down: fields.flag_or("mlp_bias", false),
            norm: false,
            head: false,
            decoder: fields.flag_or("mlp_bias", false),
        },
        key_value_heads,
        activation: fields.activation_or("hidden_act", "silu"),
        head: HeadSpec {
            has_dense: false,
            tied_decoder: fields.flag_or("tie_word_embeddings", false),
            ..spec.head
        },
        norm_kind: NormKind::RootMeanSquare,
        layer_norm_eps: fields.epsilon_or("rms_norm_eps", 1e-5),
        ..spec
    }
}

fn form(spec: &EncoderSpec, parameter: Parameter, _: &str) -> Form {
    match parameter {
        Parameter::Layer(_, LayerModule::Key | LayerModule::Value, _) if spec.key_value_heads < spec.heads => {
            Form::RepeatedRows {
                rows: spec.hidden_size / spec.heads,
                times: spec.heads / spec.key_value_heads,
            }
        }
        _ => Form::Whole,
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embed_tokens.weight".to_owned(),
        Parameter::FinalNorm(part) => format!("norm.{part}"),
        Parameter::Layer(layer, module, part) => format!("layers.{layer}.{}.{part}", name_of(module)),
        Parameter::Decoder => return vec!["lm_head.weight".to_owned()],
        Parameter::DecoderBias => return vec!["lm_head.bias".to_owned()],
        _ => return Vec::new(),
    };
    vec![format!("model.{name}"), name]
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query => "self_attn.q_proj",
        LayerModule::Key => "self_attn.k_proj",
        LayerModule::Value => "self_attn.v_proj",
        LayerModule::AttentionOutput => "self_attn.o_proj",
        LayerModule::AttentionNorm => "input_layernorm",
        LayerModule::FeedForwardGate => "mlp.gate_proj",
        LayerModule::FeedForwardUp => "mlp.up_proj",
        LayerModule::FeedForwardDown => "mlp.down_proj",
        LayerModule::OutputNorm => "post_attention_layernorm",
    }
}

#[cfg(test)]
mod tests {
    use crate::encoder::Architecture;

    #[test]
    fn each_option_of_biases_is_that_of_its_layers() {
        for (option, attention, others) in [("attention_bias", true, false), ("mlp_bias", false, true)] {
            let config = serde_json::json!({
                "model_type": "eurobert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 4, option: true,
            });
            let biases = Architecture::parse(config.to_string().as_bytes()).unwrap().spec.biases;
            assert_eq!(biases.attention, attention, "{option}");
            // transformers' decoder has the option of the feed-forward layers.
            for bias in [biases.feed_forward, biases.feed_forward_down, biases.decoder] {
                assert_eq!(bias, others, "{option}");
            }
        }
    }
}
