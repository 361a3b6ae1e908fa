//! BERT: <https://arxiv.org/abs/1810.04805>, as `BertForMaskedLM` of transformers has it.

use super::bert_like::{cls_head_names, encoder_names, spec};
use super::{Family, whole};
use crate::encoder::{EncoderSpec, Parameter};

pub const FAMILY: Family = Family {
    model_type: "bert",
    name: "BERT",
    class: "BertForMaskedLM",
    parse: spec,
    names,
    form: whole,
};

fn names(_: &EncoderSpec, parameter: Parameter) -> Vec<String> {
    encoder_names(parameter, "bert").unwrap_or_else(|| cls_head_names(parameter))
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
        assert!(spec.head.tied_decoder);
    }

    #[test]
    fn null_is_an_absent_field_and_numbers_that_are_not_finite_are_read() {
        let nulls = r#"{"position_embedding_type": null, "is_decoder": null, "hidden_act": null}"#;
        assert_eq!(with(nulls).unwrap(), with("{}").unwrap());
        let json = r#"{"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "other": [-Infinity, Infinity, NaN]}"#;
        let parse = |json: &str| Architecture::parse(json.as_bytes());
        assert_eq!(parse(json).unwrap().spec.layer_norm_eps, 1e-12);
        // A field that is used must be a number.
        let json = json.replace("other\": [", "layer_norm_eps\": NaN, \"other\": [");
        assert!(parse(&json).unwrap_err().to_string().contains("NaN"));
    }

    #[test]
    fn the_tied_matrix_and_the_bias_are_found_under_either_name() {
        let mut architecture = Architecture {
            family: &FAMILY,
            spec: with("{}").unwrap(),
        };
        let decoder = "cls.predictions.decoder.weight".to_owned();
        let names = architecture.names(Parameter::WordEmbeddings);
        let place = |wanted: &str| names.iter().position(|name| name == wanted).unwrap();
        assert!(place("bert.embeddings.word_embeddings.weight") < place("embeddings.word_embeddings.weight"));
        assert!(place("embeddings.word_embeddings.weight") < place(&decoder));
        assert_eq!(
            architecture.names(Parameter::DecoderBias)[0],
            "cls.predictions.decoder.bias"
        );
        architecture.spec.head.tied_decoder = false;
        assert!(!architecture.names(Parameter::WordEmbeddings).contains(&decoder));
    }

    #[test]
    fn an_unsupported_value_is_refused_by_its_name() {
        for (changes, named) in [
            (r#"{"model_type": "gpt2"}"#, "model_type is \"gpt2\""),
            (r#"{"position_embedding_type": "relative_key"}"#, "\"relative_key\""),
            (r#"{"hidden_act": "prelu"}"#, "hidden_act is \"prelu\""),
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
