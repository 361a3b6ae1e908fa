//! The model's scores to predictions.

use super::Plan;
use crate::lm::{Scores, TokenScore};
use crate::tasks::TaskModel;
use crate::text::DecodeError;
use crate::work;

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

impl Prediction {
    /// The bytes of its strings.
    pub fn bytes(&self) -> usize {
        self.token_str.len() + self.sequence.len()
    }
}

/// Bytes of a prediction in JSON, without its sequence.
const PREDICTION_BYTES: usize = 128;

/// Bytes of a token of its sequence; nearly all tokens have fewer.
const TOKEN_BYTES: usize = 16;

/// The predictions for each mask of a text, in the order of the masks, best first.
pub type TextAnswer = Vec<Vec<Prediction>>;

/// The answer to a request before its strings are decoded: a prediction takes eight bytes, its strings repeat the text.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    plan: Plan,
    /// For each text and each of its masks: best first, `top_k` at most.
    scores: Vec<Scores>,
}

/// A prediction in an [`Answer`] by indices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Index {
    pub text: usize,
    pub mask: usize,
    pub rank: usize,
}

impl Answer {
    /// `scores` holds the model's scores for each sequence of the plan.
    pub fn new(plan: Plan, mut scores: Vec<Scores>) -> Self {
        for of_mask in scores.iter_mut().flatten() {
            sort_scores(of_mask, plan.top_k, plan.renormalize);
        }
        Self { plan, scores }
    }

    pub fn texts(&self) -> usize {
        self.scores.len()
    }

    /// The number of masks of a text.
    pub fn masks(&self, text: usize) -> usize {
        self.scores[text].len()
    }

    /// The number of predictions for a mask.
    pub fn predictions(&self, text: usize, mask: usize) -> usize {
        self.scores[text][mask].len()
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        let of_texts = self.scores.iter().zip(&self.plan.sequences).map(|(scores, sequence)| {
            let predictions = scores.iter().map(Vec::len).sum::<usize>();
            predictions.saturating_mul(PREDICTION_BYTES + sequence.tokens() * TOKEN_BYTES)
        });
        of_texts.fold(0, usize::saturating_add)
    }
}

/// Keeps the best `top_k` scores, best first. With `renormalize` the probabilities of all are made to sum up to 1
/// before.
pub fn sort_scores(scores: &mut Vec<TokenScore>, top_k: usize, renormalize: bool) {
    if renormalize {
        self::renormalize(scores);
    }
    scores.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
    scores.truncate(top_k);
}

/// Makes the probabilities of `scores` sum up to 1.
fn renormalize(scores: &mut [TokenScore]) {
    let largest = scores
        .iter()
        .map(|score| score.log_prob)
        .fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        return;
    }
    let sum = scores
        .iter()
        .map(|score| f64::from(score.log_prob - largest).exp())
        .sum::<f64>();
    for score in scores {
        score.log_prob = (f64::from(score.log_prob - largest) - sum.ln()) as f32;
    }
}

impl TaskModel {
    /// Decodes all predictions.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    pub fn decode(&self, answer: &Answer) -> Result<Vec<TextAnswer>, DecodeError> {
        work::run_to_end(self.decode_in_slices(answer, |_| Ok(())))
    }

    /// The same with checkpoints, for a [`WorkPool`](crate::work::WorkPool). Calls `decoded` with the bytes of each
    /// prediction's strings, and ends with its error.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails, and those of `decoded`.
    pub async fn decode_in_slices<E: From<DecodeError>>(
        &self,
        answer: &Answer,
        mut decoded: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<TextAnswer>, E> {
        let mut texts = Vec::with_capacity(answer.texts());
        for text in 0..answer.texts() {
            let mut masks = Vec::with_capacity(answer.masks(text));
            for mask in 0..answer.masks(text) {
                let mut predictions = Vec::with_capacity(answer.predictions(text, mask));
                for rank in 0..answer.predictions(text, mask) {
                    let prediction = self.prediction(answer, Index { text, mask, rank })?;
                    decoded(prediction.bytes())?;
                    predictions.push(prediction);
                    work::checkpoint().await;
                }
                masks.push(predictions);
            }
            texts.push(masks);
        }
        Ok(texts)
    }

    /// Decodes one prediction.
    ///
    /// # Errors
    /// When the tokenizer's decoder fails.
    ///
    /// # Panics
    /// If the answer has no such prediction.
    pub fn prediction(&self, answer: &Answer, Index { text, mask, rank }: Index) -> Result<Prediction, DecodeError> {
        let sequence = &answer.plan.sequences[text];
        let positions = &sequence.readout.positions;
        let score = answer.scores[text][mask][rank];
        let replaced = sequence.token_ids.iter().enumerate();
        let replaced = replaced.map(|(position, &id)| if position == positions[mask] { score.token } else { id });
        let pad_id = self.tokenizer.pad_id();
        let shown: Vec<u32> = replaced.filter(|&id| Some(id) != pad_id).collect();
        // With several masks the special tokens stay in `sequence`: the other masks are among them.
        let skip_special_tokens = positions.len() == 1;
        Ok(Prediction {
            score: score.probability(),
            token: score.token,
            token_str: self.tokenizer.decode(&[score.token], false)?,
            sequence: self.tokenizer.decode(&shown, skip_special_tokens)?,
        })
    }
}
