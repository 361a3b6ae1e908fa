//! The part of a text that is kept when it is longer than the limit.

use std::ops::Range;

/// The treatment of a text over the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// The text is refused.
    #[default]
    Error,
    /// The end of the text is cut off.
    Right,
    /// The beginning of the text is cut off.
    Left,
    /// As transformers' tokenizers do: on the side and to the length that the files of the tokenizer state, on the
    /// right by default.
    AsTokenizer,
    /// Every mask is kept, with as many tokens as fit, as many before the masks as after them where there are enough.
    AroundMask,
}

/// The length of a text and its treatment beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LengthRule {
    pub truncation: Truncation,
    /// Tokens after truncation, special tokens included; `None` for the limit of the tokenizer.
    pub max_length: Option<usize>,
}

/// A text that truncation cannot cut, as a sentence for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TruncationError {
    /// `tokens` and `kept_max` are without special tokens.
    #[error(
        "The text is {tokens} tokens long, and truncation to {kept_max} would cut off a mask; shorten it, or set truncation to \"around_mask\"."
    )]
    MaskCutOff { tokens: usize, kept_max: usize },
    #[error(
        "The text is too long, and its masks are {span} tokens apart, of which {kept_max} fit; send the masks in several texts."
    )]
    MasksTooFarApart { span: usize, kept_max: usize },
    #[error(
        "The text is too long, and has no mask that truncation around a mask could keep; write a mask or shorten it."
    )]
    NoMaskToKeep,
}

impl LengthRule {
    /// Truncation to the limit of the tokenizer.
    pub fn truncate(truncation: Truncation) -> Self {
        Self {
            truncation,
            max_length: None,
        }
    }

    /// True if a text over the limit is cut.
    pub fn truncates(self) -> bool {
        self.truncation != Truncation::Error
    }

    /// The tokens to keep of a text of `tokens` tokens with masks at the ascending indices `masks`, if `kept_max` may
    /// be kept.
    ///
    /// # Errors
    /// When a mask would be cut off.
    pub(super) fn window(
        self,
        tokens: usize,
        kept_max: usize,
        masks: &[usize],
    ) -> Result<Range<usize>, TruncationError> {
        if tokens <= kept_max {
            return Ok(0..tokens);
        }
        let window = match self.truncation {
            Truncation::Error => 0..tokens,
            Truncation::Right => 0..kept_max,
            Truncation::Left => tokens - kept_max..tokens,
            Truncation::AsTokenizer => 0..kept_max,
            Truncation::AroundMask => around(tokens, kept_max, masks)?,
        };
        match masks.iter().all(|mask| window.contains(mask)) {
            true => Ok(window),
            false => Err(TruncationError::MaskCutOff { tokens, kept_max }),
        }
    }
}

/// The window of `kept` tokens whose centre is nearest to that of the masks.
fn around(tokens: usize, kept: usize, masks: &[usize]) -> Result<Range<usize>, TruncationError> {
    let (Some(first), Some(last)) = (masks.first(), masks.last()) else {
        return Err(TruncationError::NoMaskToKeep);
    };
    let span = last + 1 - first;
    let Some(context) = kept.checked_sub(span) else {
        return Err(TruncationError::MasksTooFarApart { span, kept_max: kept });
    };
    let start = first.saturating_sub(context / 2).min(tokens - kept);
    Ok(start..start + kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(
        truncation: Truncation,
        tokens: usize,
        kept_max: usize,
        masks: &[usize],
    ) -> Result<Range<usize>, TruncationError> {
        LengthRule::truncate(truncation).window(tokens, kept_max, masks)
    }

    #[test]
    fn a_text_within_the_limit_is_kept_whole() {
        for truncation in [
            Truncation::Error,
            Truncation::Right,
            Truncation::Left,
            Truncation::AroundMask,
        ] {
            assert_eq!(window(truncation, 10, 10, &[9]), Ok(0..10));
        }
        assert_eq!(
            window(Truncation::Error, 11, 10, &[3]),
            Ok(0..11),
            "refused later, with its length"
        );
    }

    #[test]
    fn the_sides_are_cut_unless_a_mask_is_there() {
        assert_eq!(window(Truncation::Right, 100, 10, &[0, 9]), Ok(0..10));
        assert_eq!(window(Truncation::Left, 100, 10, &[90, 99]), Ok(90..100));
        let cut = TruncationError::MaskCutOff {
            tokens: 100,
            kept_max: 10,
        };
        assert_eq!(window(Truncation::Right, 100, 10, &[9, 10]), Err(cut.clone()));
        assert_eq!(window(Truncation::Left, 100, 10, &[89, 95]), Err(cut));
    }

    /// Every length, limit and pair of masks of small texts.
    #[test]
    fn around_mask_keeps_every_mask_and_the_most_context() {
        for tokens in 1..14 {
            for kept in 0..tokens {
                for first in 0..tokens {
                    for last in first..tokens {
                        let window = window(Truncation::AroundMask, tokens, kept, &[first, last]);
                        let span = last + 1 - first;
                        if span > kept {
                            assert_eq!(window, Err(TruncationError::MasksTooFarApart { span, kept_max: kept }));
                            continue;
                        }
                        let window = window.unwrap();
                        assert!(window.contains(&first) && window.contains(&last), "{window:?}");
                        assert!(window.len() == kept && window.end <= tokens, "{window:?}");
                        // Both sides have the same length, or the shorter one is all that the text has there.
                        let (before, after) = (first - window.start, window.end - 1 - last);
                        let balanced = before.abs_diff(after) <= 1;
                        let ends = (before < after && window.start == 0) || (after < before && window.end == tokens);
                        assert!(balanced || ends, "{tokens} {kept} {first} {last}: {window:?}");
                    }
                }
            }
        }
        let none = window(Truncation::AroundMask, 20, 10, &[]);
        assert_eq!(none, Err(TruncationError::NoMaskToKeep));
    }
}
