//! `cloze serve`: from the flags to a running server, and its shutdown.
//!
//! | file | responsibility |
//! |---|---|
//! | `arguments`, `http` | flags |
//! | `banner` | the start-up block |
//! | `listener` | the listening socket |
//! | `signals` | shutdown and reload at signals |

mod arguments;
mod banner;
mod http;
mod listener;
mod signals;

use std::error::Error;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use cloze::engine::Health;
use cloze::server::{self, App, Settings};
use cloze::sys::descriptors;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::output::announce;
use super::{CLEAN_UP_TIMEOUT, abort_after, named, runtime};
use banner::banner;
use listener::BoundSocket;
use signals::StopSignals;

pub use arguments::ServeArguments;
use arguments::check_name;

/// File descriptors for other purposes than connections; more than the process needs.
const OTHER_DESCRIPTORS: u64 = 64;

/// Loads the model and serves it until a signal.
pub fn run(arguments: ServeArguments) -> Result<(), Box<dyn Error>> {
    #[cfg(not(feature = "otel"))]
    arguments.log.start()?;
    // Dropping it exports the last traces.
    #[cfg(feature = "otel")]
    let _traces = arguments.log.start_with_traces()?;
    warn_of_batch_delay(&arguments);
    let options = arguments.http.options()?;
    raise_descriptor_limit(arguments.http.max_connections as u64);
    let runtime = runtime::start()?;
    let signals = runtime.block_on(async { StopSignals::new() })?;
    let loading = runtime.spawn(signals::exit_while_loading(signals));
    let socket = BoundSocket::bind(&arguments.host, arguments.port)?;
    let mut model = arguments.model.open()?;
    let model_name = served_name(&arguments, &model.name)?;
    let builder = arguments.batch.builder(arguments.limits());
    let builder = builder.memory_max(arguments.memory_max()?);
    builder.check(&model.info)?;
    let loaded = arguments.model.load(&mut model)?;
    let cloze = builder.start(model, loaded)?;
    let address = socket.address;
    warn_without_key(&arguments, address.ip());
    let listener = socket.listen()?;
    // Before the start-up block says that the server is ready.
    runtime.block_on(async { signals::reload_on_hangup(options.tls.clone()) })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        model = cloze.name(),
        backend = cloze.device().backend(),
        dtype = %cloze.device().precision(),
        %address,
        "started"
    );
    // The server works without its start-up block.
    if let Err(error) = announce(&banner(&arguments, &cloze, address, &model_name)) {
        tracing::warn!("the start-up block was not printed: {error}");
    }
    let app = Arc::new(cloze.into_app(Settings {
        model_name: Some(model_name),
        request_timeout: Duration::from_millis(arguments.request_timeout_ms),
        body_bytes_max: arguments.max_body_bytes,
        options,
        ..Settings::default()
    }));
    let drain_timeout = Duration::from_millis(arguments.shutdown_timeout_ms);
    serve(&runtime, listener, Arc::clone(&app), &loading, drain_timeout)?;
    // A batch that exceeds the time limit must not keep the process alive.
    runtime.shutdown_background();
    if let Health::Broken(reason) = app.pipeline.engine().health() {
        abort_after(CLEAN_UP_TIMEOUT);
        return Err(format!("the model failed: {reason}; restart the server").into());
    }
    tracing::info!("stopped");
    Ok(())
}

/// Serves until the shutdown is complete.
fn serve(
    runtime: &Runtime,
    listener: TcpListener,
    app: Arc<App>,
    loading: &JoinHandle<()>,
    drain_timeout: Duration,
) -> std::io::Result<()> {
    runtime.block_on(async {
        let shutdown = signals::shutdown(Arc::clone(&app))?;
        // After the new handler is installed, so that no signal is missed.
        loading.abort();
        server::serve(listener, app, shutdown, drain_timeout).await
    })
}

/// Warns of a batch delay that no request survives.
fn warn_of_batch_delay(arguments: &ServeArguments) {
    let (delay, timeout) = (arguments.batch_delay_ms, arguments.request_timeout_ms);
    if delay >= timeout {
        let warning = format!(
            "--batch-delay-ms {delay} is not below --request-timeout-ms {timeout}: a request that does not fill a batch \
             gets status 504"
        );
        tracing::warn!("{}", named(&warning));
    }
}

/// Warns of a server that other machines can reach without a key.
fn warn_without_key(arguments: &ServeArguments, ip: IpAddr) {
    if !ip.to_canonical().is_loopback() && !arguments.http.has_key() {
        let warning = format!(
            "--host {} without --api-key: every machine that reaches this port can send requests",
            arguments.host
        );
        tracing::warn!("{}", named(&warning));
    }
}

/// Raises the limit on open files, and warns if `connections` exceed it.
fn raise_descriptor_limit(connections: u64) {
    let limit = descriptors::raise_limit().unwrap_or_else(|(error, limit)| {
        tracing::warn!(%error, "the limit on open files cannot be raised");
        limit
    });
    if let Some(limit) = limit.filter(|&limit| limit < connections + OTHER_DESCRIPTORS) {
        let warning = format!(
            "the limit on open files, {limit}, is too low for --max-connections {connections}; further connections wait \
             (raise it with ulimit -Hn, or LimitNOFILE in a systemd unit)"
        );
        tracing::warn!("{}", named(&warning));
    }
}

/// The model's name in URLs: the flag, or the last part of the model's own name.
fn served_name(arguments: &ServeArguments, model: &str) -> Result<String, String> {
    let name = match &arguments.served_model_name {
        Some(name) => name.as_str(),
        None => model.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(model),
    };
    check_name(name)?;
    Ok(name.to_owned())
}
