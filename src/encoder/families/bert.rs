//! BERT: <https://arxiv.org/abs/1810.04805>, as `BertForMaskedLM` of transformers has it.

use serde::Deserialize;

use super::{ConfigError, Family, LAYERS_MAX, SIZE_MAX, activation, check_sizes, json, refuse, spellings};
use crate::encoder::{EncoderSpec, LayerModule, Parameter, PositionEmbeddings};

pub const FAMILY: Family = Family {
    model_type: "bert",
    class: "BertForMaskedLM",
    parse,
    names,
};

/// The fields of transformers' `BertConfig` that the encoder reads, with its defaults.
#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default = "absolute")]
    position_embedding_type: String,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f64,
    #[serde(default = "max_position_embeddings")]
    max_position_embeddings: usize,
    #[serde(default = "type_vocab_size")]
    type_vocab_size: usize,
    #[serde(default = "yes")]
    tie_word_embeddings: bool,
    #[serde(default)]
    is_decoder: bool,
}

fn absolute() -> String {
    "absolute".to_owned()
}
fn gelu() -> String {
    "gelu".to_owned()
}
fn layer_norm_eps() -> f64 {
    1e-12
}
fn max_position_embeddings() -> usize {
    512
}
fn type_vocab_size() -> usize {
    2
}
fn yes() -> bool {
    true
}

fn parse(config: &[u8]) -> Result<EncoderSpec, ConfigError> {
    let file: ConfigFile = json(config)?;
    if file.position_embedding_type != "absolute" {
        return refuse(format!(
            "position_embedding_type is \"{}\"; only \"absolute\" is supported",
            file.position_embedding_type
        ));
    }
    if file.is_decoder {
        return refuse("is_decoder is true; a decoder does not see the tokens after a mask".to_owned());
    }
    let activation = activation("hidden_act", &file.hidden_act)?;
    check_sizes(&[
        ("vocab_size", file.vocab_size, SIZE_MAX),
        ("hidden_size", file.hidden_size, SIZE_MAX),
        ("num_hidden_layers", file.num_hidden_layers, LAYERS_MAX),
        ("num_attention_heads", file.num_attention_heads, SIZE_MAX),
        ("intermediate_size", file.intermediate_size, SIZE_MAX),
        ("max_position_embeddings", file.max_position_embeddings, SIZE_MAX),
        ("type_vocab_size", file.type_vocab_size, SIZE_MAX),
    ])?;
    if !file.hidden_size.is_multiple_of(file.num_attention_heads) {
        return refuse(format!(
            "num_attention_heads ({}) does not divide hidden_size ({})",
            file.num_attention_heads, file.hidden_size
        ));
    }
    if !(file.layer_norm_eps.is_finite() && file.layer_norm_eps >= 0.0) {
        return refuse(format!(
            "layer_norm_eps is {}; it must be 0 or more",
            file.layer_norm_eps
        ));
    }
    Ok(EncoderSpec {
        vocab_size: file.vocab_size,
        hidden_size: file.hidden_size,
        positions: PositionEmbeddings {
            rows: file.max_position_embeddings,
            offset: 0,
        },
        token_types: Some(file.type_vocab_size),
        layers: file.num_hidden_layers,
        heads: file.num_attention_heads,
        intermediate_size: file.intermediate_size,
        activation,
        head_activation: activation,
        layer_norm_eps: file.layer_norm_eps,
        tied_decoder: file.tie_word_embeddings,
    })
}

fn names(spec: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    let name = match parameter {
        Parameter::WordEmbeddings => "bert.embeddings.word_embeddings.weight".to_owned(),
        Parameter::PositionEmbeddings => "bert.embeddings.position_embeddings.weight".to_owned(),
        Parameter::TokenTypeEmbeddings => "bert.embeddings.token_type_embeddings.weight".to_owned(),
        Parameter::EmbeddingNorm(part) => format!("bert.embeddings.LayerNorm.{part}"),
        Parameter::Layer(layer, module, part) => {
            let module = match module {
                LayerModule::Query => "attention.self.query",
                LayerModule::Key => "attention.self.key",
                LayerModule::Value => "attention.self.value",
                LayerModule::AttentionOutput => "attention.output.dense",
                LayerModule::AttentionNorm => "attention.output.LayerNorm",
                LayerModule::FeedForwardUp => "intermediate.dense",
                LayerModule::FeedForwardDown => "output.dense",
                LayerModule::OutputNorm => "output.LayerNorm",
            };
            format!("bert.encoder.layer.{layer}.{module}.{part}")
        }
        Parameter::HeadDense(part) => format!("cls.predictions.transform.dense.{part}"),
        Parameter::HeadNorm(part) => format!("cls.predictions.transform.LayerNorm.{part}"),
        Parameter::Decoder => "cls.predictions.decoder.weight".to_owned(),
        // transformers stores one bias under one name or both, and reads an own decoder's from beside it.
        Parameter::DecoderBias => {
            let (tied, own) = ("cls.predictions.bias", "cls.predictions.decoder.bias");
            let names = if spec.tied_decoder { [tied, own] } else { [own, tied] };
            return names.map(str::to_owned).to_vec();
        }
    };
    spellings(name, "bert.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Activation;
    use crate::encoder::Architecture;

    /// The sizes of bert-base-uncased, with some fields replaced or added.
    fn with(changes: &str) -> Result<EncoderSpec, String> {
        let mut config: serde_json::Value = serde_json::from_str(
            r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
                "num_attention_heads": 12, "intermediate_size": 3072}"#,
        )
        .unwrap();
        let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        let architecture = Architecture::parse(config.to_string().as_bytes());
        architecture
            .map(|architecture| architecture.spec)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let spec = with("{}").unwrap();
        assert_eq!(spec.activation, Activation::Gelu);
        assert_eq!(spec.layer_norm_eps, 1e-12);
        assert_eq!((spec.max_tokens(), spec.token_types), (512, Some(2)));
        assert!(spec.tied_decoder);
    }

    #[test]
    fn an_unsupported_value_is_refused_by_its_name() {
        for (changes, named) in [
            (r#"{"model_type": "roberta"}"#, "model_type is \"roberta\""),
            (r#"{"position_embedding_type": "relative_key"}"#, "\"relative_key\""),
            (r#"{"hidden_act": "quick_gelu"}"#, "hidden_act is \"quick_gelu\""),
            (r#"{"is_decoder": true}"#, "is_decoder"),
            (
                r#"{"num_attention_heads": 7}"#,
                "num_attention_heads (7) does not divide hidden_size (768)",
            ),
            (r#"{"num_attention_heads": 0}"#, "num_attention_heads is 0"),
            (r#"{"vocab_size": 99999999999}"#, "vocab_size is 99999999999"),
            (r#"{"layer_norm_eps": -1}"#, "layer_norm_eps"),
            (r#"{"hidden_size": "wide"}"#, "invalid type"),
        ] {
            let error = with(changes).unwrap_err();
            assert!(error.contains(named), "{changes}: {error}");
        }
    }
}
