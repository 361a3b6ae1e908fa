//! The threads that run async tasks.

use std::io;
use std::sync::mpsc::channel;

use tokio::runtime::{Builder, Runtime};

/// A runtime with a worker thread for each core.
///
/// # Errors
/// The system starts too few threads, such as under a limit on processes.
pub fn start() -> io::Result<Runtime> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // The runtime panics when it gets no thread.
    try_out(workers)
        .map_err(|error| io::Error::new(error.kind(), format!("{workers} threads cannot be started: {error}")))?;
    // The number is given, so that tokio does not read it from an environment variable.
    Builder::new_multi_thread().worker_threads(workers).enable_all().build()
}

/// Starts as many threads at once, and ends them.
fn try_out(threads: usize) -> io::Result<()> {
    let mut ends = Vec::with_capacity(threads);
    let mut running = Vec::with_capacity(threads);
    let started = (0..threads).try_for_each(|_| {
        let (end, ended) = channel::<()>();
        let thread = std::thread::Builder::new().spawn(move || {
            // Fails, which is the end.
            let _ = ended.recv();
        })?;
        ends.push(end);
        running.push(thread);
        Ok(())
    });
    drop(ends);
    for thread in running {
        thread.join().expect("this thread does not panic");
    }
    started
}
