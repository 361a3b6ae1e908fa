//! Serving: from flags to a running server, and its end.

mod arguments;
mod http;

use std::error::Error;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use cloze::engine::{Engine, Health, Limits};
use cloze::fill_mask::FillMask;
use cloze::server::{self, About, App, State, Tls};

use socket2::{Domain, Protocol, Socket, Type};

use super::end_for_sure;
use super::model::cores;
use super::warm_up::warm_up;

pub use arguments::ServeArguments;

/// Tokenizing runs here too; more threads than this only take the cores from the model.
const BLOCKING_THREADS_PER_CORE: usize = 2;

/// Loads the model, serves it, and returns once a signal has ended the service.
pub fn run(arguments: ServeArguments) -> Result<(), Box<dyn Error>> {
    #[cfg(not(feature = "otel"))]
    arguments.log.start()?;
    // The last are sent when it is dropped.
    #[cfg(feature = "otel")]
    let _traces = arguments.log.start_with_traces()?;
    let options = arguments.http.options()?;
    cloze::sys::descriptors::raise(arguments.http.max_connections.get().into());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(cores() * BLOCKING_THREADS_PER_CORE)
        .enable_all()
        .build()?;
    let loading = runtime.spawn(leave_while_loading(runtime.block_on(async { stop_signal() })?));
    // Bound first: a port that is taken is known before a large model is read. It refuses connections until then, so
    // that a load balancer goes elsewhere.
    let (socket, address) = bind(SocketAddr::new(arguments.host, arguments.port))?;
    let mut checkpoint = arguments.model.open()?;
    let max_input_tokens = arguments
        .batch
        .max_input_tokens(checkpoint.config.max_position_embeddings)?;
    let loaded = arguments.model.load(&mut checkpoint)?;
    let limits = arguments.limits();
    let model_name = checkpoint.name.clone();
    let config = checkpoint.config.clone();
    let fill_mask = FillMask::new(checkpoint.tokenizer, &config, max_input_tokens);
    let (device, precision) = (loaded.device.clone(), loaded.precision);
    let batch_timeout = arguments.batch.batch_timeout(&loaded);
    let workers = warm_up(loaded, &arguments.batch, config.vocab_size, max_input_tokens)?;
    let listener = listen(socket, address)?;
    let served_name = served_name(&arguments, &model_name)?;
    let url = match options.tls {
        None => format!("http://{address}"),
        Some(_) => format!("https://{address}"),
    };
    print_banner(&arguments, &limits, &device, &model_name, &fill_mask, &url);
    let engine = Engine::start_workers(workers, limits)?;
    batch_timeout.map(|limit| engine.watch(limit)).transpose()?;
    let app = Arc::new(App {
        fill_mask,
        engine,
        request_timeout: Duration::from_millis(arguments.request_timeout_ms),
        body_bytes_max: arguments.max_body_bytes.into(),
        about: About {
            model_name: served_name,
            device,
            backend: arguments.model.backend.name().to_owned(),
            dtype: precision.to_string(),
        },
        options,
        state: State::default(),
    });
    let drain_timeout = Duration::from_millis(arguments.shutdown_timeout_ms);
    let served = Arc::clone(&app);
    runtime.block_on(async move {
        if let Some(tls) = &served.options.tls {
            reload_on_hangup(Arc::clone(tls))?;
        }
        let stop = stop(Arc::clone(&served))?;
        // Only now: no signal falls between the two.
        loading.abort();
        server::serve(listener, served, stop, drain_timeout).await
    })?;
    // A batch that outlived the limit must not hold the process.
    runtime.shutdown_background();
    if let Health::Broken(reason) = app.engine.health() {
        end_for_sure();
        return Err(format!("the model is lost: {reason}; start the server again").into());
    }
    tracing::info!("stopped");
    Ok(())
}

/// Connections that the system keeps for us until we accept them; it may allow fewer.
const CONNECTIONS_WAITING_MAX: i32 = 1024;

/// The exit code after a second signal, as shells give it to a process that a Ctrl-C killed.
const EXIT_AT_ONCE: i32 = 130;

/// Takes the address; nobody can connect yet.
fn bind(address: SocketAddr) -> Result<(Socket, SocketAddr), String> {
    let bound = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).and_then(|socket| {
        // Connections of a server that ended a moment ago are no reason to wait; on Windows it means something else.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket();
        Ok((socket, bound.unwrap_or(address)))
    });
    bound.map_err(|error| cannot_listen(address, &error))
}

fn listen(socket: Socket, address: SocketAddr) -> Result<TcpListener, String> {
    let listening = socket.listen(CONNECTIONS_WAITING_MAX);
    listening.map_err(|error| cannot_listen(address, &error))?;
    Ok(socket.into())
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another program; choose another port with --port")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("{address} is not allowed without more rights; choose a port above 1023 with --port")
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}

/// The name in addresses: what was asked for, else the last part of the model's own.
fn served_name(arguments: &ServeArguments, model: &str) -> Result<String, String> {
    let name = match &arguments.served_model_name {
        Some(name) => name.as_str(),
        None => model.rsplit(['/', '\\']).find(|part| !part.is_empty()).unwrap_or(model),
    };
    match name.is_empty() || name.contains(['/', '\\']) {
        true => Err(format!(
            "--served-model-name \"{name}\" cannot be a part of an address; use letters, digits, - and _"
        )),
        false => Ok(name.to_owned()),
    }
}

fn print_banner(
    arguments: &ServeArguments,
    limits: &Limits,
    device: &str,
    model: &str,
    fill_mask: &FillMask,
    address: &str,
) {
    let vocab_size = fill_mask.vocab_size();
    let input_tokens = fill_mask.max_input_tokens();
    println!("cloze {}", env!("CARGO_PKG_VERSION"));
    println!("  model    {model}, vocabulary of {vocab_size}, texts up to {input_tokens} tokens");
    println!("  backend  {device}");
    println!(
        "  batches  up to {} texts or {} tokens, waiting {} ms for company",
        limits.batch_size_max, limits.batch_tokens_max, arguments.batch_delay_ms
    );
    println!(
        "  limits   {} texts in the queue, {} ms a request, {} bytes a body",
        limits.queue_size, arguments.request_timeout_ms, arguments.max_body_bytes
    );
    println!("  address  {address}");
    let mask = fill_mask.mask_token();
    println!("  try      curl -X POST -d \"Paris is the capital of {mask}.\" {address}/");
}

/// Completes when the service must end: at a signal, or when the model is lost.
fn stop(app: Arc<App>) -> std::io::Result<impl Future<Output = ()>> {
    let signal = stop_signal()?;
    Ok(async move {
        tokio::select! {
            () = signal => {}
            _ = app.engine.broken() => {}
        }
    })
}

/// Ends the process at a signal, since there is nothing to finish yet. The first process of a container would not even
/// hear a signal that it did not ask for, and loading may take minutes.
async fn leave_while_loading(signal: impl Future<Output = ()>) {
    signal.await;
    tracing::info!("stopped before the model was loaded");
    std::process::exit(0);
}

/// Reads certificate and key anew at every SIGHUP.
fn reload_on_hangup(tls: Arc<Tls>) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                match tls.reload() {
                    Ok(()) => tracing::info!("SIGHUP: certificate and key are read anew"),
                    Err(error) => tracing::error!("SIGHUP: {error}; the certificate from before stays in use"),
                }
            }
        });
    }
    #[cfg(not(unix))]
    drop(tls);
    Ok(())
}

/// Completes at the first SIGTERM or Ctrl-C; the second ends the process at once.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "Ctrl-C",
            };
            tracing::info!("{name}: finishing what was accepted; a second signal ends at once");
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::warn!("a second signal: leaving at once");
                std::process::exit(EXIT_AT_ONCE);
            });
        })
    }
    #[cfg(not(unix))]
    {
        Ok(async {
            if let Err(error) = tokio::signal::ctrl_c().await {
                tracing::error!(%error, "Ctrl-C cannot be heard");
                std::future::pending::<()>().await;
            }
        })
    }
}
