//! Windows: as many lines as are sorted and answered together.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use clap::ValueEnum;
use cloze::fill_mask::{FillMask, Parameters, Question, Wanted};
use cloze::server::{self, ApiError, ErrorBody, Form};
use tokio::sync::mpsc;

use super::input::{LINE_BYTES_MAX, RawLine};

/// Texts of one window, and of one line at most.
pub const TEXTS_MAX: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// Bytes of the lines of one window.
const BYTES_MAX: usize = 4 << 20;
/// Predictions of one window: eight bytes each, until they are put into words one line after the other.
const PREDICTIONS_MAX: usize = 1 << 20;
/// A window also closes when the input pauses this long, so that somebody who types gets answers.
const PAUSE: Duration = Duration::from_millis(10);

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// JSON if the first line that is not blank begins with {, else plain text
    Auto,
    /// Every line is a text
    Text,
    /// Every line is a request as the server takes it: {"inputs": ..., "parameters": ...}
    Json,
}

/// A line and what it asks.
pub struct Line {
    pub number: u64,
    /// Bytes of the input up to its end.
    pub end: u64,
    pub asked: Result<Asked, ErrorBody>,
}

/// What a sound line asks.
pub struct Asked {
    pub wanted: Wanted,
    pub questions: Vec<Question>,
}

/// Lines in their order.
#[derive(Default)]
pub struct Window {
    pub lines: Vec<Line>,
}

impl Line {
    /// Tokens of all its texts.
    pub fn tokens(&self) -> usize {
        let questions = self.asked.iter().flat_map(|asked| &asked.questions);
        questions.map(|question| question.input_ids.len()).sum()
    }
}

/// Makes windows of `lines` until they end or nobody takes the windows any more.
pub fn prepare(
    fill_mask: &FillMask,
    parameters: &Parameters,
    format: Format,
    lines: &Receiver<io::Result<RawLine>>,
    windows: &mpsc::Sender<io::Result<Window>>,
) {
    let mut form = match format {
        Format::Auto => None,
        Format::Text => Some(Form::Text),
        Format::Json => Some(Form::Json),
    };
    let mut next = lines.recv().ok();
    while let Some(first) = next.take() {
        let mut window = Window::default();
        let (mut texts, mut bytes, mut predictions) = (0, 0, 0);
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
            let line = read(fill_mask, parameters, &mut form, line);
            if let Ok(asked) = &line.asked {
                texts += asked.questions.len();
                predictions += asked.predictions();
            }
            window.lines.push(line);
            if window.lines.len().max(texts) >= TEXTS_MAX.get() || bytes >= BYTES_MAX || predictions >= PREDICTIONS_MAX
            {
                break;
            }
            incoming = lines.recv_timeout(PAUSE).ok();
        }
        if windows.blocking_send(Ok(window)).is_err() {
            return;
        }
        if let Some(error) = failure {
            // Whether somebody still listens makes no difference: this is the end.
            let _ = windows.blocking_send(Err(error));
            return;
        }
        next = lines.recv().ok();
    }
}

impl Asked {
    fn predictions(&self) -> usize {
        let masks = self.questions.iter().map(|question| question.mask_positions.len());
        masks.sum::<usize>() * self.wanted.top_k
    }
}

/// Reads one line. The first that is not blank settles the form of all.
fn read(fill_mask: &FillMask, parameters: &Parameters, form: &mut Option<Form>, line: RawLine) -> Line {
    let asked = match &line.content {
        None => Err(ErrorBody {
            error: format!("The line is longer than the {LINE_BYTES_MAX} bytes that are allowed; split it."),
            error_type: "line_too_long".to_owned(),
        }),
        Some(content) => {
            let first = content.iter().find(|byte| !byte.is_ascii_whitespace());
            if let (None, Some(first)) = (&form, first) {
                *form = Some(if *first == b'{' { Form::Json } else { Form::Text });
            }
            ask(fill_mask, parameters, form.unwrap_or(Form::Text), content).map_err(|error| error.body())
        }
    };
    Line {
        number: line.number,
        end: line.end,
        asked,
    }
}

fn ask(fill_mask: &FillMask, parameters: &Parameters, form: Form, content: &[u8]) -> Result<Asked, ApiError> {
    let mut request = form.parse(content)?;
    let theirs = &mut request.parameters;
    theirs.top_k = theirs.top_k.or(parameters.top_k);
    theirs.targets = theirs.targets.take().or_else(|| parameters.targets.clone());
    let (wanted, questions) = server::prepare(fill_mask, &request, TEXTS_MAX.get())?;
    Ok(Asked { wanted, questions })
}
