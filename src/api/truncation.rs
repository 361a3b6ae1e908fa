//! The forms in which clients ask for truncation: a parameter of this server, the `tokenizer_kwargs` of transformers'
//! pipeline, and the fields of text-embeddings-inference.

use serde::Deserialize;

use super::Error;
use super::json::{JsonObject, Name, WholeNumber};
use crate::text::{LengthRule, Truncation};

/// `parameters.truncation`.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationName {
    Error,
    AroundMask,
    Right,
    Left,
}

/// `tokenizer_kwargs`: the keyword arguments of transformers' tokenizers that have a meaning here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerKwargs {
    truncation: Option<Strategy>,
    max_length: Option<WholeNumber>,
    /// Each text is a sequence of its own, so padding would change no score.
    padding: Option<Padding>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "truncation must be true, false, \"longest_first\", \"only_first\" or \"do_not_truncate\""
)]
enum Strategy {
    Flag(bool),
    Name(Name<StrategyName>),
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StrategyName {
    LongestFirst,
    OnlyFirst,
    DoNotTruncate,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "padding must be true, false, \"longest\", \"max_length\" or \"do_not_pad\""
)]
enum Padding {
    Flag(bool),
    Name(#[allow(dead_code, reason = "checked while it is parsed")] Name<PaddingName>),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PaddingName {
    Longest,
    MaxLength,
    DoNotPad,
}

/// `truncation_direction` of text-embeddings-inference.
#[derive(Clone, Copy, Deserialize)]
pub enum Direction {
    #[serde(alias = "left")]
    Left,
    #[serde(alias = "right")]
    Right,
}

impl TokenizerKwargs {
    /// `None` where texts over the limit are refused.
    fn rule(self) -> Result<Option<LengthRule>, Error> {
        let truncates = match self.truncation {
            Some(Strategy::Flag(flag)) => flag,
            Some(Strategy::Name(Name(name))) => name != StrategyName::DoNotTruncate,
            // As in transformers: a length alone truncates, unless padding is on.
            None => self.max_length.is_some() && matches!(self.padding, None | Some(Padding::Flag(false))),
        };
        let max_length = self.max_length.map(|WholeNumber(length)| {
            usize::try_from(length).map_err(|_| {
                Error::bad_request(
                    "bad_truncation",
                    format!("max_length is {length}; it must be 0 or more."),
                )
            })
        });
        let max_length = max_length.transpose()?;
        Ok(truncates.then_some(LengthRule {
            truncation: Truncation::AsTokenizer,
            max_length,
        }))
    }
}

/// The rule that a request asks for, in one form at most.
///
/// # Errors
/// Truncation in more than one form.
pub fn length_rule(
    name: Option<Name<TruncationName>>,
    kwargs: Option<JsonObject<TokenizerKwargs>>,
    truncate: Option<bool>,
    direction: Option<Name<Direction>>,
) -> Result<LengthRule, Error> {
    if usize::from(name.is_some()) + usize::from(kwargs.is_some()) + usize::from(truncate.is_some()) > 1 {
        return Err(Error::bad_request(
            "bad_truncation",
            "The request asks for truncation in more than one form; send one of truncation, tokenizer_kwargs and truncate.",
        ));
    }
    if let Some(Name(name)) = name {
        return Ok(LengthRule::truncate(match name {
            TruncationName::Error => Truncation::Error,
            TruncationName::AroundMask => Truncation::AroundMask,
            TruncationName::Right => Truncation::Right,
            TruncationName::Left => Truncation::Left,
        }));
    }
    if let Some(JsonObject(kwargs)) = kwargs {
        return Ok(kwargs.rule()?.unwrap_or_default());
    }
    Ok(truncate_rule(truncate, direction))
}

/// The rule of text-embeddings-inference's fields: cut on the right unless they say otherwise.
pub fn truncate_rule(truncate: Option<bool>, direction: Option<Name<Direction>>) -> LengthRule {
    match (truncate.unwrap_or(false), direction) {
        (false, _) => LengthRule::default(),
        (true, None | Some(Name(Direction::Right))) => LengthRule::truncate(Truncation::Right),
        (true, Some(Name(Direction::Left))) => LengthRule::truncate(Truncation::Left),
    }
}
