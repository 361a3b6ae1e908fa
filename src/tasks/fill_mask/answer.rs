//! The model's scores to predictions.

use super::{FillMask, Plan};
use crate::lm::{Scores, Sequence, TokenScore};
use crate::text::DecodeError;

/// One token for one mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// Probability among the whole vocabulary, 0 to 1.
    pub score: f32,
    pub token: u32,
    pub token_str: String,
    /// The text with the token in place of this mask.
    pub sequence: String,
}

/// The predictions for each mask of a text, in the order of the masks, best first.
pub type TextAnswer = Vec<Vec<Prediction>>;

impl FillMask {
    /// One answer for each text. `scores` holds the model's scores for each sequence of the plan.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn answer(&self, plan: &Plan, scores: Vec<Scores>) -> Result<Vec<TextAnswer>, DecodeError> {
        let texts = plan.sequences.iter().zip(scores);
        texts
            .map(|(sequence, scores)| self.text_answer(sequence, plan.top_k, scores))
            .collect()
    }

    fn text_answer(&self, sequence: &Sequence, top_k: usize, scores: Scores) -> Result<TextAnswer, DecodeError> {
        let positions = &sequence.readout.positions;
        // With several masks the special tokens stay in `sequence`: the other masks are among them.
        let skip_special_tokens = positions.len() == 1;
        let masks = positions.iter().zip(scores);
        let answers = masks.map(|(&position, mut scores)| {
            scores.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
            scores.truncate(top_k);
            let mut token_ids = sequence.token_ids.clone();
            let predictions = scores.into_iter().map(|score| {
                token_ids[position] = score.token;
                self.prediction(&token_ids, score, skip_special_tokens)
            });
            predictions.collect()
        });
        answers.collect()
    }

    fn prediction(
        &self,
        token_ids: &[u32],
        score: TokenScore,
        skip_special_tokens: bool,
    ) -> Result<Prediction, DecodeError> {
        let pad_id = self.tokenizer.pad_id();
        let shown: Vec<u32> = token_ids.iter().copied().filter(|&id| Some(id) != pad_id).collect();
        Ok(Prediction {
            score: score.probability(),
            token: score.token,
            token_str: self.tokenizer.decode(&[score.token], false)?,
            sequence: self.tokenizer.decode(&shown, skip_special_tokens)?,
        })
    }
}
