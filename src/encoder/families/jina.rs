//! jina-embeddings-v3: <https://arxiv.org/abs/2409.10173>; RoBERTa with rotary positions.

use super::bert_like::{BERT, lm_head_names, rotary, rotary_positions, spec_with};
use super::fields::Fields;
use super::{Family, joined_query_key_value, module_name};
use crate::backend::{Activation, RotaryPairing};
use crate::encoder::{EncoderSpec, HeadSpec, LayerModule, Parameter};

pub const FAMILY: Family = Family {
    model_type: "jina_embeddings_v3",
    name: "Jina Embeddings v3",
    class: "JinaEmbeddingsV3ForMaskedLM",
    parse: spec,
    names,
    form: joined_query_key_value,
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = spec_with(fields, &BERT);
    fields.check_head_size(spec.hidden_size / spec.heads);
    let theta = fields.rope_theta(None, "rope_theta", 20_000.0);
    EncoderSpec {
        positions: rotary_positions(fields, "max_position_embeddings", 8194),
        rotary: rotary(fields, &BERT, &spec, RotaryPairing::Halves, theta),
        token_types: Some(fields.size_or("type_vocab_size", 1)),
        head: HeadSpec {
            activation: Activation::Gelu,
            ..spec.head
        },
        layer_norm_eps: fields.epsilon_or("layer_norm_eps", 1e-5),
        ..spec
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embeddings.word_embeddings.weight".to_owned(),
        Parameter::TokenTypeEmbeddings => "embeddings.token_type_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("emb_ln.{part}"),
        Parameter::Layer(layer, module, part) => format!("encoder.layers.{layer}.{}.{part}", name_of(module)),
        other => return lm_head_names(other),
    };
    let mut names = vec![format!("roberta.{name}"), name];
    let module_name = module_name(parameter, "roberta");
    names.extend(module_name.map(|name| {
        name.replace("mlp.up_proj", "mlp.fc1")
            .replace("mlp.down_proj", "mlp.fc2")
    }));
    names
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query | LayerModule::Key | LayerModule::Value => "mixer.Wqkv",
        LayerModule::AttentionOutput => "mixer.out_proj",
        LayerModule::AttentionNorm => "norm1",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "mlp.fc1",
        LayerModule::FeedForwardDown => "mlp.fc2",
        LayerModule::OutputNorm => "norm2",
    }
}
