//! Answers and errors as JSON Lines on standard output.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cloze::api::{AnswerJson, ErrorBody};
use cloze::pipeline::{self, Pipeline};
use cloze::tasks::AnyAnswer;
use serde::Serialize;

use super::{LineError, Scored, ScoredLine};

/// Counts of the lines that have been written.
#[derive(Debug, Default)]
pub struct Written {
    pub lines: u64,
    /// Lines with an error in place of an answer.
    pub failed: u64,
    /// The first of them, and what it says.
    pub first_error: Option<(u64, String)>,
}

/// The output of a line that has no answer.
#[derive(Serialize)]
struct LineErrorJson<'a> {
    #[serde(flatten)]
    body: &'a ErrorBody,
    line: u64,
}

/// Turns scores into answers and writes them.
pub struct Output {
    pipeline: Arc<Pipeline>,
    stdout: BufWriter<CountLines<Stdout>>,
    written: Written,
}

/// Counts the line ends that a writer has taken.
struct CountLines<W> {
    writer: W,
    lines: Arc<AtomicU64>,
}

impl<W: Write> Write for CountLines<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.writer.write(bytes)?;
        let lines = bytes[..taken].iter().filter(|&&byte| byte == b'\n').count();
        self.lines.fetch_add(lines as u64, Ordering::Relaxed);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Output {
    /// `lines` counts the lines that are written.
    pub fn new(pipeline: Arc<Pipeline>, lines: Arc<AtomicU64>) -> Self {
        let writer = io::stdout();
        Self {
            pipeline,
            stdout: BufWriter::with_capacity(64 << 10, CountLines { writer, lines }),
            written: Written::default(),
        }
    }

    /// Writes and flushes a whole window.
    pub fn write(&mut self, scored: Scored) -> io::Result<()> {
        for ScoredLine { number, answer } in scored.lines {
            // As a whole, so that a line that cannot be serialized leaves no half of one.
            let mut json = match self.json(answer) {
                Ok(json) => json,
                Err(body) => {
                    let json = serde_json::to_vec(&LineErrorJson {
                        body: &body,
                        line: number,
                    })?;
                    self.written.failed += 1;
                    self.written.first_error.get_or_insert((number, body.error));
                    json
                }
            };
            json.push(b'\n');
            self.stdout.write_all(&json)?;
            self.written.lines += 1;
        }
        self.stdout.flush()
    }

    fn json(&self, answer: Result<AnyAnswer, LineError>) -> Result<Vec<u8>, ErrorBody> {
        let failed = |error: pipeline::Error| ErrorBody {
            error: format!("The line cannot be answered: {error}."),
            error_type: "internal".to_owned(),
        };
        let answer = answer.map_err(|error| match error {
            LineError::Refused(body) => body,
            LineError::Failed(error) => failed(error),
        })?;
        let mut json = Vec::new();
        let written = AnswerJson::new(answer).write(self.pipeline.model(), &mut json, usize::MAX);
        written.map_err(|error| failed(error.into()))?;
        Ok(json)
    }

    /// The counts of all lines.
    pub fn finish(self) -> Written {
        self.written
    }
}
