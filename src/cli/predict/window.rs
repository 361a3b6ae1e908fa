//! Windows: lines that are sorted and answered together.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use clap::ValueEnum;
use cloze::api::{self, ErrorBody, TaskKind};
use cloze::pipeline::Pipeline;
use cloze::tasks::{AnyPlan, AnyRequest, Plan as _, fill_mask, score};
use cloze::text::LengthRule;
use tokio::sync::mpsc;

use super::format::Lines;
use super::input::{LINE_BYTES_MAX, RawLine};
use super::pace::TokenLimit;

/// Texts of one window, and of one line at most.
pub const TEXTS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Bytes of the lines of one window.
const BYTES_MAX: usize = 4 << 20;
/// Predictions of one window: eight bytes each, until they are written one line after the other.
const PREDICTIONS_MAX: usize = 1 << 20;
/// A window also closes when the input pauses this long, so that a person who types gets answers.
const PAUSE: Duration = Duration::from_millis(10);

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LineFormat {
    /// JSON if the first line that is not empty begins with {, else plain text; JSON lists and CSV are errors
    Auto,
    /// Every line is a text
    Text,
    /// Every line is a request as the server takes it: {"inputs": ...} and the parameters of the task
    Json,
}

/// Settings of lines that do not set their own.
pub struct Defaults {
    pub format: LineFormat,
    pub task: TaskDefaults,
}

/// The task of all lines, with the parameters of lines that do not set their own.
pub enum TaskDefaults {
    FillMask(fill_mask::Parameters),
    Score(score::Parameters),
    /// The treatment of texts over the limit.
    Sparse(LengthRule),
}

impl TaskDefaults {
    fn kind(&self) -> TaskKind {
        match self {
            Self::FillMask(_) => TaskKind::FillMask,
            Self::Score(_) => TaskKind::Score,
            Self::Sparse(_) => TaskKind::Sparse,
        }
    }
}

/// A line and its plan.
pub struct Line {
    pub number: u64,
    /// Its bytes in the input.
    pub bytes: u64,
    pub plan: Result<AnyPlan, ErrorBody>,
}

/// Lines in their order.
#[derive(Default)]
pub struct Window {
    pub lines: Vec<Line>,
}

impl Line {
    /// Tokens of all its texts.
    pub fn tokens(&self) -> usize {
        self.plan.as_ref().map_or(0, |plan| plan.size().tokens)
    }
}

/// Collects `lines` into windows and plans them, until the lines end or the windows are no longer received.
pub fn plan(
    pipeline: &Pipeline,
    defaults: Defaults,
    limit: &TokenLimit,
    lines: &Receiver<io::Result<RawLine>>,
    windows: &mpsc::Sender<io::Result<Window>>,
) {
    let mut planner = Planner {
        pipeline,
        task: defaults.task,
        format: match defaults.format {
            LineFormat::Auto => None,
            LineFormat::Text => Some(Lines::Text),
            LineFormat::Json => Some(Lines::Json),
        },
    };
    let mut next = lines.recv().ok();
    while let Some(first) = next.take() {
        let mut window = Window::default();
        let (mut texts, mut tokens, mut bytes, mut predictions) = (0, 0, 0, 0);
        let mut incoming = Some(first);
        let mut failure = None;
        while let Some(line) = incoming.take() {
            let line = match line {
                Ok(line) => line,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            };
            bytes += line.content.as_ref().map_or(0, Vec::len);
            let line = planner.line(line);
            if let Ok(plan) = &line.plan {
                texts += plan.size().texts;
                tokens += plan.size().tokens;
                predictions += plan.entries();
            }
            window.lines.push(line);
            if window.lines.len().max(texts) >= TEXTS_MAX.get()
                || tokens >= limit.get()
                || bytes >= BYTES_MAX
                || predictions >= PREDICTIONS_MAX
            {
                break;
            }
            incoming = lines.recv_timeout(PAUSE).ok();
        }
        if windows.blocking_send(Ok(window)).is_err() {
            return;
        }
        if let Some(error) = failure {
            // An error says that the windows are no longer received.
            let _ = windows.blocking_send(Err(error));
            return;
        }
        next = lines.recv().ok();
    }
}

struct Planner<'a> {
    pipeline: &'a Pipeline,
    task: TaskDefaults,
    /// `None` until the first line that is not white space alone decides it for all.
    format: Option<Lines>,
}

impl Planner<'_> {
    fn line(&mut self, line: RawLine) -> Line {
        let plan = match &line.content {
            None => Err(ErrorBody {
                error: format!("The line is longer than the {LINE_BYTES_MAX} bytes that are allowed; split it."),
                error_type: "line_too_long".to_owned(),
            }),
            Some(content) => {
                let content = match line.number {
                    1 => api::without_bom(content),
                    _ => content,
                };
                if self.format.is_none() && !content.trim_ascii().is_empty() {
                    self.format = Some(Lines::detect(content, self.pipeline.model().mask_token()));
                }
                self.plan(content).map_err(|error| error.body())
            }
        };
        Line {
            number: line.number,
            bytes: line.bytes,
            plan,
        }
    }

    fn plan(&self, content: &[u8]) -> Result<AnyPlan, api::Error> {
        let format = self.format.unwrap_or(Lines::Text);
        let kind = self.task.kind();
        let request = match &self.task {
            TaskDefaults::FillMask(defaults) => {
                let mut request = format.parse_fill_mask(content)?;
                let parameters = &mut request.parameters;
                parameters.top_k = parameters.top_k.or(defaults.top_k);
                parameters.targets = parameters.targets.take().or_else(|| defaults.targets.clone());
                AnyRequest::from(request)
            }
            TaskDefaults::Score(defaults) => {
                let mut request = format.parse(kind, content)?;
                if let AnyRequest::Score(score::Request { parameters, .. }) = &mut request {
                    parameters.method = parameters.method.or(defaults.method);
                    parameters.per_token = parameters.per_token.or(defaults.per_token);
                }
                request
            }
            TaskDefaults::Sparse(length) => {
                let mut request = format.parse(kind, content)?;
                if let AnyRequest::Sparse(request) = &mut request
                    && !request.length.truncates()
                {
                    request.length = *length;
                }
                request
            }
        };
        let planned = self.pipeline.plan(&request);
        planned.map_err(|error| kind.error(error))
    }
}
