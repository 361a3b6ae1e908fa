//! BERT: <https://arxiv.org/abs/1810.04805>, as `BertForMaskedLM` of transformers has it.

use serde::Deserialize;

use super::{ConfigError, Family, LAYERS_MAX, SIZE_MAX, activation, check_sizes, parse, refuse, spellings};
use crate::encoder::{EncoderSpec, LayerModule, Parameter, PositionEmbeddings};

pub const FAMILY: Family = Family {
    model_type: "bert",
    class: "BertForMaskedLM",
    parse: spec,
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

fn spec(config: &[u8]) -> Result<EncoderSpec, ConfigError> {
    let file: ConfigFile = parse(config)?;
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
        // transformers stores the bias under one name or both. If they differ, transformers 5 uses the decoder's.
        Parameter::DecoderBias => {
            let names = ["cls.predictions.decoder.bias", "cls.predictions.bias"];
            return names.map(str::to_owned).to_vec();
        }
    };
    let mut names = spellings(name, "bert.");
    if parameter == Parameter::WordEmbeddings && spec.tied_decoder {
        // Of two tensors that share their memory, some programs store only one.
        names.push("cls.predictions.decoder.weight".to_owned());
    }
    names
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
    fn null_is_an_absent_field_and_numbers_that_are_not_finite_are_read() {
        let nulls = r#"{"position_embedding_type": null, "is_decoder": null, "hidden_act": null}"#;
        assert_eq!(with(nulls).unwrap(), with("{}").unwrap());
        let json = r#"{"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "other": [-Infinity, Infinity, NaN]}"#;
        assert_eq!(spec(json.as_bytes()).unwrap().layer_norm_eps, 1e-12);
        // A field that is used must be a number.
        let json = json.replace("other\": [", "layer_norm_eps\": NaN, \"other\": [");
        assert!(spec(json.as_bytes()).unwrap_err().to_string().contains("NaN"));
    }

    #[test]
    fn the_tied_matrix_and_the_bias_are_found_under_either_name() {
        let mut spec = with("{}").unwrap();
        let decoder = "cls.predictions.decoder.weight".to_owned();
        assert_eq!(names(&spec, Parameter::WordEmbeddings).last(), Some(&decoder));
        assert_eq!(names(&spec, Parameter::DecoderBias)[0], "cls.predictions.decoder.bias");
        spec.tied_decoder = false;
        assert!(!names(&spec, Parameter::WordEmbeddings).contains(&decoder));
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
            (r#"{"hidden_size": null}"#, "missing field `hidden_size`"),
        ] {
            let error = with(changes).unwrap_err();
            assert!(error.contains(named), "{changes}: {error}");
        }
    }
}
