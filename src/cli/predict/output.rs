//! Answers and errors as JSON Lines on standard output.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Arc;

use cloze::engine::EngineError;
use cloze::fill_mask::FillMask;
use cloze::lm::Scores;
use cloze::server::{Answers, ErrorBody};
use serde::Serialize;

use super::Answered;
use super::window::Asked;
use crate::cli::progress::Lines;

/// What has been written.
#[derive(Debug, Default)]
pub struct Written {
    pub lines: u64,
    /// Lines with an error in place of an answer.
    pub failed: u64,
    /// The first of them, and what it says.
    pub first_error: Option<(u64, String)>,
}

/// What stands where an answer would.
#[derive(Serialize)]
struct LineError<'a> {
    #[serde(flatten)]
    body: &'a ErrorBody,
    line: u64,
}

/// Puts scores into words and writes them.
pub struct Output {
    fill_mask: Arc<FillMask>,
    stdout: BufWriter<Stdout>,
    progress: Lines,
    written: Written,
}

impl Output {
    pub fn new(fill_mask: Arc<FillMask>, progress: Lines) -> Self {
        Self {
            fill_mask,
            stdout: BufWriter::with_capacity(64 << 10, io::stdout()),
            progress,
            written: Written::default(),
        }
    }

    /// Writes a whole window, and sees to it that it arrives.
    pub fn write(&mut self, answered: Answered) -> io::Result<()> {
        for (line, scores) in answered.lines {
            let answer = line.asked.and_then(|asked| self.answer(&asked, scores));
            // As a whole, so that a line that cannot be put into JSON leaves no half of one.
            let mut json = match answer {
                Ok(answers) => serde_json::to_vec(&answers)?,
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

    fn answer(&self, asked: &Asked, scores: Result<Vec<Scores>, EngineError>) -> Result<Answers, ErrorBody> {
        let failed = |error: &dyn std::fmt::Display| ErrorBody {
            error: format!("The line cannot be answered: {error}."),
            error_type: "internal".to_owned(),
        };
        let scores = scores.map_err(|error| failed(&error))?;
        let answers = asked.questions.iter().zip(scores);
        let answers = answers.map(|(question, scores)| self.fill_mask.answer(question, &asked.wanted, scores));
        let answers = answers.collect::<Result<Vec<_>, _>>().map_err(|error| failed(&error))?;
        Ok(Answers::from(answers))
    }

    /// Ends the progress bar.
    pub fn finish(self) -> Written {
        self.progress.end();
        self.written
    }
}
