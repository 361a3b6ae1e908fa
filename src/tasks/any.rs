//! The request, plan and answer of any task, for callers that choose the task at run time.

use super::computation::Piece;
use super::{InputError, Notes, Plan, Size, Task, TaskModel, fill_mask, joint, positions, score, sparse, words};
use crate::lm::Scores;

/// A request of any task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyRequest {
    FillMask(fill_mask::Request),
    Words(words::Request),
    Joint(joint::Request),
    Positions(positions::Request),
    Score(score::Request),
    Sparse(sparse::Request),
}

pub enum AnyPlan {
    FillMask(fill_mask::Plan),
    Words(words::Plan),
    Joint(joint::Plan),
    Positions(positions::Plan),
    Score(score::Plan),
    Sparse(sparse::Plan),
}

pub enum AnyAnswer {
    FillMask(fill_mask::Answer),
    Words(words::Answer),
    Joint(joint::Answer),
    Positions(positions::Answer),
    Score(score::Answer),
    Sparse(sparse::Answer),
}

/// Calls `$body` with the content of any variant.
macro_rules! each {
    ($any:expr, $of:ident => $body:expr) => {
        match $any {
            Self::FillMask($of) => $body,
            Self::Words($of) => $body,
            Self::Joint($of) => $body,
            Self::Positions($of) => $body,
            Self::Score($of) => $body,
            Self::Sparse($of) => $body,
        }
    };
}

impl From<fill_mask::Request> for AnyRequest {
    /// The task of the request's mode.
    fn from(request: fill_mask::Request) -> Self {
        let fill_mask::Request { texts, mut parameters } = request;
        match std::mem::take(&mut parameters.mode) {
            fill_mask::Mode::Tokens => Self::FillMask(fill_mask::Request { texts, parameters }),
            fill_mask::Mode::Words(method) => Self::Words(words::Request {
                texts,
                parameters,
                method,
            }),
            fill_mask::Mode::Joint(options) => Self::Joint(joint::Request {
                texts,
                parameters,
                options,
            }),
            fill_mask::Mode::Positions(which) => Self::Positions(positions::Request {
                texts,
                parameters,
                which,
            }),
        }
    }
}

impl Task for AnyRequest {
    type Plan = AnyPlan;

    async fn plan(&self, model: &TaskModel, texts_max: usize) -> Result<AnyPlan, InputError> {
        Ok(match self {
            Self::FillMask(request) => AnyPlan::FillMask(Task::plan(request, model, texts_max).await?),
            Self::Words(request) => AnyPlan::Words(request.plan(model, texts_max).await?),
            Self::Joint(request) => AnyPlan::Joint(request.plan(model, texts_max).await?),
            Self::Positions(request) => AnyPlan::Positions(request.plan(model, texts_max).await?),
            Self::Score(request) => AnyPlan::Score(request.plan(model, texts_max).await?),
            Self::Sparse(request) => AnyPlan::Sparse(request.plan(model, texts_max).await?),
        })
    }
}

impl Plan for AnyPlan {
    type Answer = AnyAnswer;

    fn task(&self) -> &'static str {
        each!(self, plan => plan.task())
    }

    fn size(&self) -> Size {
        each!(self, plan => plan.size())
    }

    fn bytes(&self) -> usize {
        each!(self, plan => plan.bytes())
    }

    fn held(&self) -> usize {
        each!(self, plan => plan.held())
    }

    fn entries(&self) -> usize {
        each!(self, plan => plan.entries())
    }

    fn is_one_piece(&self) -> bool {
        each!(self, plan => plan.is_one_piece())
    }

    async fn next_piece(&mut self) -> Piece {
        each!(self, plan => plan.next_piece().await)
    }

    fn take(&mut self, scores: Vec<Scores>) {
        each!(self, plan => plan.take(scores));
    }

    fn finish(self) -> AnyAnswer {
        match self {
            Self::FillMask(plan) => AnyAnswer::FillMask(plan.finish()),
            Self::Words(plan) => AnyAnswer::Words(plan.finish()),
            Self::Joint(plan) => AnyAnswer::Joint(plan.finish()),
            Self::Positions(plan) => AnyAnswer::Positions(plan.finish()),
            Self::Score(plan) => AnyAnswer::Score(plan.finish()),
            Self::Sparse(plan) => AnyAnswer::Sparse(plan.finish()),
        }
    }

    fn notes(&self) -> Notes {
        each!(self, plan => plan.notes())
    }
}

impl AnyAnswer {
    pub fn texts(&self) -> usize {
        each!(self, answer => answer.texts())
    }

    /// About as many bytes as the answer has in JSON, mostly more.
    pub fn bytes_estimate(&self) -> usize {
        each!(self, answer => answer.bytes_estimate())
    }
}

impl From<fill_mask::Answer> for AnyAnswer {
    fn from(answer: fill_mask::Answer) -> Self {
        Self::FillMask(answer)
    }
}
