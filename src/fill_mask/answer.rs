//! The model's scores as sentences.

use serde::Serialize;

use super::text::DecodeError;
use super::{FillMask, Question, Wanted};
use crate::lm::TokenScore;

/// One way to fill a blank.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Probability of the token among the whole vocabulary, 0 to 1.
    pub score: f32,
    /// Its id.
    pub token: u32,
    /// Its text.
    pub token_str: String,
    /// The text with the token in this blank.
    pub sequence: String,
}

/// What one text is answered with, best first: a list where it has one mask, else a list for each mask.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// For the only mask.
    One(Vec<Prediction>),
    /// For each of several masks, in their order; the other masks stay in `sequence`.
    Several(Vec<Vec<Prediction>>),
}

impl FillMask {
    /// Puts the model's scores for the masks of `question` into words.
    ///
    /// With one mask, special tokens are left out of `sequence`; with several they stay, or the blanks that
    /// are still open would vanish.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn answer(
        &self,
        question: &Question,
        wanted: &Wanted,
        scores: Vec<Vec<TokenScore>>,
    ) -> Result<Answer, DecodeError> {
        let single = question.mask_positions.len() == 1;
        let masks = question.mask_positions.iter().zip(scores);
        let rows = masks.map(|(&position, mut scores)| {
            scores.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
            scores.truncate(wanted.top_k);
            let mut ids = question.input_ids.clone();
            let prediction = |score: TokenScore| {
                ids[position] = score.token;
                self.prediction(&ids, score, single)
            };
            scores.into_iter().map(prediction).collect()
        });
        let mut rows = rows.collect::<Result<Vec<Vec<Prediction>>, _>>()?;
        Ok(match single {
            true => Answer::One(rows.pop().unwrap_or_default()),
            false => Answer::Several(rows),
        })
    }

    fn prediction(&self, ids: &[u32], score: TokenScore, skip_special_tokens: bool) -> Result<Prediction, DecodeError> {
        let shown: Vec<u32> = ids.iter().copied().filter(|&id| Some(id) != self.pad_id).collect();
        Ok(Prediction {
            score: score.probability(),
            token: score.token,
            token_str: self.decode(&[score.token], false)?,
            sequence: self.decode(&shown, skip_special_tokens)?,
        })
    }
}
