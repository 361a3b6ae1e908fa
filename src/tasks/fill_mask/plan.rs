//! A request to the sequences that the model reads.

use std::sync::Arc;

use super::answer_size::AnswerSize;
use super::{InputError, Mode, Request};
use crate::lm::{Scores, Sequence, TokenScore};
use crate::tasks::{Notes, Planning, TaskModel};
use crate::text::{EncodeError, Encoded, LengthRule};
use crate::work::{self, WorkBudget};

/// A checked and tokenized request.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One for each text, in order; its readout positions are the masks.
    pub sequences: Vec<Arc<Sequence>>,
    /// Predictions to keep for each mask, best first.
    pub(super) top_k: usize,
    /// Scores are a softmax over the selected tokens alone.
    pub(super) renormalize: bool,
    pub notes: Notes,
    /// `None` until the model has scored the sequences.
    pub(super) scores: Option<Vec<Scores>>,
}

impl Plan {
    /// Tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.tokens()).sum()
    }

    /// Bytes of the token ids and of the scores that the model returns.
    pub fn bytes(&self) -> usize {
        let scores = self
            .sequences
            .iter()
            .map(|sequence| sequence.readout.scores())
            .sum::<usize>();
        self.tokens() * size_of::<u32>() + scores * size_of::<TokenScore>()
    }

    /// Predictions in the answer, over all masks.
    pub fn predictions(&self) -> usize {
        let masks = self.sequences.iter().map(|sequence| sequence.readout.positions.len());
        masks.sum::<usize>() * self.top_k
    }
}

/// Look-ups in the vocabulary for one request: about a second. A megabyte of English needs a tenth.
pub const LOOKUPS_MAX: u64 = 10_000_000;

/// A score is read, copied and sorted.
pub const LOOKUPS_PER_SCORE: u64 = 4;

impl TaskModel {
    /// Checks the parameters and tokenizes the texts, `texts_max` of them at most.
    ///
    /// # Errors
    /// The first text or parameter that is refused.
    pub fn plan(&self, request: &Request, texts_max: usize) -> Result<Plan, InputError> {
        work::run_to_end(self.plan_in_slices(request, texts_max))
    }

    /// The same with checkpoints, for a [`WorkPool`](crate::work::WorkPool).
    ///
    /// # Errors
    /// As of [`plan`](Self::plan).
    pub async fn plan_in_slices(&self, request: &Request, texts_max: usize) -> Result<Plan, InputError> {
        if request.parameters.mode != Mode::Tokens {
            return Err(InputError::Parameters(
                "The request is another task than the one that answers it; leave out its mode.",
            ));
        }
        let Request { texts, parameters } = request;
        let targets = parameters.targets.as_deref().unwrap_or_default();
        let mut planning = Planning::begin(self, texts, targets, parameters.length, texts_max).await?;
        let scoring = self.scoring(parameters, &mut planning.budget).await?;
        let mut answer_size = AnswerSize::default();
        let mut sequences = Vec::with_capacity(texts.len());
        for (index, text) in texts.iter().enumerate() {
            let read = planning.encode_masked(text).await;
            let (token_ids, positions) = read.map_err(|error| planning.error_at(index, error))?;
            answer_size.add(positions.len() * scoring.top_k, token_ids.len())?;
            let sequence = Sequence::new(token_ids, positions, scoring.select.clone());
            // The model returns a score for each target at each mask, of which top_k are kept.
            let scored = planning
                .budget
                .spend(sequence.readout.scores() as u64 * LOOKUPS_PER_SCORE);
            scored.map_err(EncodeError::from)?;
            sequences.push(Arc::new(sequence));
            work::checkpoint().await;
        }
        Ok(Plan {
            sequences,
            top_k: scoring.top_k,
            renormalize: scoring.renormalize,
            notes: Notes {
                replaced_targets: scoring.replaced_targets,
                ..planning.notes()
            },
            scores: None,
        })
    }

    /// Token ids, the positions of the masks, and the number of tokens that truncation removed.
    pub(in crate::tasks) async fn tokens_and_masks(
        &self,
        text: &str,
        length: LengthRule,
        budget: &mut WorkBudget,
    ) -> Result<(Vec<u32>, Vec<usize>, usize), InputError> {
        let Encoded {
            token_ids, truncated, ..
        } = self.encode(text, length, budget).await?;
        let positions = self.mask_positions(&token_ids)?;
        Ok((token_ids, positions, truncated))
    }

    async fn encode(&self, text: &str, length: LengthRule, budget: &mut WorkBudget) -> Result<Encoded, InputError> {
        match text.trim().is_empty() {
            true => Err(InputError::Empty {
                mask_token: self.mask_token().to_owned(),
            }),
            false => Ok(self.tokenizer.encode_within(text, length, budget).await?),
        }
    }

    /// Ascending, at least one.
    fn mask_positions(&self, token_ids: &[u32]) -> Result<Vec<usize>, InputError> {
        let mask_id = self.tokenizer.mask_id();
        let masks = token_ids.iter().enumerate().filter(|(_, id)| **id == mask_id);
        let positions: Vec<usize> = masks.map(|(position, _)| position).collect();
        match positions.is_empty() {
            true => Err(InputError::NoMask {
                mask_token: self.mask_token().to_owned(),
            }),
            false => Ok(positions),
        }
    }
}
