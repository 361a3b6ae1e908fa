//! `cloze predict`, `cloze score` and `cloze sparse`: lines in, JSON Lines out, in the same order and through the same
//! engine as the server.
//!
//! Three stages run side by side: `input` reads lines, `window` plans up to 1,024 of them at a time, about a second of
//! work, and this file submits the plans and writes the answers. Each stage waits for the next when it is ahead, so that memory does not
//! grow with the input.
//!
//! | file | subject |
//! |---|---|
//! | `input` | lines, bounded in length |
//! | `format` | plain text or JSON; detection of JSON lists and CSV |
//! | `window` | lines that are answered together |
//! | `pace` | tokens of a window, so that it takes about a second |
//! | `output` | answers and errors as JSON Lines |

mod format;
mod input;
mod output;
mod pace;
mod window;

use std::collections::VecDeque;
use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum, ValueHint};
use cloze::api::ErrorBody;
use cloze::engine::Limits;
use cloze::pipeline::{self, Deadline, Pipeline};
use cloze::tasks::fill_mask::Parameters;
use cloze::tasks::{AnyAnswer, AnyPlan, Plan as _, score};
use cloze::text::{LengthRule, Truncation};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::batch::BatchArguments;
use super::log::LogArguments;
use super::model::ModelArguments;
use super::progress::Lines;
use super::values::{TOKENS_MAX, within};
use super::{CLEAN_UP_TIMEOUT, abort_after, complain, runtime};
use input::Source;
use output::{Output, Written};
use pace::Pace;
use window::{Defaults, Line, LineFormat, TEXTS_MAX, TaskDefaults, Window};

/// Some lines have an error in place of an answer. 1 is a failure to start or to go on, 2 a wrong flag.
const SOME_LINES_FAILED: u8 = 3;
/// While one window is answered, the next is prepared and waits in the engine's queue.
const WINDOWS_IN_FLIGHT: usize = 2;
/// Limit on the time in which a write that a signal interrupts may end its line.
const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Flags of every command that answers lines.
#[derive(Debug, Args)]
struct LineArguments {
    /// File to read; standard input without one, or with -
    #[arg(default_value = "-", hide_default_value = true, value_hint = ValueHint::FilePath)]
    file: PathBuf,

    /// Format of the lines; auto reads them as JSON if the first non-empty line begins with {, and refuses JSON lists
    /// and CSV
    #[arg(short, long, value_enum, ignore_case = true, default_value = "auto")]
    format: LineFormat,

    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    batch: BatchArguments,

    #[command(flatten)]
    log: LogArguments,
}

/// `cloze predict`.
#[derive(Debug, Args)]
pub struct PredictArguments {
    /// Predictions for each mask, unless a line says otherwise [default: 5]
    #[arg(short = 'k', long, value_name = "N", value_parser = within::<usize>(0..=TOKENS_MAX))]
    top_k: Option<usize>,

    /// Score these words alone, separated by commas, unless a line says otherwise
    #[arg(long, value_name = "WORDS", value_delimiter = ',')]
    targets: Option<Vec<String>>,

    #[command(flatten)]
    lines: LineArguments,
}

/// `cloze score`.
#[derive(Debug, Args)]
pub struct ScoreArguments {
    /// Tokens that are masked while one is scored, unless a line says otherwise [default: pll-word-l2r]
    #[arg(long, value_enum)]
    method: Option<ScoreMethod>,

    /// Write the score of each token too, unless a line says otherwise
    #[arg(long)]
    per_token: bool,

    #[command(flatten)]
    lines: LineArguments,
}

/// `cloze sparse`.
#[derive(Debug, Args)]
pub struct SparseArguments {
    /// Cut texts over the limit on the right, unless a line says otherwise
    #[arg(long)]
    truncate: bool,

    #[command(flatten)]
    lines: LineArguments,
}

/// `--method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScoreMethod {
    /// The token alone
    Pll,
    /// The token and the later tokens of its word
    PllWordL2r,
}

impl LineArguments {
    fn check(&self) -> Result<(), String> {
        self.log.check()?;
        self.model.check()
    }
}

impl PredictArguments {
    /// As [`ModelArguments::check`], and the level of the log.
    pub fn check(&self) -> Result<(), String> {
        self.lines.check()
    }
}

impl ScoreArguments {
    /// As [`PredictArguments::check`].
    pub fn check(&self) -> Result<(), String> {
        self.lines.check()
    }
}

impl SparseArguments {
    /// As [`PredictArguments::check`].
    pub fn check(&self) -> Result<(), String> {
        self.lines.check()
    }
}

/// Answers every line of the input with the most probable tokens for its masks.
pub fn predict(arguments: PredictArguments) -> Result<ExitCode, Box<dyn Error>> {
    let parameters = Parameters {
        top_k: arguments.top_k,
        targets: arguments.targets,
        ..Parameters::default()
    };
    run(arguments.lines, TaskDefaults::FillMask(parameters))
}

/// Scores every line of the input.
pub fn score(arguments: ScoreArguments) -> Result<ExitCode, Box<dyn Error>> {
    let parameters = score::Parameters {
        method: arguments.method.map(|method| match method {
            ScoreMethod::Pll => score::Method::Pll,
            ScoreMethod::PllWordL2r => score::Method::PllWordL2r,
        }),
        per_token: Some(arguments.per_token),
        only: None,
    };
    run(arguments.lines, TaskDefaults::Score(parameters))
}

/// Turns every line of the input into a sparse vector.
pub fn sparse(arguments: SparseArguments) -> Result<ExitCode, Box<dyn Error>> {
    let length = match arguments.truncate {
        true => LengthRule::truncate(Truncation::Right),
        false => LengthRule::default(),
    };
    run(arguments.lines, TaskDefaults::Sparse(length))
}

/// Answers every line of the input.
fn run(arguments: LineArguments, task: TaskDefaults) -> Result<ExitCode, Box<dyn Error>> {
    arguments.log.start()?;
    // Opened first: a file that is not there is known before a large model is read.
    let source = Source::open(&arguments.file)?;
    let mut model = arguments.model.open()?;
    let builder = arguments.batch.builder(queue_limits()).texts_max(TEXTS_MAX.get());
    builder.check(&model.info)?;
    let loaded = arguments.model.load(&mut model)?;
    let cloze = builder.start(model, loaded)?;
    let pipeline = Arc::clone(cloze.pipeline());
    if let TaskDefaults::FillMask(parameters) = &task {
        pipeline.model().check(parameters)?;
    }

    if source.is_terminal() {
        complain("reading lines from the terminal; Ctrl-D ends them");
    }
    let progress = Arc::new(Lines::new(source.bytes()));
    let lines = source.read();
    let (sender, windows) = mpsc::channel(1);
    let defaults = Defaults {
        format: arguments.format,
        task,
    };
    let (planner, pace) = (Arc::clone(&pipeline), Pace::new());
    let limit = pace.limit();
    let planning = std::thread::Builder::new()
        .name("cloze-plan".to_owned())
        .spawn(move || window::plan(&planner, defaults, &limit, &lines, &sender))?;

    let runtime = runtime::start()?;
    let lines_written = Arc::new(AtomicU64::new(0));
    let output = Output::new(Arc::clone(&pipeline), Arc::clone(&lines_written));
    let ended = runtime.block_on(async {
        let interrupted = interrupted()?;
        tokio::select! {
            biased;
            // The lines that are not written yet have no answers, only the same error each.
            reason = pipeline.engine().broken() => {
                abort_after(CLEAN_UP_TIMEOUT);
                let lines = lines_written.load(Ordering::Relaxed);
                Err(format!("the model failed: {reason}; {lines} lines are written, the others have no answer").into())
            }
            code = interrupted => Ok(Err(code)),
            ended = answer_all(&pipeline, windows, pace, output, &progress) => ended.map(Ok),
        }
    });
    runtime.shutdown_timeout(LAST_WRITE_TIMEOUT);
    progress.end();
    let written = match ended? {
        Ok(Some(written)) => written,
        // The reader of the output has left, as under `head`.
        Ok(None) => return Ok(ExitCode::SUCCESS),
        Err(signal) => {
            let lines = lines_written.load(Ordering::Relaxed);
            complain(&format!(
                "interrupted; {lines} lines are written, line {} is the next",
                lines + 1
            ));
            return Ok(ExitCode::from(128 + signal));
        }
    };
    // It has said that there is nothing more, unless it broke down.
    if planning.join().is_err() {
        return Err("a line could not be tokenized; the output ends before it".into());
    }
    pipeline.engine().stop();
    match written.first_error {
        None => Ok(ExitCode::SUCCESS),
        Some((line, error)) => {
            let (failed, all) = (written.failed, written.lines);
            complain(&format!(
                "{failed} of {all} lines have an error in place of an answer; line {line}: {error}"
            ));
            Ok(ExitCode::from(SOME_LINES_FAILED))
        }
    }
}

fn queue_limits() -> Limits {
    Limits {
        // A window closes at the first line that fills it, so it may hold almost twice its size.
        queue_size: TEXTS_MAX.get() * 2 * WINDOWS_IN_FLIGHT,
        ..Limits::default()
    }
}

/// The lines of a window in their order.
struct Scored {
    lines: Vec<ScoredLine>,
    /// Tokens of all lines.
    tokens: usize,
    started_at: Instant,
    ended_at: Instant,
}

struct ScoredLine {
    number: u64,
    answer: Result<AnyAnswer, LineError>,
}

/// Why a line has no answer.
enum LineError {
    Refused(ErrorBody),
    Failed(pipeline::Error),
}

/// Answers windows as they come and writes them in their order; `None` after their reader has left.
async fn answer_all(
    pipeline: &Arc<Pipeline>,
    mut windows: mpsc::Receiver<std::io::Result<Window>>,
    mut pace: Pace,
    mut output: Output,
    progress: &Arc<Lines>,
) -> Result<Option<Written>, Box<dyn Error>> {
    let mut flying: VecDeque<JoinHandle<Scored>> = VecDeque::new();
    let mut input_ended = false;
    while !(input_ended && flying.is_empty()) {
        tokio::select! {
            Some(scored) = next(&mut flying) => {
                flying.pop_front();
                let scored = scored?;
                pace.answered(scored.tokens, scored.started_at, scored.ended_at);
                // Writing may block for as long as the reader of our output likes.
                let (returned, result) = tokio::task::spawn_blocking(move || {
                    let result = output.write(scored);
                    (output, result)
                })
                .await?;
                output = returned;
                match result {
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(None),
                    result => result.map_err(|e| format!("the output cannot be written: {e}"))?,
                }
            }
            window = windows.recv(), if !input_ended && flying.len() < WINDOWS_IN_FLIGHT => match window {
                Some(Ok(window)) => flying.push_back(tokio::spawn(score_window(Arc::clone(pipeline), window, Arc::clone(progress)))),
                Some(Err(error)) => return Err(format!("the input cannot be read: {error}").into()),
                None => input_ended = true,
            },
        }
    }
    Ok(Some(output.finish()))
}

/// The oldest window, once it is answered.
async fn next(flying: &mut VecDeque<JoinHandle<Scored>>) -> Option<Result<Scored, tokio::task::JoinError>> {
    match flying.front_mut() {
        Some(oldest) => Some(oldest.await),
        None => None,
    }
}

/// Submits a window to the engine, its lines sorted by length, so that batches hold texts of similar length.
async fn score_window(pipeline: Arc<Pipeline>, window: Window, progress: Arc<Lines>) -> Scored {
    let (tokens, started_at) = (window.lines.iter().map(Line::tokens).sum(), Instant::now());
    let mut lines: Vec<(usize, Line)> = window.lines.into_iter().enumerate().collect();
    lines.sort_by_key(|(_, line)| line.tokens());
    let submissions = lines.into_iter().map(|(index, line)| {
        let (pipeline, progress) = (&pipeline, &progress);
        async move {
            let Line { number, bytes, plan } = line;
            let answer = match plan {
                Err(refused) => Err(LineError::Refused(refused)),
                Ok(plan) => submit(pipeline, plan).await.map_err(LineError::Failed),
            };
            progress.answered(bytes);
            (index, ScoredLine { number, answer })
        }
    });
    let mut scored = futures_util::future::join_all(submissions).await;
    scored.sort_by_key(|(index, _)| *index);
    Scored {
        lines: scored.into_iter().map(|(_, line)| line).collect(),
        tokens,
        started_at,
        ended_at: Instant::now(),
    }
}

/// No line has a deadline.
async fn submit(pipeline: &Pipeline, plan: AnyPlan) -> Result<AnyAnswer, pipeline::Error> {
    let admission = pipeline.admit()?;
    let submitted = pipeline.submit(admission, plan, Deadline::never(), |_| Ok(())).await?;
    Ok(submitted.plan.finish())
}

/// Completes with the number of the stop signal.
fn interrupted() -> std::io::Result<impl Future<Output = u8>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => 2,
                _ = terminate.recv() => 15,
            }
        })
    }
    #[cfg(not(unix))]
    {
        Ok(async {
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            2
        })
    }
}
