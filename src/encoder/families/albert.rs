//! ALBERT: <https://arxiv.org/abs/1909.11942>; BERT with layers that share their weights, and embeddings of their own
//! width.

use super::bert_like;
use super::fields::{Fields, LAYERS_MAX};
use super::{Family, whole};
use crate::encoder::{EncoderSpec, HeadSpec, LayerModule, Parameter};

pub const FAMILY: Family = Family {
    model_type: "albert",
    name: "ALBERT",
    class: "AlbertForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn spec(fields: &Fields) -> EncoderSpec {
    let spec = bert_like::spec(fields);
    let embedding_size = fields.size_or("embedding_size", 128);
    let activation = fields.activation_or("hidden_act", "gelu_new");
    let groups = fields.size_or("num_hidden_groups", 1);
    let layers_per_group = fields.size_or("inner_group_num", 1);
    let passes = spec.layers;
    fields.check(&["num_hidden_groups", "num_hidden_layers"], groups <= passes, || {
        format!("num_hidden_groups ({groups}) must not exceed num_hidden_layers ({passes})")
    });
    let is_valid = fields.check(
        &["inner_group_num", "num_hidden_layers"],
        passes * layers_per_group <= LAYERS_MAX,
        || {
            format!(
                "inner_group_num ({layers_per_group}) times num_hidden_layers ({passes}) must be at most {LAYERS_MAX}"
            )
        },
    );
    // The list of layers has this length for each pass.
    let layers_per_group = if is_valid { layers_per_group } else { 1 };
    let group_of = |pass: usize| pass * groups / passes;
    let layer_order = (0..passes).flat_map(|pass| {
        let first = group_of(pass) * layers_per_group;
        first..first + layers_per_group
    });
    EncoderSpec {
        embedding_size,
        embedding_projection: true,
        layers: groups * layers_per_group,
        layer_order: layer_order.collect(),
        layers_per_group,
        activation,
        head: HeadSpec {
            size: embedding_size,
            activation,
            ..spec.head
        },
        ..spec
    }
}

fn names(spec: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::EmbeddingProjection(part) => format!("encoder.embedding_hidden_mapping_in.{part}"),
        Parameter::Layer(layer, module, part) => {
            let (group, inner) = (layer / spec.layers_per_group, layer % spec.layers_per_group);
            let module = name_of(module);
            format!("encoder.albert_layer_groups.{group}.albert_layers.{inner}.{module}.{part}")
        }
        Parameter::HeadDense(part) => return vec![format!("predictions.dense.{part}")],
        Parameter::HeadNorm(part) => return vec![format!("predictions.LayerNorm.{part}")],
        Parameter::Decoder => return vec!["predictions.decoder.weight".to_owned()],
        Parameter::DecoderBias => {
            return ["predictions.decoder.bias", "predictions.bias"]
                .map(str::to_owned)
                .to_vec();
        }
        other => return bert_like::encoder_names(other, "albert").unwrap_or_default(),
    };
    vec![format!("albert.{name}")]
}

fn name_of(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query => "attention.query",
        LayerModule::Key => "attention.key",
        LayerModule::Value => "attention.value",
        LayerModule::AttentionOutput => "attention.dense",
        LayerModule::AttentionNorm => "attention.LayerNorm",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "ffn",
        LayerModule::FeedForwardDown => "ffn_output",
        LayerModule::OutputNorm => "full_layer_layer_norm",
    }
}
