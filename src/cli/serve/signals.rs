//! Signals: shutdown at SIGTERM and Ctrl-C, reload of the certificate at SIGHUP.

use std::future::Future;
use std::sync::Arc;

use cloze::server::{App, Tls};

/// Exit code after a second signal: that of a process that Ctrl-C has killed, as shells report it.
#[cfg(unix)]
const EXIT_AT_ONCE: i32 = 130;

/// Completes when the server must shut down: at a signal, or when the model has failed.
pub fn shutdown(app: Arc<App>) -> std::io::Result<impl Future<Output = ()>> {
    let signal = stop_signal()?;
    Ok(async move {
        tokio::select! {
            () = signal => {}
            _ = app.pipeline.engine().broken() => {}
        }
    })
}

/// Exits at a signal while the model is loaded: there are no requests to finish. Without a handler, the first process
/// of a container would ignore the signal.
pub async fn exit_while_loading(signal: impl Future<Output = ()>) {
    signal.await;
    tracing::info!("stopped before the model was loaded");
    crate::cli::flush_log();
    std::process::exit(0);
}

/// Reloads certificate and key at every SIGHUP. Without TLS the signal is ignored: it would kill the process.
pub fn reload_on_hangup(tls: Option<Arc<Tls>>) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                let Some(tls) = tls.clone() else {
                    tracing::info!("SIGHUP: ignored, because there is no certificate to reload");
                    continue;
                };
                // Not on this thread: a read from a hung file system blocks.
                tokio::task::spawn_blocking(move || match tls.reload() {
                    Ok(()) => tracing::info!("SIGHUP: certificate and key reloaded"),
                    Err(error) => {
                        let error = crate::cli::message(&error);
                        tracing::error!("SIGHUP: {error}; the previous certificate stays in use");
                    }
                });
            }
        });
    }
    #[cfg(not(unix))]
    drop(tls);
    Ok(())
}

/// Completes at the first SIGTERM or Ctrl-C. The second one ends the process at once.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "Ctrl-C",
            };
            tracing::info!("{name}: shutting down after the accepted requests; a second signal exits at once");
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::warn!("second signal: exiting at once");
                crate::cli::flush_log();
                std::process::exit(EXIT_AT_ONCE);
            });
        })
    }
    #[cfg(not(unix))]
    {
        Ok(async {
            if let Err(error) = tokio::signal::ctrl_c().await {
                tracing::error!(%error, "cannot listen for Ctrl-C");
                std::future::pending::<()>().await;
            }
        })
    }
}
