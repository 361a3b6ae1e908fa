//! Parameters to the tokens that are scored: the likeliest of the vocabulary, or given targets.

use std::sync::Arc;

use super::{InputError, Parameters};
use crate::lm::Select;
use crate::tasks::planning::LOOKUPS_MAX;
use crate::tasks::{ReplacedTargets, TaskModel};
use crate::work::{self, WorkBudget};

/// Targets of one request.
pub const TARGETS_MAX: usize = 10_000;

/// Bytes of one target.
pub const TARGET_BYTES_MAX: usize = 1_000;

/// `top_k` of a request that does not set it.
pub const TOP_K_DEFAULT: usize = 5;

/// A request's parameters, checked against the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tasks) struct Scoring {
    /// Tokens whose scores the model returns.
    pub select: Select,
    /// Predictions to keep for each mask, best first.
    pub top_k: usize,
    /// Scores are a softmax over the selected tokens alone.
    pub renormalize: bool,
    pub replaced_targets: ReplacedTargets,
}

impl TaskModel {
    /// Checks parameters without a text.
    ///
    /// # Errors
    /// A `top_k` out of range, and targets that are too many, too long, or unknown.
    pub fn check(&self, parameters: &Parameters) -> Result<(), InputError> {
        let mut budget = WorkBudget::new(LOOKUPS_MAX);
        work::run_to_end(self.scoring(parameters, &mut budget)).map(drop)
    }

    /// A target that the vocabulary lacks is tokenized and replaced by its first piece. Duplicates are merged. A
    /// `top_k` beyond the number of targets means all of them.
    pub(in crate::tasks) async fn scoring(
        &self,
        parameters: &Parameters,
        budget: &mut WorkBudget,
    ) -> Result<Scoring, InputError> {
        let top_k = parameters.top_k.unwrap_or(TOP_K_DEFAULT);
        // The default means "up to five", also for a vocabulary of three tokens.
        let exceeds = parameters.targets.is_none() && parameters.top_k.is_some_and(|given| given > self.vocab_size);
        if top_k == 0 || exceeds {
            return Err(InputError::TopK {
                top_k,
                vocab_size: self.vocab_size,
            });
        }
        if parameters.renormalize && parameters.targets.is_none() {
            return Err(InputError::Parameters(
                "renormalize is true and targets is missing; name the words in targets that share the probability.",
            ));
        }
        let Some(targets) = &parameters.targets else {
            let top_k = top_k.min(self.vocab_size);
            return Ok(Scoring {
                select: Select::TopK(top_k),
                top_k,
                renormalize: false,
                replaced_targets: ReplacedTargets::default(),
            });
        };
        let mut replaced_targets = ReplacedTargets::default();
        let token_ids = self.target_ids(targets, &mut replaced_targets, budget).await?;
        Ok(Scoring {
            top_k: top_k.min(token_ids.len()),
            select: Select::Tokens(token_ids),
            renormalize: parameters.renormalize,
            replaced_targets,
        })
    }

    /// Ascending, without duplicates.
    async fn target_ids(
        &self,
        targets: &[String],
        replaced: &mut ReplacedTargets,
        budget: &mut WorkBudget,
    ) -> Result<Arc<[u32]>, InputError> {
        if targets.len() > TARGETS_MAX {
            return Err(InputError::TooManyTargets {
                targets: targets.len(),
                max: TARGETS_MAX,
            });
        }
        // Before the look-ups, which cost more.
        if let Some(target) = targets.iter().find(|target| target.len() > TARGET_BYTES_MAX) {
            return Err(InputError::LongTarget {
                bytes: target.len(),
                max: TARGET_BYTES_MAX,
            });
        }
        let mut token_ids = Vec::with_capacity(targets.len().min(self.vocab_size));
        for target in targets {
            let id = self.tokenizer.first_token(target, budget).await?;
            let is_token = || {
                // Such as " text" for the token Ġtext.
                let of_id = |id| self.tokenizer.decode(&[id], false).is_ok_and(|text| text == *target);
                self.tokenizer.token_id(target).is_some() || id.is_some_and(of_id)
            };
            if !is_token() {
                replaced.add(target, id.and_then(|id| self.tokenizer.token(id)));
            }
            token_ids.extend(id);
            work::checkpoint().await;
        }
        token_ids.sort_unstable();
        token_ids.dedup();
        match token_ids.is_empty() {
            true => Err(InputError::NoTarget),
            false => Ok(token_ids.into()),
        }
    }
}
