//! Signals: shutdown at SIGTERM and Ctrl-C, reload of the certificate at SIGHUP.

use std::future::Future;
use std::sync::Arc;

use cloze::server::{App, Tls};

/// Exit code after a second signal: that of a process that Ctrl-C has killed, as shells report it.
const EXIT_AT_ONCE: i32 = 130;

/// The signal for a file beyond the limit on its size.
#[cfg(target_os = "linux")]
const SIGXFSZ: i32 = rustix::process::Signal::XFSZ.as_raw();

/// Completes when the server must shut down: at a signal, or when the model has failed. A second signal ends the
/// process at once.
pub fn shutdown(app: Arc<App>) -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = StopSignals::new()?;
    Ok(async move {
        tokio::select! {
            name = signals.next() => {
                tracing::info!("{name}: shutting down after the accepted requests; a second signal exits at once");
                tokio::spawn(async move {
                    signals.next().await;
                    tracing::warn!("second signal: exiting at once");
                    crate::cli::flush_log();
                    std::process::exit(EXIT_AT_ONCE);
                });
            }
            _ = app.pipeline.engine().broken() => {}
        }
    })
}

/// Exits at a signal while the model is loaded: there are no requests to finish. Without a handler, the first process
/// of a container would ignore the signal.
pub async fn exit_while_loading(mut signals: StopSignals) {
    let name = signals.next().await;
    tracing::info!("{name}: stopped before the model was loaded");
    crate::cli::flush_log();
    std::process::exit(0);
}

/// Reloads certificate and key at every SIGHUP. Without TLS the signal is ignored: it would kill the process.
///
/// # Errors
/// The system gives no signal handler or no thread.
pub fn reload_on_hangup(tls: Option<Arc<Tls>>) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())?;
        let reloader = tls.map(start_reloader).transpose()?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                match &reloader {
                    None => tracing::info!("SIGHUP: ignored, because there is no certificate to reload"),
                    // The queue holds one signal: a second one would read the same files.
                    Some(reloader) => match reloader.try_send(()) {
                        Ok(()) => {}
                        Err(_) => tracing::warn!("SIGHUP: a reload is in progress, and one more follows it"),
                    },
                }
            }
        });
    }
    #[cfg(not(unix))]
    drop(tls);
    Ok(())
}

/// Starts the thread that reloads the files, once for each message. It is a thread of its own, because reading from a
/// named pipe or a file system that hangs blocks for ever.
#[cfg(unix)]
fn start_reloader(tls: Arc<Tls>) -> std::io::Result<std::sync::mpsc::SyncSender<()>> {
    let (sender, reloads) = std::sync::mpsc::sync_channel(1);
    let reload = move || {
        for () in reloads {
            match tls.reload() {
                Ok(()) => tracing::info!("SIGHUP: certificate and key reloaded"),
                Err(error) => {
                    let error = crate::cli::message(&error);
                    tracing::error!("SIGHUP: {error}; the previous certificate stays in use");
                }
            }
        }
    };
    std::thread::Builder::new().name("cloze-tls".to_owned()).spawn(reload)?;
    Ok(sender)
}

/// SIGTERM and Ctrl-C.
#[cfg(unix)]
pub struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl StopSignals {
    /// Must be called in a runtime.
    pub fn new() -> std::io::Result<Self> {
        use nix::sys::signal::{SigSet, Signal};
        use tokio::signal::unix::{SignalKind, signal};
        // A program that starts this one may have blocked them, which a new program inherits. One thread that does not
        // block them is enough.
        SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]).thread_unblock()?;
        // A log that exceeds the limit on the size of files would kill the process; with a handler the write fails.
        #[cfg(target_os = "linux")]
        drop(signal(SignalKind::from_raw(SIGXFSZ))?);
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Completes at the next signal, with its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "Ctrl-C",
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
pub struct StopSignals;

#[cfg(not(unix))]
impl StopSignals {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> &'static str {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for Ctrl-C");
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    }
}
