//! Reads and validates `config.json`.

use serde::Deserialize;

use super::CheckpointError;
use super::error::Part;
use super::files::{CONFIG, Files};
use crate::backend::Activation;
use crate::bert::BertConfig;

/// The fields of transformers' `BertConfig` that are used, with its defaults.
#[derive(Deserialize)]
struct ConfigFile {
    model_type: Option<String>,
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

/// Limits on sizes. They bound the memory that a malicious file can make the process allocate.
const SIZE_MAX: usize = 1 << 24;
const LAYERS_MAX: usize = 1024;

/// Reads `config.json`.
pub fn read(files: &Files) -> Result<BertConfig, CheckpointError> {
    if !files.has(CONFIG) {
        return Err(CheckpointError::Missing {
            part: Part::Config,
            location: files.location(),
            other_weights: None,
        });
    }
    parse(&files.read(CONFIG)?)
}

fn parse(json: &[u8]) -> Result<BertConfig, CheckpointError> {
    let refuse = |reason: String| Err(CheckpointError::Config(reason));
    let file: ConfigFile = serde_json::from_slice(json).map_err(|e| CheckpointError::Config(e.to_string()))?;
    match file.model_type.as_deref() {
        None | Some("bert") => {}
        Some(other) => return refuse(format!("model_type is \"{other}\"; only \"bert\" is supported")),
    }
    if file.position_embedding_type != "absolute" {
        return refuse(format!(
            "position_embedding_type is \"{}\"; only \"absolute\" is supported",
            file.position_embedding_type
        ));
    }
    if file.is_decoder {
        return refuse("is_decoder is true; a decoder does not see the tokens after a mask".to_owned());
    }
    let hidden_act = match file.hidden_act.as_str() {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        other => {
            return refuse(format!(
                "hidden_act is \"{other}\"; supported are gelu, gelu_new, gelu_pytorch_tanh, relu and silu"
            ));
        }
    };
    for (name, value, max) in [
        ("vocab_size", file.vocab_size, SIZE_MAX),
        ("hidden_size", file.hidden_size, SIZE_MAX),
        ("num_hidden_layers", file.num_hidden_layers, LAYERS_MAX),
        ("num_attention_heads", file.num_attention_heads, SIZE_MAX),
        ("intermediate_size", file.intermediate_size, SIZE_MAX),
        ("max_position_embeddings", file.max_position_embeddings, SIZE_MAX),
        ("type_vocab_size", file.type_vocab_size, SIZE_MAX),
    ] {
        if !(1..=max).contains(&value) {
            return refuse(format!("{name} is {value}; it must be between 1 and {max}"));
        }
    }
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
    Ok(BertConfig {
        vocab_size: file.vocab_size,
        hidden_size: file.hidden_size,
        num_hidden_layers: file.num_hidden_layers,
        num_attention_heads: file.num_attention_heads,
        intermediate_size: file.intermediate_size,
        hidden_act,
        layer_norm_eps: file.layer_norm_eps,
        max_position_embeddings: file.max_position_embeddings,
        type_vocab_size: file.type_vocab_size,
        tie_word_embeddings: file.tie_word_embeddings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes of bert-base-uncased, with some fields replaced or added.
    fn with(changes: &str) -> Result<BertConfig, String> {
        let mut config: serde_json::Value = serde_json::from_str(
            r#"{"model_type": "bert", "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12,
                "num_attention_heads": 12, "intermediate_size": 3072}"#,
        )
        .unwrap();
        let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        parse(config.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_those_of_transformers() {
        let config = with("{}").unwrap();
        assert_eq!(config.hidden_act, Activation::Gelu);
        assert_eq!(config.layer_norm_eps, 1e-12);
        assert_eq!((config.max_position_embeddings, config.type_vocab_size), (512, 2));
        assert!(config.tie_word_embeddings);
    }

    #[test]
    fn unsupported_values_are_named_in_the_error() {
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
            assert!(
                error.starts_with("config.json: ") && error.contains(named),
                "{changes}: {error}"
            );
        }
    }
}
