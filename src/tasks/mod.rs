//! Tasks: which sequences a request sends to the model, and how the model's scores become its answer.
//!
//! A [`Task`] is a request. It is planned, which checks and tokenizes it; the [`Plan`] gives sequences in pieces and
//! takes their scores; once it has no further piece it becomes an answer. No task knows the queue.
//!
//! | file | subject |
//! |---|---|
//! | `fill_mask/` | the most probable tokens for each mask, as transformers' pipeline |
//! | `words/` | targets of several tokens |
//! | `joint/` | several masks filled together |
//! | `positions` | the distribution at tokens of the unmasked text |
//! | `score` | the likelihood of a text |
//! | `sparse` | sparse vectors of texts |
//! | `any` | a request of any task |
//! | `model` | what tasks know of the model |
//! | `tokens` | the tokens of a text, without the model |
//! | `computation` | the cost of a request in the model, and its pieces |
//! | `planning` | the part of planning that all tasks share |
//! | `answer_size` | the limit on an answer |
//! | `notes` | facts about an answer beside it |
//! | `error` | refusals of a request |

mod answer_size;
mod any;
mod computation;
mod error;
pub mod fill_mask;
pub mod joint;
mod model;
mod notes;
mod planning;
pub mod positions;
pub mod score;
pub mod sparse;
mod tokens;
pub mod words;

use crate::lm::Scores;

pub use any::{AnyAnswer, AnyPlan, AnyRequest};
pub use computation::{COMPUTED_TOKENS_MAX, Computation, Piece, SEQUENCES_MAX};
pub use error::InputError;
pub use model::TaskModel;
pub use notes::{Notes, ReplacedTargets};
use planning::Planning;
pub use planning::Size;

/// A request.
pub trait Task: Send + Sync + 'static {
    type Plan: Plan;

    /// Checks and tokenizes the request, of `texts_max` texts at most. Awaits checkpoints alone.
    ///
    /// # Errors
    /// The first text or parameter that is refused.
    fn plan(&self, model: &TaskModel, texts_max: usize) -> impl Future<Output = Result<Self::Plan, InputError>> + Send;
}

/// A checked and tokenized request, which the model has scored in part.
pub trait Plan: Send + 'static {
    type Answer: Send + 'static;

    /// The name of the task in metrics.
    fn task(&self) -> &'static str;

    fn size(&self) -> Size;

    /// The most bytes of the plan, its pieces and its scores, without [`held`](Self::held).
    fn bytes(&self) -> usize;

    /// Bytes of results whose size is known only when they are there.
    fn held(&self) -> usize {
        0
    }

    /// Entries of the answer, such as predictions.
    fn entries(&self) -> usize;

    /// True if the sequences exist already and all are one piece: it takes no time to make it.
    fn is_one_piece(&self) -> bool {
        false
    }

    /// The sequences that the model scores next; none once it has scored all. Awaits checkpoints alone.
    fn next_piece(&mut self) -> impl Future<Output = Piece> + Send;

    /// The scores of the last piece, one for each sequence.
    fn take(&mut self, scores: Vec<Scores>);

    /// The answer, once there is no further piece.
    fn finish(self) -> Self::Answer;

    fn notes(&self) -> Notes;
}
