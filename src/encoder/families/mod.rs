//! Model families: one file for each, from its `config.json` to an [`EncoderSpec`] and the names of its tensors.
//!
//! To add a family: write its file with a [`Family`], list it in [`FAMILIES`], and add a golden checkpoint.

mod bert;

use super::{EncoderSpec, Parameter};
use crate::backend::Activation;
use crate::checkpoint::{TensorError, TensorSource, json};

/// All families, in the order in which error messages name them.
const FAMILIES: &[&Family] = &[&bert::FAMILY];

/// An architecture of transformers that the encoder can run.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The class of transformers with the masked-language-model head.
    pub class: &'static str,
    /// Reads the text of a `config.json`.
    parse: fn(&[u8]) -> Result<EncoderSpec, ConfigError>,
    /// The names that checkpoints give to a parameter, the usual one first.
    names: fn(&EncoderSpec, Parameter) -> Vec<String>,
}

/// Reason why a `config.json` is refused: one sentence that names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// An encoder's sizes and options, and the names of its tensors.
#[derive(Clone, Debug)]
pub struct Architecture {
    pub family: &'static Family,
    pub spec: EncoderSpec,
}

impl Architecture {
    /// Reads the text of a `config.json`. Without a `model_type` it is taken for BERT's.
    ///
    /// # Errors
    /// [`ConfigError`] for a file that is not JSON, lacks a field, or asks for something that is not supported.
    pub fn parse(config: &[u8]) -> Result<Self, ConfigError> {
        #[derive(serde::Deserialize)]
        struct ModelType {
            model_type: Option<String>,
        }
        // First: the fields of other models have other names.
        let ModelType { model_type } = parse(config)?;
        let model_type = model_type.as_deref().unwrap_or(bert::FAMILY.model_type);
        let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) else {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            return refuse(format!(
                "model_type is \"{model_type}\"; supported: {}",
                known.join(", ")
            ));
        };
        Ok(Self {
            family,
            spec: (family.parse)(config)?,
        })
    }

    /// The same, with `tied_decoder` as the checkpoint has it: some store a decoder of their own beside a config that
    /// says it is tied. As in transformers 5 a stored decoder counts, unless it equals the word embeddings.
    ///
    /// # Errors
    /// A tensor that is stored and cannot be read.
    pub fn with_stored_decoder(mut self, source: &mut dyn TensorSource) -> Result<Self, TensorError> {
        let decoder = self.stored_name(Parameter::Decoder, source);
        if self.spec.tied_decoder && source.contains(&decoder) {
            let shape = self.spec.shape(Parameter::Decoder);
            let is_same = source.tensor(&decoder, &shape)? == self.read(Parameter::WordEmbeddings, source)?;
            self.spec.tied_decoder = is_same;
        }
        Ok(self)
    }

    /// The name under which `source` has a parameter, or the usual name if it has it under none.
    pub fn stored_name(&self, parameter: Parameter, source: &dyn TensorSource) -> String {
        let mut names = (self.family.names)(&self.spec, parameter);
        let stored = names.iter().position(|name| source.contains(name));
        names.swap_remove(stored.unwrap_or(0))
    }

    /// The values of a parameter, row-major.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or cannot be read.
    pub fn read(&self, parameter: Parameter, source: &mut dyn TensorSource) -> Result<Vec<f32>, TensorError> {
        let name = self.stored_name(parameter, source);
        source.tensor(&name, &self.spec.shape(parameter))
    }
}

fn refuse<T>(reason: String) -> Result<T, ConfigError> {
    Err(ConfigError(reason))
}

/// Parses a `config.json`. `null` is the same as an absent field, as in transformers.
fn parse<T: serde::de::DeserializeOwned>(config: &[u8]) -> Result<T, ConfigError> {
    let refused = |error: serde_json::Error| ConfigError(error.to_string());
    let mut fields: serde_json::Map<String, serde_json::Value> = json::parse(config).map_err(refused)?;
    fields.retain(|_, value| !value.is_null());
    T::deserialize(serde_json::Value::Object(fields)).map_err(refused)
}

/// Larger sizes are a broken file: they bound the memory that a hostile one makes us allocate.
const SIZE_MAX: usize = 1 << 24;
const LAYERS_MAX: usize = 1024;

/// Refuses a size of 0 or beyond `max`; `sizes` are name, value and `max`.
fn check_sizes(sizes: &[(&str, usize, usize)]) -> Result<(), ConfigError> {
    match sizes.iter().find(|(_, value, max)| !(1..=*max).contains(value)) {
        Some((name, value, max)) => refuse(format!("{name} is {value}; it must be between 1 and {max}")),
        None => Ok(()),
    }
}

/// The activation that transformers calls `name`, which stands in `field`.
fn activation(field: &str, name: &str) -> Result<Activation, ConfigError> {
    match name {
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => refuse(format!(
            "{field} is \"{other}\"; supported are gelu, gelu_new, gelu_pytorch_tanh, relu and silu"
        )),
    }
}

/// Spellings of a tensor's name: as it is, with the old names of a layer normalization's parts (`gamma`, `beta`), and
/// both without `prefix`, which checkpoints of the encoder without its head lack.
fn spellings(name: String, prefix: &str) -> Vec<String> {
    let old = match name.rsplit_once("LayerNorm.") {
        Some((before, "weight")) => Some(format!("{before}LayerNorm.gamma")),
        Some((before, "bias")) => Some(format!("{before}LayerNorm.beta")),
        _ => None,
    };
    let mut names = vec![name];
    names.extend(old);
    let without: Vec<String> = names
        .iter()
        .filter_map(|name| name.strip_prefix(prefix).map(str::to_owned))
        .collect();
    names.extend(without);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_found_under_each_of_its_spellings() {
        assert_eq!(
            spellings("bert.embeddings.LayerNorm.weight".to_owned(), "bert."),
            [
                "bert.embeddings.LayerNorm.weight",
                "bert.embeddings.LayerNorm.gamma",
                "embeddings.LayerNorm.weight",
                "embeddings.LayerNorm.gamma",
            ]
        );
        assert_eq!(
            spellings("cls.predictions.bias".to_owned(), "bert."),
            ["cls.predictions.bias"]
        );
    }

    #[test]
    fn an_unknown_model_type_is_refused_with_the_known_ones() {
        for (config, named) in [
            (r#"{"model_type": "gpt2"}"#, "gpt2"),
            (r#"{"model_type": "xlm", "emb_dim": 16, "init": NaN}"#, "xlm"),
            (r#"{"dim": 16, "vocab_size": "x", "model_type": "funnel"}"#, "funnel"),
        ] {
            let error = Architecture::parse(config.as_bytes()).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("model_type is \"{named}\"; supported: bert")),
                "{error}"
            );
        }
    }
}
