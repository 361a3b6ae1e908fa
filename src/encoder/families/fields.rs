//! The fields of a `config.json`, read with the bounds that they must keep.

use serde_json::{Map, Value};

use super::{ConfigError, refuse};
use crate::backend::{Activation, RareActivation};
use crate::checkpoint::json;

/// Larger sizes are a broken file: they bound the memory that a hostile one makes us allocate.
const SIZE_MAX: usize = 1 << 24;
pub const LAYERS_MAX: usize = 1024;

/// The fields of a `config.json`. `null` is the same as an absent field, as in transformers.
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(config: &[u8]) -> Result<Self, ConfigError> {
        let mut fields: Map<String, Value> = json::parse(config).map_err(|error| ConfigError(error.to_string()))?;
        fields.retain(|_, value| !value.is_null());
        Ok(Self(fields))
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A whole number of 1 or more.
    pub fn size(&self, name: &str) -> Result<usize, ConfigError> {
        match self.size_of(name)? {
            Some(size) => Ok(size),
            None => refuse(format!("missing field `{name}`")),
        }
    }

    /// A whole number of 1 or more, `default` if it is absent.
    pub fn size_or(&self, name: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.size_of(name)?.unwrap_or(default))
    }

    /// The number of layers.
    pub fn layers(&self, name: &str) -> Result<usize, ConfigError> {
        match self.size(name)? {
            layers if layers > LAYERS_MAX => {
                refuse(format!("{name} is {layers}; it must be between 1 and {LAYERS_MAX}"))
            }
            layers => Ok(layers),
        }
    }

    fn size_of(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let Value::Number(number) = value else {
            return invalid_type(name, value, "a whole number");
        };
        match number.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=SIZE_MAX).contains(&size) => Ok(Some(size)),
            _ => refuse(format!("{name} is {number}; it must be between 1 and {SIZE_MAX}")),
        }
    }

    /// A whole number, `default` if it is absent.
    pub fn count_or(&self, name: &str, default: usize) -> Result<usize, ConfigError> {
        match self.get(name).and_then(Value::as_u64) {
            Some(0) => Ok(0),
            _ => self.size_or(name, default),
        }
    }

    /// The id of a token.
    pub fn token(&self, name: &str) -> Result<u32, ConfigError> {
        match self.get(name) {
            Some(_) => self.token_or(name, 0),
            None => refuse(format!("missing field `{name}`")),
        }
    }

    /// The id of a token, `default` if it is absent.
    pub fn token_or(&self, name: &str, default: u32) -> Result<u32, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(default);
        };
        match value.as_u64() {
            Some(id) if id < SIZE_MAX as u64 => Ok(id as u32),
            _ => refuse(format!("{name} is {value}; it must be between 0 and {}", SIZE_MAX - 1)),
        }
    }

    /// A finite number, `default` if it is absent.
    pub fn number_or(&self, name: &str, default: f64) -> Result<f64, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Number(number)) => Ok(number.as_f64().unwrap_or(default)),
            Some(value) => invalid_type(name, value, "a number"),
        }
    }

    /// The epsilon of a normalization, 0 or more.
    pub fn epsilon_or(&self, name: &str, default: f64) -> Result<f64, ConfigError> {
        match self.number_or(name, default)? {
            eps if eps >= 0.0 => Ok(eps),
            eps => refuse(format!("{name} is {eps}; it must be 0 or more")),
        }
    }

    pub fn flag_or(&self, name: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => invalid_type(name, value, "true or false"),
        }
    }

    pub fn text_or<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, ConfigError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::String(text)) => Ok(text),
            Some(value) => invalid_type(name, value, "a text"),
        }
    }

    /// An activation by transformers' name, `default` if it is absent.
    pub fn activation_or(&self, name: &str, default: &str) -> Result<Activation, ConfigError> {
        let function = self.text_or(name, default)?;
        match Activation::named(function) {
            Some(activation) => Ok(activation),
            None => {
                let rare = RareActivation::NAMES.map(|(name, _)| name).join(", ");
                refuse(format!(
                    "{name} is \"{function}\"; supported are gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, \
                     {rare}"
                ))
            }
        }
    }

    /// Refuses an encoder whose position embeddings are not a table.
    pub fn check_positions(&self) -> Result<(), ConfigError> {
        let positions = self.text_or("position_embedding_type", "absolute")?;
        if positions != "absolute" {
            return refuse(format!(
                "position_embedding_type is \"{positions}\"; only \"absolute\" is supported"
            ));
        }
        Ok(())
    }

    /// Refuses heads of another size than `size`, the width divided by their number.
    pub fn check_head_size(&self, size: usize) -> Result<(), ConfigError> {
        match self.size_or("head_dim", size)? {
            given if given == size => Ok(()),
            given => refuse(format!(
                "head_dim is {given}; it must be hidden_size / num_attention_heads, {size}"
            )),
        }
    }

    /// Refuses a decoder.
    pub fn check_encoder(&self) -> Result<(), ConfigError> {
        match self.flag_or("is_decoder", false)? {
            true => refuse("is_decoder is true; a decoder does not see the tokens after a mask".to_owned()),
            false => Ok(()),
        }
    }

    /// The base of rotary frequencies: in `rope_parameters`, there below `kind` if layers differ, or in the field
    /// `old_name` of older files.
    pub fn rope_theta(&self, kind: Option<&str>, old_name: &str, default: f64) -> Result<f64, ConfigError> {
        if self.get("rope_scaling").is_some() {
            return refuse("rope_scaling is set; it is not supported".to_owned());
        }
        let parameters = self.get("rope_parameters");
        let parameters = match kind {
            Some(kind) => parameters.and_then(|all| all.get(kind)),
            None => parameters,
        };
        let rope_type = parameters.and_then(|parameters| parameters.get("rope_type"));
        if let Some(rope_type) = rope_type.filter(|value| value.as_str() != Some("default")) {
            return refuse(format!(
                "rope_parameters: rope_type is {rope_type}; only \"default\" is supported"
            ));
        }
        match parameters.and_then(|parameters| parameters.get("rope_theta")) {
            Some(theta) => base(theta.as_f64().unwrap_or(f64::NAN), "rope_theta"),
            None => self.base_or(old_name, default),
        }
    }

    /// The base of rotary frequencies, `default` if it is absent.
    pub fn base_or(&self, name: &str, default: f64) -> Result<f64, ConfigError> {
        base(self.number_or(name, default)?, name)
    }

    /// Attention heads, which must divide the width `hidden`, the value of the field `hidden_name`.
    pub fn heads(&self, name: &str, hidden_name: &str, hidden: usize) -> Result<usize, ConfigError> {
        match self.size(name)? {
            heads if hidden.is_multiple_of(heads) => Ok(heads),
            heads => refuse(format!("{name} ({heads}) does not divide {hidden_name} ({hidden})")),
        }
    }
}

fn base(theta: f64, name: &str) -> Result<f64, ConfigError> {
    match theta >= 1.0 {
        true => Ok(theta),
        false => refuse(format!("{name} must be a number of 1 or more")),
    }
}

fn invalid_type<T>(name: &str, value: &Value, expected: &str) -> Result<T, ConfigError> {
    refuse(format!("{name} is {value}, an invalid type: it must be {expected}"))
}
