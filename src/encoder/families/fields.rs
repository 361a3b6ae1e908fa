//! The fields of a `config.json`, read with the bounds that they must keep.
//!
//! A value that is refused is recorded, and a value in its place is returned, so that one error names every field.

use std::cell::RefCell;

use serde_json::{Map, Value};

use super::ConfigError;
use crate::backend::{Activation, RareActivation};
use crate::checkpoint::json;

/// Larger sizes are a broken file: they bound the memory that a hostile one makes us allocate.
const SIZE_MAX: usize = 1 << 24;
pub const LAYERS_MAX: usize = 1024;
/// Longer tables of rotations are a broken file: each is made at load.
const ROTATIONS_MAX: usize = 1 << 17;

/// The fields of a `config.json`. `null` is the same as an absent field, as in transformers.
pub struct Fields {
    values: Map<String, Value>,
    /// In the order of reading, with the name of the field.
    refused: RefCell<Vec<(String, String)>>,
}

impl Fields {
    pub fn parse(config: &[u8]) -> Result<Self, ConfigError> {
        let values = json::parse(config).map_err(|error| ConfigError(vec![error.to_string()]))?;
        let mut values: Map<String, Value> = values;
        values.retain(|_, value| !value.is_null());
        Ok(Self {
            values,
            refused: RefCell::default(),
        })
    }

    /// `value` if nothing was refused.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigError> {
        let refused = self.refused.into_inner();
        match refused.is_empty() {
            true => Ok(value),
            false => Err(ConfigError(refused.into_iter().map(|(_, reason)| reason).collect())),
        }
    }

    /// Refuses the field `name`. Of several reasons the first one counts: the later ones often follow from it.
    pub fn refuse(&self, name: &str, reason: String) {
        if !self.is_refused(name) {
            self.refused.borrow_mut().push((name.to_owned(), reason));
        }
    }

    /// Refuses the values that these fields have together, unless they are valid. True if they are, and none of the
    /// fields was refused before.
    pub fn check(&self, names: &[&str], is_valid: bool, reason: impl FnOnce() -> String) -> bool {
        if names.iter().any(|name| self.is_refused(name)) {
            return false;
        }
        if !is_valid {
            self.refuse(names[0], reason());
        }
        is_valid
    }

    fn is_refused(&self, name: &str) -> bool {
        self.refused.borrow().iter().any(|(refused, _)| refused == name)
    }

    /// Refuses a value of another type than `expected`.
    pub fn refuse_type(&self, name: &str, value: &Value, expected: &str) {
        self.refuse(
            name,
            format!("{name} is {value}, an invalid type: it must be {expected}"),
        );
    }

    fn refuse_missing(&self, name: &str) {
        self.refuse(name, format!("missing field `{name}`"));
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// A whole number of 1 or more.
    pub fn size(&self, name: &str) -> usize {
        if self.get(name).is_none() {
            self.refuse_missing(name);
        }
        self.size_or(name, 1)
    }

    /// A whole number of 1 or more, `default` if it is absent.
    pub fn size_or(&self, name: &str, default: usize) -> usize {
        let Some(value) = self.get(name) else {
            return default;
        };
        let Value::Number(number) = value else {
            self.refuse_type(name, value, "a whole number");
            return 1;
        };
        match number.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=SIZE_MAX).contains(&size) => size,
            _ => {
                self.refuse(name, format!("{name} is {number}; it must be between 1 and {SIZE_MAX}"));
                1
            }
        }
    }

    /// The number of layers.
    pub fn layers(&self, name: &str) -> usize {
        let layers = self.size(name);
        let is_valid = self.check(&[name], layers <= LAYERS_MAX, || {
            format!("{name} is {layers}; it must be between 1 and {LAYERS_MAX}")
        });
        if is_valid { layers } else { 1 }
    }

    /// The number of rotary positions, `default` if it is absent.
    pub fn rotations_or(&self, name: &str, default: usize) -> usize {
        let rows = self.size_or(name, default);
        let is_valid = self.check(&[name], rows <= ROTATIONS_MAX, || {
            format!("{name} is {rows}; with rotary positions it must be at most {ROTATIONS_MAX}")
        });
        if is_valid { rows } else { 1 }
    }

    /// A whole number, `default` if it is absent.
    pub fn count_or(&self, name: &str, default: usize) -> usize {
        match self.get(name).and_then(Value::as_u64) {
            Some(0) => 0,
            _ => self.size_or(name, default),
        }
    }

    /// The id of a token.
    pub fn token(&self, name: &str) -> u32 {
        if self.get(name).is_none() {
            self.refuse_missing(name);
        }
        self.token_or(name, 0)
    }

    /// The id of a token, `default` if it is absent.
    pub fn token_or(&self, name: &str, default: u32) -> u32 {
        let Some(value) = self.get(name) else {
            return default;
        };
        match value.as_u64() {
            Some(id) if id < SIZE_MAX as u64 => id as u32,
            _ => {
                self.refuse(
                    name,
                    format!("{name} is {value}; it must be between 0 and {}", SIZE_MAX - 1),
                );
                default
            }
        }
    }

    /// A finite number, `default` if it is absent.
    pub fn number_or(&self, name: &str, default: f64) -> f64 {
        match self.get(name) {
            None => default,
            Some(Value::Number(number)) => number.as_f64().unwrap_or(default),
            Some(value) => {
                self.refuse_type(name, value, "a number");
                default
            }
        }
    }

    /// The epsilon of a normalization, 0 or more.
    pub fn epsilon_or(&self, name: &str, default: f64) -> f64 {
        let eps = self.number_or(name, default);
        self.check(&[name], eps >= 0.0, || format!("{name} is {eps}; it must be 0 or more"));
        eps
    }

    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            None => default,
            Some(Value::Bool(flag)) => *flag,
            Some(value) => {
                self.refuse_type(name, value, "true or false");
                default
            }
        }
    }

    pub fn text_or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        match self.get(name) {
            None => default,
            Some(Value::String(text)) => text,
            Some(value) => {
                self.refuse_type(name, value, "a text");
                default
            }
        }
    }

    /// An activation by transformers' name, `default` if it is absent.
    pub fn activation_or(&self, name: &str, default: &str) -> Activation {
        let function = self.text_or(name, default);
        let activation = Activation::named(function);
        self.check(&[name], activation.is_some(), || {
            let rare = RareActivation::NAMES.map(|(name, _)| name).join(", ");
            format!(
                "{name} is \"{function}\"; supported are gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, silu, {rare}"
            )
        });
        activation.unwrap_or(Activation::Gelu)
    }

    /// Refuses a text that is not `supported`. An absent field is `supported`.
    pub fn check_text(&self, name: &str, supported: &str) {
        let text = self.text_or(name, supported);
        self.check(&[name], text == supported, || {
            format!("{name} is \"{text}\"; only \"{supported}\" is supported")
        });
    }

    /// Refuses `true`, for the reason `why`. An absent field is `false`.
    pub fn check_false(&self, name: &str, why: &str) {
        let flag = self.flag_or(name, false);
        self.check(&[name], !flag, || format!("{name} is true; {why}"));
    }

    /// Refuses a field that is there.
    pub fn check_absent(&self, name: &str) {
        if self.get(name).is_some() {
            self.refuse(name, format!("{name} is set; it is not supported"));
        }
    }

    /// Refuses an encoder whose position embeddings are not a table.
    pub fn check_positions(&self) {
        self.check_text("position_embedding_type", "absolute");
    }

    /// Refuses heads of another size than `size`, the width divided by their number.
    pub fn check_head_size(&self, size: usize) {
        let given = self.size_or("head_dim", size);
        self.check(
            &["head_dim", "hidden_size", "num_attention_heads"],
            given == size,
            || format!("head_dim is {given}; it must be hidden_size / num_attention_heads, {size}"),
        );
    }

    /// Refuses a decoder.
    pub fn check_encoder(&self) {
        self.check_false("is_decoder", "a decoder does not see the tokens after a mask");
    }

    /// The base of rotary frequencies: in `rope_parameters`, there below `kind` if layers differ, or in the field
    /// `old_name` of older files.
    pub fn rope_theta(&self, kind: Option<&str>, old_name: &str, default: f64) -> f64 {
        self.check_absent("rope_scaling");
        let all = self.get("rope_parameters");
        if let Some(value) = all.filter(|value| !value.is_object()) {
            self.refuse_type("rope_parameters", value, "an object");
        }
        let (name, parameters) = match kind {
            Some(kind) => (
                format!("rope_parameters.{kind}"),
                all.and_then(|parameters| parameters.get(kind)),
            ),
            None => ("rope_parameters".to_owned(), all),
        };
        let rope_type = parameters.and_then(|parameters| parameters.get("rope_type"));
        if let Some(rope_type) = rope_type.filter(|value| value.as_str() != Some("default")) {
            self.refuse(
                &name,
                format!("{name}: rope_type is {rope_type}; only \"default\" is supported"),
            );
        }
        match parameters.and_then(|parameters| parameters.get("rope_theta")) {
            Some(theta) => {
                let base = theta.as_f64().filter(|&base| base >= 1.0);
                self.check(&[&name], base.is_some(), || {
                    format!("{name}: rope_theta is {theta}; it must be a number of 1 or more")
                });
                base.unwrap_or(default)
            }
            None => self.base_or(old_name, default),
        }
    }

    /// The base of rotary frequencies, `default` if it is absent.
    pub fn base_or(&self, name: &str, default: f64) -> f64 {
        let base = self.number_or(name, default);
        self.check(&[name], base >= 1.0, || {
            format!("{name} is {base}; it must be a number of 1 or more")
        });
        base
    }

    /// Attention heads, which must divide the width `hidden`, the value of the field `hidden_name`.
    pub fn heads(&self, name: &str, hidden_name: &str, hidden: usize) -> usize {
        let heads = self.size(name);
        self.check(&[name, hidden_name], hidden.is_multiple_of(heads), || {
            format!("{name} ({heads}) does not divide {hidden_name} ({hidden})")
        });
        heads
    }
}
