//! Log lines that never block the thread that logs.
//!
//! A full pipe blocks every thread that writes to it. So a thread of its own writes the lines to standard error. Lines
//! that do not fit into its queue are dropped, and their number is logged once there is space again.

use std::collections::VecDeque;
use std::io::{Error, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Lines in the queue, in bytes.
const QUEUE_BYTES_MAX: usize = 1 << 20;

/// Limit on the wait for the last lines at the end of the process.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);

/// The writer of this process.
static STDERR: OnceLock<LogWriter> = OnceLock::new();

/// The writer of log lines to standard error; its thread starts with the first call.
///
/// # Errors
/// If the thread cannot be started.
pub fn stderr() -> std::io::Result<LogWriter> {
    let writer = LogWriter::start(std::io::stderr(), QUEUE_BYTES_MAX)?;
    Ok(STDERR.get_or_init(|| writer).clone())
}

/// Waits until all log lines are written, for at most a quarter of a second. Called before the process ends.
pub fn flush() {
    if let Some(writer) = STDERR.get() {
        writer.flush_within(FLUSH_TIMEOUT);
    }
}

/// A queue of log lines with a thread that writes them.
#[derive(Clone)]
pub struct LogWriter(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    bytes_max: usize,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines dropped since the last report.
    dropped: u64,
    /// The thread is writing lines that it has taken from the queue.
    is_writing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogWriter {
    fn start(output: impl Write + Send + 'static, bytes_max: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            bytes_max,
            changed: Condvar::new(),
        });
        let theirs = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("cloze-log".to_owned())
            .spawn(move || write_lines(&theirs, output))
            .map_err(|error| Error::new(error.kind(), format!("the log's thread cannot be started: {error}")))?;
        Ok(Self(shared))
    }

    /// Waits until the queue is empty and its lines are written, or until `timeout`.
    fn flush_within(&self, timeout: Duration) {
        let queue = self.0.lock();
        let is_busy = |queue: &mut Queue| queue.is_writing || !queue.lines.is_empty();
        drop(self.0.changed.wait_timeout_while(queue, timeout, is_busy));
    }
}

fn write_lines(shared: &Shared, mut output: impl Write) {
    loop {
        let mut queue = shared.lock();
        while queue.lines.is_empty() {
            queue.is_writing = false;
            shared.changed.notify_all();
            queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let lines = std::mem::take(&mut queue.lines);
        let dropped = std::mem::take(&mut queue.dropped);
        (queue.bytes, queue.is_writing) = (0, true);
        drop(queue);
        for line in lines {
            // There is no other place to report an error of the log itself.
            let _ = output.write_all(&line);
        }
        let _ = output.flush();
        if dropped > 0 {
            tracing::warn!(dropped, "log lines dropped, because standard error was not read");
        }
    }
}

/// Each write is one line, as the formatter of `tracing-subscriber` writes them.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut queue = self.0.lock();
        match queue.bytes + line.len() <= self.0.bytes_max {
            true => {
                queue.bytes += line.len();
                queue.lines.push_back(line.to_owned());
                self.0.changed.notify_all();
            }
            false => queue.dropped += 1,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    /// An output that reports each line and then waits for permission to go on.
    struct Gated(Sender<String>, Receiver<()>);

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(String::from_utf8(bytes.to_owned()).unwrap()).unwrap();
            // Fails once the test drops the sender.
            let _ = self.1.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_output_drops_lines_and_blocks_no_writer() {
        let ((lines, written), (permit, gate)) = (channel(), channel());
        let mut writer = LogWriter::start(Gated(lines, gate), 30).unwrap();
        writer.write_all(b"first line\n").unwrap();
        assert_eq!(written.recv().unwrap(), "first line\n");
        let begun = Instant::now();
        for number in 0..1000 {
            writer.write_all(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        writer.flush_within(Duration::from_millis(50));
        assert!(begun.elapsed() < Duration::from_secs(5), "the output is still blocked");
        assert_eq!(writer.0.lock().dropped, 997, "three lines of ten bytes fit");
        drop(permit);
        writer.flush_within(Duration::from_secs(10));
        assert_eq!(
            written.try_iter().collect::<String>(),
            "line 0000\nline 0001\nline 0002\n"
        );
        writer.write_all(b"and on\n").unwrap();
        writer.flush_within(Duration::from_secs(10));
        assert_eq!(written.try_iter().collect::<String>(), "and on\n");
    }
}
