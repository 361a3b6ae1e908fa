//! The parts that families share with BERT: fields of `config.json`, and names of tensors.

use super::fields::Fields;
use crate::backend::{Activation, NormKind, RotaryPairing};
use crate::encoder::{
    Biases, EncoderSpec, HeadSpec, LayerModule, NormPlacement, Parameter, PositionEmbeddings, PositionRule, RotarySpec,
};

/// Names of the fields of a `config.json` that differ among families.
pub struct Names {
    pub hidden_size: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    pub intermediate_size: &'static str,
    pub activation: &'static str,
}

pub const BERT: Names = Names {
    hidden_size: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    intermediate_size: "intermediate_size",
    activation: "hidden_act",
};

/// An encoder with BERT's fields: BERT itself if no option is changed.
pub fn spec(fields: &Fields) -> EncoderSpec {
    fields.check_positions();
    EncoderSpec {
        token_types: Some(fields.size_or("type_vocab_size", 2)),
        ..spec_with(fields, &BERT)
    }
}

/// The same with other names of the fields, without token types, and without a check of the kind of positions.
pub fn spec_with(fields: &Fields, names: &Names) -> EncoderSpec {
    fields.check_encoder();
    let hidden_size = fields.size(names.hidden_size);
    let layers = fields.layers(names.layers);
    let activation = fields.activation_or(names.activation, "gelu");
    let heads = fields.heads(names.heads, names.hidden_size, hidden_size);
    EncoderSpec {
        vocab_size: fields.size("vocab_size"),
        embedding_size: hidden_size,
        hidden_size,
        positions: PositionEmbeddings {
            rows: fields.size_or("max_position_embeddings", 512),
            has_table: true,
            rule: PositionRule::Index,
        },
        rotary: None,
        local_attention: None,
        relative_bias: None,
        mask_scaling: None,
        token_types: None,
        task_types: None,
        embedding_norm: true,
        embedding_projection: false,
        layers,
        layer_order: (0..layers).collect(),
        layers_per_group: 1,
        convolution_groups: Vec::new(),
        norm_placement: NormPlacement::Post,
        first_attention_norm: true,
        gated: false,
        biases: Biases::ALL,
        final_norm: false,
        heads,
        key_value_heads: heads,
        intermediate_size: fields.size(names.intermediate_size),
        activation,
        head: HeadSpec {
            has_dense: true,
            size: hidden_size,
            activation,
            tied_decoder: fields.flag_or("tie_word_embeddings", true),
        },
        norm_kind: NormKind::Layer,
        layer_norm_eps: fields.epsilon_or("layer_norm_eps", 1e-12),
    }
}

/// The same with RoBERTa's positions, which begin after the padding token, and with GELU in the head.
pub fn roberta_spec(fields: &Fields) -> EncoderSpec {
    let mut spec = spec(fields);
    spec.positions = after_padding(fields, spec.positions.rows);
    spec.head.activation = Activation::Gelu;
    spec
}

/// A table of `rows` position embeddings that begins after the padding token's row.
pub fn after_padding(fields: &Fields, rows: usize) -> PositionEmbeddings {
    let pad_token = fields.token_or("pad_token_id", 1);
    let positions = PositionEmbeddings {
        rows,
        has_table: true,
        rule: PositionRule::SkipPadding { pad_token },
    };
    fields.check(
        &["max_position_embeddings", "pad_token_id"],
        rows > positions.offset(),
        || format!("max_position_embeddings is {rows}; after pad_token_id ({pad_token}) no position is left"),
    );
    positions
}

/// Positions without a table: their number is the field `name`, `default` if it is absent.
pub fn rotary_positions(fields: &Fields, name: &str, default: usize) -> PositionEmbeddings {
    PositionEmbeddings {
        rows: fields.rotations_or(name, default),
        has_table: false,
        rule: PositionRule::Index,
    }
}

/// Rotations of the heads that `spec` has from the fields `names`, with frequencies of this base.
pub fn rotary(
    fields: &Fields,
    names: &Names,
    spec: &EncoderSpec,
    pairing: RotaryPairing,
    theta: f64,
) -> Option<RotarySpec> {
    let head = spec.hidden_size / spec.heads;
    fields.check(&[names.heads, names.hidden_size], head.is_multiple_of(2), || {
        format!("heads have {head} columns; rotary positions need an even number")
    });
    Some(RotarySpec {
        pairing,
        theta,
        divisor: 1.0,
    })
}

/// BERT's names of the embeddings and the layers, below `prefix`; `None` for other parameters.
pub fn encoder_names(parameter: Parameter, prefix: &str) -> Option<Vec<String>> {
    encoder_names_with(parameter, prefix, module)
}

/// The same with other names of the modules.
pub fn encoder_names_with(
    parameter: Parameter,
    prefix: &str,
    module_name: fn(LayerModule) -> &'static str,
) -> Option<Vec<String>> {
    let name = match parameter {
        Parameter::WordEmbeddings => "embeddings.word_embeddings.weight".to_owned(),
        Parameter::PositionEmbeddings => "embeddings.position_embeddings.weight".to_owned(),
        Parameter::TokenTypeEmbeddings => "embeddings.token_type_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("embeddings.LayerNorm.{part}"),
        Parameter::Layer(layer, module, part) => format!("encoder.layer.{layer}.{}.{part}", module_name(module)),
        _ => return None,
    };
    Some(vec![format!("{prefix}.{name}")])
}

/// BERT's name of a module.
pub fn module(module: LayerModule) -> &'static str {
    match module {
        LayerModule::Query => "attention.self.query",
        LayerModule::Key => "attention.self.key",
        LayerModule::Value => "attention.self.value",
        LayerModule::AttentionOutput => "attention.output.dense",
        LayerModule::AttentionNorm => "attention.output.LayerNorm",
        LayerModule::FeedForwardGate | LayerModule::FeedForwardUp => "intermediate.dense",
        LayerModule::FeedForwardDown => "output.dense",
        LayerModule::OutputNorm => "output.LayerNorm",
    }
}

/// BERT's names of the head's parameters.
pub fn cls_head_names(parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::HeadDense(part) => vec![format!("cls.predictions.transform.dense.{part}")],
        Parameter::HeadNorm(part) => vec![format!("cls.predictions.transform.LayerNorm.{part}")],
        Parameter::Decoder => vec!["cls.predictions.decoder.weight".to_owned()],
        // transformers stores the bias under one name or both. If they differ, transformers 5 uses the decoder's.
        Parameter::DecoderBias => ["cls.predictions.decoder.bias", "cls.predictions.bias"]
            .map(str::to_owned)
            .to_vec(),
        _ => Vec::new(),
    }
}

/// RoBERTa's names of the head's parameters.
pub fn lm_head_names(parameter: Parameter) -> Vec<String> {
    match parameter {
        Parameter::HeadDense(part) => vec![format!("lm_head.dense.{part}")],
        Parameter::HeadNorm(part) => vec![format!("lm_head.layer_norm.{part}")],
        Parameter::Decoder => vec!["lm_head.decoder.weight".to_owned()],
        Parameter::DecoderBias => ["lm_head.decoder.bias", "lm_head.bias"].map(str::to_owned).to_vec(),
        _ => Vec::new(),
    }
}
