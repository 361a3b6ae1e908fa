//! Progress: a bar on a terminal, log lines otherwise.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use cloze::hub;
use indicatif::{ProgressBar, ProgressStyle};

/// Progress of downloads.
#[derive(Default)]
pub struct Download {
    bar: Option<ProgressBar>,
    file: String,
}

const DOWNLOAD: &str = "{msg} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

impl hub::Progress for Download {
    fn begin(&mut self, file: &str, bytes: u64, present: u64) {
        file.clone_into(&mut self.file);
        if std::io::stderr().is_terminal() && hub::shows_progress() {
            let style = ProgressStyle::with_template(DOWNLOAD).expect("a valid template");
            let bar = ProgressBar::new(bytes)
                .with_style(style)
                .with_message(self.file.clone());
            // The rate excludes bytes of an earlier attempt.
            self.bar = Some(bar.with_position(present).with_elapsed(Duration::ZERO));
        } else if present > 0 {
            tracing::info!("resuming download of {file}: {present} of {bytes} bytes present");
        } else {
            tracing::info!("downloading {file}: {bytes} bytes");
        }
    }

    fn reached(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// Progress of `cloze predict`. Shown only if the output goes elsewhere than the terminal.
pub struct Lines {
    bar: Option<ProgressBar>,
    has_end: bool,
    started_at: Instant,
}

const LINES: &str = "{bar:30} {percent}%, {msg}, {eta} left";
const ENDLESS_LINES: &str = "{spinner} {msg}, {elapsed}";

impl Lines {
    /// `bytes` is the size of the input, if known.
    pub fn new(bytes: Option<u64>) -> Self {
        let visible = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        let bar = visible.then(|| {
            let (template, bar) = match bytes {
                Some(bytes) => (LINES, ProgressBar::new(bytes)),
                None => (ENDLESS_LINES, ProgressBar::new_spinner()),
            };
            bar.with_style(ProgressStyle::with_template(template).expect("a valid template"))
        });
        Self {
            bar,
            has_end: bytes.is_some(),
            started_at: Instant::now(),
        }
    }

    /// `lines` lines, the first `bytes` of the input, are answered.
    pub fn reached(&self, lines: u64, bytes: u64) {
        if let Some(bar) = &self.bar {
            let rate = lines as f64 / self.started_at.elapsed().as_secs_f64();
            bar.set_message(format!("{lines} lines, {rate:.0} per second"));
            match self.has_end {
                true => bar.set_position(bytes),
                false => bar.tick(),
            }
        }
    }

    /// Leaves the bar on the screen.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Shows how many batch sizes have run in the warm-up.
#[derive(Default)]
pub struct WarmUpProgress(Option<ProgressBar>);

const SIZES: &str = "compiling GPU kernels {bar:30} {pos} of {len} batch sizes, {eta} left";

impl WarmUpProgress {
    /// `done` of `sizes` batch sizes have run. Shows nothing for a single size, which takes a moment.
    pub fn reached(&mut self, done: usize, sizes: usize) {
        if sizes == 1 {
            return;
        }
        if done == 0 {
            self.0 = Self::start(sizes);
        }
        if let Some(bar) = &self.0 {
            bar.set_position(done as u64);
            if done == sizes {
                bar.finish_and_clear();
            }
        }
    }

    fn start(sizes: usize) -> Option<ProgressBar> {
        if !std::io::stderr().is_terminal() {
            tracing::info!("compiling GPU kernels for {sizes} batch sizes");
            return None;
        }
        let style = ProgressStyle::with_template(SIZES).expect("a valid template");
        Some(ProgressBar::new(sizes as u64).with_style(style))
    }
}
