//! A request to the sequences that the model reads.

use std::sync::Arc;

use super::{InputError, Mode, Request};
use crate::lm::{Scores, Sequence, TokenScore};
use crate::tasks::{Notes, Planning, TaskModel};
use crate::work;

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
        let mut sequences = Vec::with_capacity(texts.len());
        for text in texts {
            let (token_ids, positions) = planning.encode_masked(text).await?;
            planning.add_predictions(positions.len() * scoring.top_k, token_ids.len())?;
            let sequence = Sequence::new(token_ids, positions, scoring.select.clone());
            planning.add_scores(sequence.readout.scores())?;
            sequences.push(Arc::new(sequence));
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
}
