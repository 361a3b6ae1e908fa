//! Writes to standard output and standard error, either of which may be closed, full, or a pipe that nothing reads.

use std::io::{self, ErrorKind, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Time limit of a write. A pipe that nothing reads blocks for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);

/// Prints lines. A closed pipe, as with `head`, is not an error.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(lines: &[impl AsRef<str>]) -> io::Result<()> {
    write_to_stdout(&text_of(lines)).map_err(unwritten)
}

/// Prints lines that the command does not depend on: waits two seconds at most for a pipe that nothing reads.
///
/// # Errors
/// Standard output cannot be written in that time.
pub fn announce(lines: &[impl AsRef<str>]) -> io::Result<()> {
    let text = text_of(lines);
    within(WRITE_TIMEOUT, move || write_to_stdout(&text)).map_err(unwritten)
}

fn text_of(lines: &[impl AsRef<str>]) -> String {
    let lines = lines.iter().map(AsRef::as_ref);
    lines.flat_map(|line| [line, "\n"]).collect()
}

fn write_to_stdout(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn unwritten(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output cannot be written: {error}"))
}

/// Prints the error that ends the command to standard error, as far as that can be written.
pub fn complain(error: &str) {
    let text = format!("cloze: {error}\n");
    // There is no other place to report it.
    let _ = within(WRITE_TIMEOUT, move || io::stderr().write_all(text.as_bytes()));
}

/// Runs `write` on a thread of its own and waits for it until `timeout`. If the system gives no thread, it runs here,
/// without a time limit.
fn within(timeout: Duration, write: impl FnOnce() -> io::Result<()> + Send + 'static) -> io::Result<()> {
    let (sender, written) = channel();
    let write = Arc::new(Mutex::new(Some(write)));
    let take = |write: &Mutex<Option<_>>| write.lock().unwrap_or_else(PoisonError::into_inner).take();
    let theirs = Arc::clone(&write);
    let thread = std::thread::Builder::new().name("cloze-output".to_owned());
    let started = thread.spawn(move || {
        if let Some(write) = take(&theirs) {
            // Fails after the timeout.
            let _ = sender.send(write());
        }
    });
    if started.is_err()
        && let Some(write) = take(&write)
    {
        return write();
    }
    match written.recv_timeout(timeout) {
        Ok(result) => result,
        Err(RecvTimeoutError::Timeout) => Err(ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the write failed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_blocks_is_left_after_the_time_limit() {
        let (keep, blocked) = channel::<()>();
        let result = within(Duration::from_millis(10), move || {
            let _ = blocked.recv();
            Ok(())
        });
        assert_eq!(result.unwrap_err().kind(), ErrorKind::TimedOut);
        drop(keep);
        within(Duration::from_secs(60), || Ok(())).unwrap();
        let refused = within(Duration::from_secs(60), || Err(ErrorKind::StorageFull.into()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::StorageFull);
    }
}
