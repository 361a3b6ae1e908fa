//! Answers and errors as JSON Lines on standard output.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Arc;

use cloze::api::{AnswerJson, ErrorBody};
use cloze::lm::Scores;
use cloze::pipeline::{self, Pipeline};
use cloze::tasks::fill_mask::{Answer, Plan};
use serde::Serialize;

use super::Scored;
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
struct LineError<'a> {
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
        for (line, scores) in scored.lines {
            let answer = line.plan.and_then(|plan| self.finish_plan(plan, scores));
            // As a whole, so that a line that cannot be serialized leaves no half of one.
            let mut json = match answer {
                Ok(json) => json,
                Err(body) => {
                    let json = serde_json::to_vec(&LineError {
                        body: &body,
                        line: line.number,
                    })?;
                    self.written.failed += 1;
                    self.written.first_error.get_or_insert((line.number, body.error));
                    json
                }
            };
            json.push(b'\n');
            self.stdout.write_all(&json)?;
            self.written.lines += 1;
            self.progress.reached(self.written.lines, line.end);
        }
        self.stdout.flush()
    }

    fn finish_plan(&self, plan: Plan, scores: Result<Vec<Scores>, pipeline::Error>) -> Result<Vec<u8>, ErrorBody> {
        let finished = scores.and_then(|scores| {
            let mut json = Vec::new();
            let mut writer = AnswerJson::new(Answer::new(plan, scores));
            writer.write(self.pipeline.task(), &mut json, usize::MAX)?;
            Ok(json)
        });
        finished.map_err(|error| ErrorBody {
            error: format!("The line cannot be answered: {error}."),
            error_type: "internal".to_owned(),
        })
    }

    /// Ends the progress bar.
    pub fn finish(self) -> Written {
        self.progress.end();
        self.written
    }
}
