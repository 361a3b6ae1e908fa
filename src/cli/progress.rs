//! Progress: a bar on a terminal, log lines otherwise.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cloze::hub;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

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

/// Progress of `cloze predict`, counted as lines are answered, which is before they are written in their order. Shown
/// only if the output goes elsewhere than the terminal.
pub struct Lines {
    bar: Option<ProgressBar>,
    /// Size of the input, if known.
    bytes_all: Option<u64>,
    lines: AtomicU64,
    bytes: AtomicU64,
    started_at: Instant,
}

const LINES: &str = "{bar:30} {percent}%, {msg}";
const ENDLESS_LINES: &str = "{spinner} {msg}, {elapsed}";
/// Interval between updates of the bar while no line is answered.
const TICK: Duration = Duration::from_millis(200);
/// Time before a rate is meaningful.
const RATE_AFTER: Duration = Duration::from_secs(1);

impl Lines {
    /// `bytes_all` is the size of the input, if known.
    pub fn new(bytes_all: Option<u64>) -> Self {
        let visible = std::io::stderr().is_terminal() && !std::io::stdout().is_terminal();
        let bar = visible.then(|| {
            let (template, bar) = match bytes_all {
                Some(bytes) => (LINES, ProgressBar::new(bytes)),
                None => (ENDLESS_LINES, ProgressBar::new_spinner()),
            };
            let style = ProgressStyle::with_template(template).expect("a valid template");
            let bar = bar.with_style(style).with_message("0 lines");
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            bar,
            bytes_all,
            lines: AtomicU64::default(),
            bytes: AtomicU64::default(),
            started_at: Instant::now(),
        }
    }

    /// Counts an answered line of `bytes` bytes.
    pub fn answered(&self, bytes: u64) {
        let lines = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.set_message(progress_of(lines, bytes, self.bytes_all, self.started_at.elapsed()));
            if self.bytes_all.is_some() {
                bar.set_position(bytes);
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

/// Lines, their rate since the start, and the time left at this rate.
fn progress_of(lines: u64, bytes: u64, bytes_all: Option<u64>, elapsed: Duration) -> String {
    if elapsed < RATE_AFTER {
        return format!("{lines} lines");
    }
    let rate = lines as f64 / elapsed.as_secs_f64();
    let mut text = format!("{lines} lines, {rate:.0} per second");
    if let Some(left) = bytes_all.map(|all| all.saturating_sub(bytes)) {
        let left = elapsed.mul_f64(left as f64 / bytes.max(1) as f64);
        text += &format!(", {:#} left", HumanDuration(left));
    }
    text
}

/// Shows how many batch sizes have run in the warm-up: a bar on a terminal, a log line every few seconds otherwise.
#[derive(Default)]
pub struct WarmUpProgress {
    bar: Option<ProgressBar>,
    started_at: Option<Instant>,
    logged_at: Option<Instant>,
}

const SIZES: &str = "compiling GPU kernels {bar:30} {pos} of {len} batch sizes, {elapsed}, {eta} left";
const LOG_INTERVAL: Duration = Duration::from_secs(5);

impl WarmUpProgress {
    /// `done` of `sizes` batch sizes have run. Shows nothing for a single size, which takes a moment.
    pub fn reached(&mut self, done: usize, sizes: usize) {
        if sizes == 1 {
            return;
        }
        let now = Instant::now();
        let started_at = *self.started_at.get_or_insert(now);
        if done == 0 {
            tracing::info!(
                "compiling GPU kernels for {sizes} batch sizes before the first request, which takes seconds to minutes; \
                 --warm-up short compiles one size now and each other with its first batch"
            );
            self.logged_at = Some(now);
            if std::io::stderr().is_terminal() {
                let style = ProgressStyle::with_template(SIZES).expect("a valid template");
                let bar = ProgressBar::new(sizes as u64).with_style(style);
                bar.enable_steady_tick(TICK);
                self.bar = Some(bar);
            }
        }
        match &self.bar {
            Some(bar) if done == sizes => bar.finish_and_clear(),
            Some(bar) => bar.set_position(done as u64),
            None => {
                // The first size gives the first estimate.
                let is_due = done == 1 || self.logged_at.is_none_or(|at| now - at >= LOG_INTERVAL);
                if is_due && (1..sizes).contains(&done) {
                    self.logged_at = Some(now);
                    tracing::info!("{}", sizes_done(done, sizes, now - started_at));
                }
            }
        }
    }
}

/// The state of the warm-up after `elapsed`.
fn sizes_done(done: usize, sizes: usize, elapsed: Duration) -> String {
    let left = elapsed.mul_f64((sizes - done) as f64 / done.max(1) as f64);
    format!(
        "compiled GPU kernels for {done} of {sizes} batch sizes in {:.0} s, about {:.0} s left",
        elapsed.as_secs_f64(),
        left.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_rate_so_far() {
        let text = |bytes_all, milliseconds| progress_of(300, 1_000, bytes_all, Duration::from_millis(milliseconds));
        assert_eq!(text(Some(4_000), 500), "300 lines");
        assert_eq!(text(Some(4_000), 2_000), "300 lines, 150 per second, 6s left");
        assert_eq!(text(None, 2_000), "300 lines, 150 per second");
        assert_eq!(
            sizes_done(6, 24, Duration::from_secs(10)),
            "compiled GPU kernels for 6 of 24 batch sizes in 10 s, about 30 s left"
        );
    }
}
