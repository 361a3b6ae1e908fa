//! One request, from admission to answer.
//!
//! [`Pipeline::admit`] takes a place in the queue before the request's body is read; [`Pipeline::run`] plans the
//! request of any task and submits its sequences to the engine, piece by piece; [`Pipeline::decode`] finishes the
//! answer. Planning and decoding compute on the threads of a [`WorkPool`], in slices, until the deadline or until the
//! client disconnects. The task routes decode their answers in pieces instead (`src/server/answer_body.rs`).
//!
//! | file | subject |
//! |---|---|
//! | `admission` | the place of a request, and its share of the memory for parsing and tokenizing |
//! | `deadline` | the moment until which a request must be answered |
//! | `memory` | the limit on the bytes of all bodies and answers |
//! | `progress` | notices when requests no longer get through |
//! | `error` | why a request has no answer |

mod admission;
mod deadline;
mod error;
mod memory;
mod progress;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::field::Empty;
use tracing::{Instrument, Span, debug_span};

pub use admission::Admission;
use admission::PlanningMemory;
pub use deadline::{Deadline, limit_in_words};
pub use error::Error;
pub use memory::{MemoryError, MemoryLimit, Reservation};
use progress::Progress;

use crate::engine::{Engine, EngineError, Timing};
use crate::tasks::fill_mask::{self, TextAnswer};
use crate::tasks::{Computation, Notes, Piece, Plan, Task, TaskModel};
use crate::work::{self, WorkPool};

/// Work on at most this many bytes is done at once, without a change of threads: some tens of microseconds.
const INLINE_BYTES_MAX: usize = 16 * 1024;

/// One thread would let a text of some milliseconds, which has no checkpoint inside, delay all others.
const THREADS_MIN: usize = 2;

/// Default limit on the bytes of all bodies and answers.
pub const MEMORY_BYTES_MAX: usize = 128 << 20;

/// The tasks of a model and the engine that computes it.
pub struct Pipeline {
    model: Arc<TaskModel>,
    engine: Engine,
    texts_max: usize,
    pool: Arc<WorkPool>,
    memory: MemoryLimit,
    planning: PlanningMemory,
    progress: Progress,
}

/// Sizes and times of one answered request.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub texts: usize,
    /// Tokens of all texts.
    pub tokens: usize,
    /// The name of the task in metrics.
    pub task: &'static str,
    /// Sequences and tokens that the model computed.
    pub computed: Computation,
    /// From the start of the request's plan to its submission.
    pub tokenizing: Duration,
    /// In the queue and in the model.
    pub timing: Timing,
}

/// A request that the model has answered; its strings are not decoded yet.
#[derive(Debug)]
pub struct Scored<A> {
    pub answer: A,
    pub notes: Notes,
    pub cost: Cost,
    /// The memory of the answer.
    pub memory: Reservation,
}

/// A plan that the model has scored.
pub struct Submitted<P> {
    pub plan: P,
    pub timing: Timing,
    pub computed: Computation,
}

/// The answer to one request.
#[derive(Debug)]
pub struct Answered {
    /// One for each text, in order.
    pub texts: Vec<TextAnswer>,
    pub cost: Cost,
    /// The memory of the answer.
    pub memory: Reservation,
}

impl Pipeline {
    /// Starts the threads that plan and decode, one for each core. A request holds at most as many texts as the queue.
    ///
    /// # Errors
    /// When the system starts too few threads.
    pub fn start(model: TaskModel, engine: Engine) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let pool = Arc::new(WorkPool::start(cores.max(THREADS_MIN))?);
        Ok(Self {
            planning: PlanningMemory::new(cores, model.text_bytes_max()),
            model: Arc::new(model),
            texts_max: engine.limits().queue_size,
            engine,
            memory: MemoryLimit::new(MEMORY_BYTES_MAX, Arc::clone(&pool)),
            pool,
            progress: Progress::default(),
        })
    }

    /// Sets the most texts of one request.
    pub fn with_texts_max(self, texts_max: usize) -> Self {
        Self { texts_max, ..self }
    }

    /// Sets the limit on the bytes of all bodies and answers in memory.
    pub fn with_memory_max(self, bytes: usize) -> Self {
        let memory = MemoryLimit::new(bytes, Arc::clone(&self.pool));
        Self { memory, ..self }
    }

    pub fn model(&self) -> &TaskModel {
        &self.model
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The most texts of one request.
    pub fn texts_max(&self) -> usize {
        self.texts_max
    }

    /// The limit on the bytes of bodies and answers.
    pub fn memory(&self) -> &MemoryLimit {
        &self.memory
    }

    /// Requests that plan or decode, or wait for a thread to do so.
    pub fn computing(&self) -> usize {
        self.pool.len()
    }

    /// True if a new request can be expected to get an answer: the model works, and requests get through.
    pub fn is_ready(&self) -> bool {
        let (sequences, _) = self.engine.waiting();
        let requests = self.pool.len() + sequences;
        self.engine.is_ready() && self.progress.is_ready(requests, self.pool.longest_wait())
    }

    /// Admits a request, before its body is read. It is not refused for a full queue afterwards, except while it
    /// [arrives](Admission::displaced).
    ///
    /// # Errors
    /// [`Error::Overloaded`] and [`Error::Stopped`].
    pub fn admit(&self) -> Result<Admission, Error> {
        let place = self.engine.admit();
        place
            .map(Admission::new)
            .map_err(|error| Error::from_engine(error, Duration::ZERO))
    }

    /// Admits a request that has arrived whole, in place of any that has not.
    ///
    /// # Errors
    /// [`Error::Overloaded`] and [`Error::Stopped`].
    pub fn admit_whole(&self) -> Result<Admission, Error> {
        let place = self.engine.admit_whole();
        place
            .map(Admission::new)
            .map_err(|error| Error::from_engine(error, Duration::ZERO))
    }

    /// Waits until there is memory to parse and tokenize a request with a body of `bytes` bytes.
    ///
    /// # Errors
    /// [`Error::Timeout`].
    pub async fn reserve_planning(
        &self,
        admission: &mut Admission,
        bytes: usize,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let reserved = tokio::time::timeout_at(deadline.at, self.planning.take(admission, bytes)).await;
        reserved.map_err(|_| {
            self.engine.stats().expired.add(1);
            self.progress.planned(true, deadline);
            Error::Timeout(deadline.timeout)
        })
    }

    /// Has the model answer an admitted request.
    ///
    /// # Errors
    /// The first text or parameter that is refused, the deadline, the memory limit, and failures of the engine.
    pub async fn run<T: Task>(
        self: &Arc<Self>,
        admission: Admission,
        request: T,
        deadline: Deadline,
    ) -> Result<Scored<<T::Plan as Plan>::Answer>, Error> {
        let started_at = Instant::now();
        let planned = self.plan_on_pool(admission, request, deadline).await;
        match &planned {
            Ok(_) | Err(Error::Input(_)) => self.progress.planned(false, deadline),
            Err(Error::Timeout(_)) => self.progress.planned(true, deadline),
            Err(_) => {}
        }
        let (plan, admission) = planned?;
        let in_part = AtomicBool::new(false);
        let tokenizing = started_at.elapsed();
        let scored = self
            .submit_and_finish(admission, plan, tokenizing, deadline, &in_part)
            .await;
        // A request of which the model has computed a part gets through, also if all of it takes too long.
        let error = scored.as_ref().err().filter(|_| !in_part.load(Ordering::Relaxed));
        self.progress.answered(error, deadline);
        scored
    }

    /// Checks and tokenizes a request on the pool.
    async fn plan_on_pool<T: Task>(
        self: &Arc<Self>,
        mut admission: Admission,
        request: T,
        deadline: Deadline,
    ) -> Result<(T::Plan, Admission), Error> {
        admission.settle()?;
        let pipeline = Arc::clone(self);
        let span = debug_span!("tokenize", texts = Empty, tokens = Empty);
        // The admission comes along, so that the place is taken while the work goes on.
        let plan = async move {
            let plan = request.plan(&pipeline.model, pipeline.texts_max).await?;
            let size = plan.size();
            Span::current().record("texts", size.texts);
            Span::current().record("tokens", size.tokens);
            // Without the share of the memory.
            Ok((plan, Admission::new(admission.place)))
        };
        self.compute(deadline, plan.instrument(span)).await?
    }

    async fn submit_and_finish<P: Plan>(
        &self,
        admission: Admission,
        plan: P,
        tokenizing: Duration,
        deadline: Deadline,
        in_part: &AtomicBool,
    ) -> Result<Scored<P::Answer>, Error> {
        let mut memory = self.memory.reserve(plan.bytes())?;
        let mut reserved = 0;
        let hold = |held: usize| {
            in_part.store(true, Ordering::Relaxed);
            memory.grow(held.saturating_sub(reserved))?;
            reserved = reserved.max(held);
            Ok(())
        };
        let Submitted { plan, timing, computed } = self.submit(admission, plan, deadline, hold).await?;

        let size = plan.size();
        let cost = Cost {
            texts: size.texts,
            tokens: size.tokens,
            task: plan.task(),
            computed,
            tokenizing,
            timing,
        };
        let notes = plan.notes();
        // Sorts the scores.
        let answer = self.compute_bytes(plan.bytes(), deadline, move || plan.finish());
        let answer = answer.await?;
        Ok(Scored {
            answer,
            notes,
            cost,
            memory,
        })
    }

    /// Decodes the answer to a request. [`TaskModel::prediction`] decodes one prediction at a time.
    ///
    /// # Errors
    /// The deadline, the memory limit, and a tokenizer whose decoder fails.
    pub async fn decode(
        self: &Arc<Self>,
        scored: Scored<fill_mask::Answer>,
        deadline: Deadline,
    ) -> Result<Answered, Error> {
        let Scored {
            answer,
            cost,
            mut memory,
            ..
        } = scored;
        let pipeline = Arc::clone(self);
        let decode = async move {
            let decoded = |bytes| Ok::<_, Error>(memory.grow(bytes)?);
            let texts = pipeline.model.decode_in_slices(&answer, decoded).await?;
            Ok(Answered { texts, cost, memory })
        };
        let decoded = self.compute(deadline, decode.instrument(debug_span!("render"))).await;
        decoded.and_then(|answered| answered)
    }

    /// Checks and tokenizes a request on the calling thread.
    ///
    /// # Errors
    /// The first text or parameter that is refused.
    pub fn plan<T: Task>(&self, request: &T) -> Result<T::Plan, Error> {
        Ok(work::run_to_end(request.plan(&self.model, self.texts_max))?)
    }

    /// Has the model score the sequences of a plan, piece by piece. Calls `hold` with the bytes that the plan
    /// [holds](Plan::held) after each, and when the deadline passes after a part of one was computed.
    ///
    /// # Errors
    /// The deadline, failures of the engine, and errors of `hold`; never a full queue.
    pub async fn submit<P: Plan>(
        &self,
        admission: Admission,
        mut plan: P,
        deadline: Deadline,
        mut hold: impl FnMut(usize) -> Result<(), Error>,
    ) -> Result<Submitted<P>, Error> {
        let mut admission = Some(admission.place);
        let (mut timing, mut computed) = (Timing::default(), Computation::default());
        loop {
            let piece;
            (plan, piece) = self.next_piece(plan, deadline).await?;
            if piece.sequences.is_empty() {
                return Ok(Submitted { plan, timing, computed });
            }
            computed.sequences += piece.sequences.len();
            computed.tokens += piece.tokens();
            let submitted = self
                .engine
                .submit(admission.take(), &piece.sequences, deadline.at)
                .await;
            if let Err(EngineError::Deadline { in_part: true }) = submitted {
                hold(plan.held())?;
            }
            let (scores, of_piece) = submitted.map_err(|error| Error::from_engine(error, deadline.timeout))?;
            timing = timing.then(of_piece);
            plan.take(scores);
            hold(plan.held())?;
        }
    }

    async fn next_piece<P: Plan>(&self, mut plan: P, deadline: Deadline) -> Result<(P, Piece), Error> {
        let is_one_piece = plan.is_one_piece();
        let next = async move {
            let piece = plan.next_piece().await;
            (plan, piece)
        };
        match is_one_piece {
            true => Ok(next.await),
            false => self.compute(deadline, next).await,
        }
    }

    /// Runs `work`, which awaits checkpoints alone, on the pool, and waits until the deadline at most. When the
    /// deadline passes or the returned future is dropped, the work ends at its next checkpoint.
    ///
    /// # Errors
    /// [`Error::Timeout`], and [`Error::Internal`] for a panic.
    pub async fn compute<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Error> {
        match tokio::time::timeout_at(deadline.at, self.pool.spawn(work)).await {
            Ok(done) => Ok(done?),
            Err(_) => {
                self.engine.stats().expired.add(1);
                Err(Error::Timeout(deadline.timeout))
            }
        }
    }

    /// Runs `work` on `bytes` bytes, such as parsing a body: on the calling thread if they take no time worth a change
    /// of threads, else on the pool.
    ///
    /// # Errors
    /// As of [`compute`](Self::compute).
    pub async fn compute_bytes<T: Send + 'static>(
        &self,
        bytes: usize,
        deadline: Deadline,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        match bytes <= INLINE_BYTES_MAX {
            true => Ok(work()),
            false => self.compute(deadline, async { work() }).await,
        }
    }
}

impl Answered {
    /// The bytes of all strings: a measure for the work of writing the answer.
    pub fn bytes(&self) -> usize {
        let predictions = self.texts.iter().flatten().flatten();
        predictions.map(|prediction| prediction.bytes()).sum()
    }
}
