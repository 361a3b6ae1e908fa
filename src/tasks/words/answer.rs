//! The best words for each mask.

use super::{Method, TaskModel, Text, replaced};
use crate::text::DecodeError;

/// The answer to a request, before its strings are decoded.
pub struct Answer {
    pub(super) method: Method,
    pub(super) pad_id: Option<u32>,
    pub(super) words: Vec<Vec<u32>>,
    pub(super) texts: Vec<Text>,
    /// Text and position of each mask.
    pub(super) masks: Vec<(usize, usize)>,
    /// The first mask of each text, and at the end the number of masks.
    pub(super) first_masks: Vec<usize>,
    /// For each mask the best words.
    pub(super) ranked: Vec<Vec<Ranked>>,
}

/// A word for a mask.
pub(super) struct Ranked {
    word: u32,
    log_prob: f64,
    score: f32,
}

/// One word for one mask.
#[derive(Clone, Debug, PartialEq)]
pub struct WordPrediction {
    /// The probability of the word by `method`, or its share of the targets.
    pub score: f32,
    pub token_str: String,
    /// The text with the word in place of this mask.
    pub sequence: String,
    pub tokens: Vec<u32>,
    /// The sum over the tokens, a natural logarithm.
    pub log_prob: f64,
    pub method: Method,
}

/// The best words, best first.
pub(super) fn rank(sums: &[f64], top_k: usize, renormalize: bool) -> Vec<Ranked> {
    let largest = sums.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = match renormalize && largest > f64::NEG_INFINITY {
        true => largest + sums.iter().map(|sum| (sum - largest).exp()).sum::<f64>().ln(),
        false => 0.0,
    };
    let mut best: Vec<u32> = (0..sums.len() as u32).collect();
    best.sort_by(|&a, &b| sums[b as usize].total_cmp(&sums[a as usize]));
    best.truncate(top_k);
    let ranked = best.into_iter().map(|word| {
        let log_prob = sums[word as usize];
        Ranked {
            word,
            log_prob,
            score: (log_prob - log_sum).exp() as f32,
        }
    });
    ranked.collect()
}

impl Answer {
    pub fn texts(&self) -> usize {
        self.texts.len()
    }

    /// The number of masks of a text.
    pub fn masks(&self, text: usize) -> usize {
        self.texts[text].masks
    }

    /// The number of words for a mask.
    pub fn predictions(&self, text: usize, mask: usize) -> usize {
        self.ranked[self.first_masks[text] + mask].len()
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        let of_masks = self.masks.iter().zip(&self.ranked);
        let of_masks =
            of_masks.map(|(&(text, _), ranked)| ranked.len() * (256 + 16 * self.texts[text].token_ids.len()));
        of_masks.sum()
    }

    /// Decodes one prediction.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn prediction(
        &self,
        model: &TaskModel,
        text: usize,
        mask: usize,
        rank: usize,
    ) -> Result<WordPrediction, DecodeError> {
        let mask = self.first_masks[text] + mask;
        let &Ranked { word, log_prob, score } = &self.ranked[mask][rank];
        let word = &self.words[word as usize];
        let Text { token_ids, masks } = &self.texts[text];
        let mut shown = replaced(token_ids, self.masks[mask].1, word);
        shown.retain(|&id| Some(id) != self.pad_id);
        Ok(WordPrediction {
            score,
            token_str: model.tokenizer.decode(word, false)?,
            // As in fill-mask: special tokens stay if other masks are among them.
            sequence: model.tokenizer.decode(&shown, *masks == 1)?,
            tokens: word.clone(),
            log_prob,
            method: self.method,
        })
    }
}
