//! DistilBERT: <https://arxiv.org/abs/1910.01108>; BERT without token types, under other names.

use super::bert_like::{Names, spec_with};
use super::fields::Fields;
use super::{Family, whole};
use crate::encoder::{EncoderSpec, LayerModule, Parameter};

pub const FAMILY: Family = Family {
    model_type: "distilbert",
    name: "DistilBERT",
    class: "DistilBertForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

const FIELDS: Names = Names {
    hidden_size: "dim",
    layers: "n_layers",
    heads: "n_heads",
    intermediate_size: "hidden_dim",
    activation: "activation",
};

fn spec(fields: &Fields) -> EncoderSpec {
    EncoderSpec {
        layer_norm_eps: 1e-12,
        ..spec_with(fields, &FIELDS)
    }
}

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embeddings.word_embeddings.weight".to_owned(),
        Parameter::PositionEmbeddings => "embeddings.position_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("embeddings.LayerNorm.{part}"),
        Parameter::Layer(layer, module, part) => format!("transformer.layer.{layer}.{}.{part}", name_of(module)),
        Parameter::HeadDense(part) => return vec![format!("vocab_transform.{part}")],
        Parameter::HeadNorm(part) => return vec![format!("vocab_layer_norm.{part}")],
        Parameter::Decoder => return vec!["vocab_projector.weight".to_owned()],
        Parameter::DecoderBias => return vec!["vocab_projector.bias".to_owned()],
        _ => return Vec::new(),
    };
    vec![format!("distilbert.{name}")]
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query => "attention.q_lin",
        LayerModule::Key => "attention.k_lin",
        LayerModule::Value => "attention.v_lin",
        LayerModule::AttentionOutput => "attention.out_lin",
        LayerModule::AttentionNorm => "sa_layer_norm",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "ffn.lin1",
        LayerModule::FeedForwardDown => "ffn.lin2",
        LayerModule::OutputNorm => "output_layer_norm",
    }
}
