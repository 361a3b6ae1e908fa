//! Fill-mask as a task of the pipeline.

use super::{Answer, InputError, Plan, Request};
use crate::lm::Scores;
use crate::tasks::{Computation, Notes, Piece, Plan as TaskPlan, Size, Task, TaskModel};

impl Task for Request {
    type Plan = Plan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<Plan, InputError> {
        model.plan_in_slices(self, texts_max).await
    }
}

impl TaskPlan for Plan {
    type Answer = Answer;

    fn task(&self) -> &'static str {
        "fill_mask"
    }

    fn size(&self) -> Size {
        let readouts = self.sequences.iter().map(|sequence| sequence.readout.positions.len());
        Size {
            texts: self.sequences.len(),
            tokens: self.tokens(),
            computation: Computation {
                sequences: self.sequences.len(),
                tokens: self.tokens() + readouts.sum::<usize>(),
            },
        }
    }

    fn bytes(&self) -> usize {
        self.bytes()
    }

    fn entries(&self) -> usize {
        self.predictions()
    }

    fn is_one_piece(&self) -> bool {
        true
    }

    async fn next_piece(&mut self) -> Piece {
        match self.scores {
            None => Piece::whole(&self.sequences),
            Some(_) => Piece::default(),
        }
    }

    fn take(&mut self, scores: Vec<Scores>) {
        self.scores = Some(scores);
    }

    fn finish(mut self) -> Answer {
        let scores = self.scores.take().unwrap_or_default();
        Answer::new(self, scores)
    }

    fn notes(&self) -> Notes {
        self.notes.clone()
    }
}
