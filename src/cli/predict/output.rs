//! Answers and errors as JSON Lines on standard output.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Arc;

use cloze::api::{AnswerJson, ErrorBody};
use cloze::pipeline::{self, Pipeline};
use cloze::tasks::AnyAnswer;
use serde::Serialize;

use super::{LineError, Scored, ScoredLine};
use crate::cli::progress::Lines;

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
    stdout: BufWriter<Stdout>,
    progress: Lines,
    written: Written,
}

impl Output {
    pub fn new(pipeline: Arc<Pipeline>, progress: Lines) -> Self {
        Self {
            pipeline,
            stdout: BufWriter::with_capacity(64 << 10, io::stdout()),
            progress,
            written: Written::default(),
        }
    }

    /// Writes and flushes a whole window.
    pub fn write(&mut self, scored: Scored) -> io::Result<()> {
        for ScoredLine { number, end, answer } in scored.lines {
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
            self.progress.reached(self.written.lines, end);
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

    /// Ends the progress bar.
    pub fn finish(self) -> Written {
        self.progress.end();
        self.written
    }
}
