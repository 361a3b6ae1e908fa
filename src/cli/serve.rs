//! Serving: from flags to a running server, and its end.

use std::error::Error;
use std::future::Future;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use cloze::bert::{MaskedLm, PackedBatch, Selection};
use cloze::checkpoint::{BackendKind, Checkpoint, LoadedModel};
use cloze::engine::{Engine, Limits};
use cloze::fill_mask::FillMask;
use cloze::server::{self, About, App};
use tracing_subscriber::EnvFilter;

use super::{Arguments, Backend};

/// Tokenizing runs here too; more threads than this only take the cores from the model.
const BLOCKING_THREADS_PER_CORE: usize = 2;

/// Loads the model, serves it, and returns once a signal has ended the service.
pub fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    start_logging(&arguments.log)?;
    // Bound first: a port that is taken is known before a large model is read.
    let listener = listen(SocketAddr::new(arguments.host, arguments.port))?;
    let address = listener.local_addr()?;
    let mut checkpoint = match &arguments.model {
        Some(folder) => Checkpoint::open(folder)?,
        None => Checkpoint::embedded()?,
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kind = match arguments.backend {
        Backend::Cpu => BackendKind::Cpu,
        Backend::Gpu => BackendKind::Gpu,
    };
    let threads = arguments.threads.map_or(cores, usize::from);
    let mut loaded = checkpoint.load_on(kind, threads)?;
    if let Some(warning) = &loaded.warning {
        tracing::warn!("{warning}");
    }
    let limits = limits(&arguments);
    let model_name = checkpoint.name.clone();
    let config = checkpoint.config.clone();
    let longest = limits.batch_tokens_max.min(config.max_position_embeddings);
    let max_input_tokens = arguments.max_input_tokens.map_or(longest, usize::from);
    if max_input_tokens > limits.batch_tokens_max {
        return Err(format!(
            "--max-input-tokens is {max_input_tokens}, more than a batch may hold (--max-batch-tokens is {})",
            limits.batch_tokens_max
        )
        .into());
    }
    let fill_mask = FillMask::new(checkpoint.tokenizer, &config, max_input_tokens);
    warm_up(&mut *loaded.model, config.vocab_size)?;
    print_banner(&arguments, &limits, &loaded, &model_name, &fill_mask, address);
    let app = Arc::new(App {
        fill_mask,
        engine: Engine::start(loaded.model, limits)?,
        request_timeout: Duration::from_millis(arguments.request_timeout_ms),
        body_bytes_max: arguments.max_body_bytes.into(),
        about: About {
            model_name: served_name(&arguments, &model_name)?,
            device: loaded.device,
        },
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(cores * BLOCKING_THREADS_PER_CORE)
        .enable_all()
        .build()?;
    let drain_timeout = Duration::from_millis(arguments.shutdown_timeout_ms);
    runtime.block_on(async { server::serve(listener, app, stop_signal()?, drain_timeout).await })?;
    // A batch that outlived the limit must not hold the process.
    runtime.shutdown_background();
    tracing::info!("stopped");
    Ok(())
}

fn start_logging(filter: &str) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("--log \"{filter}\" is not a log filter: {e}"))?;
    let quiet = [
        "poem=warn",
        "wgpu_core=warn",
        "wgpu_hal=warn",
        "naga=warn",
        "cubecl_wgpu=warn",
    ];
    let filter = quiet.into_iter().fold(filter, |filter, directive| {
        // Libraries speak at info of things that a user did not ask for.
        filter.add_directive(directive.parse().expect("a directive of ours"))
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
}

fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another program; choose another port with --port")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("{address} is not allowed without more rights; choose a port above 1023 with --port")
        }
        _ => format!("cannot listen on {address}: {e}"),
    })
}

fn limits(arguments: &Arguments) -> Limits {
    Limits {
        batch_tokens_max: arguments.max_batch_tokens.into(),
        batch_size_max: arguments.max_batch_size.into(),
        batch_delay: Duration::from_millis(arguments.batch_delay_ms),
        queue_size: arguments.queue_size.into(),
    }
}

/// The name in addresses: what was asked for, else the last part of the model's own.
fn served_name(arguments: &Arguments, model: &str) -> Result<String, String> {
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

/// One forward pass before the first request: a broken model is known now, and nobody waits for a
/// kernel's compilation.
fn warm_up(model: &mut dyn MaskedLm, vocab_size: usize) -> Result<(), String> {
    let mut batch = PackedBatch::default();
    let ids: Vec<u32> = (0..16).map(|id| id % vocab_size as u32).collect();
    batch.push(&ids, &[1], &Selection::TopK(1));
    model
        .predict(&batch)
        .map(drop)
        .map_err(|e| format!("the model does not work: {e}"))
}

fn print_banner(
    arguments: &Arguments,
    limits: &Limits,
    loaded: &LoadedModel,
    model: &str,
    fill_mask: &FillMask,
    address: SocketAddr,
) {
    let vocab_size = fill_mask.vocab_size();
    let input_tokens = fill_mask.max_input_tokens();
    println!("cloze {}", env!("CARGO_PKG_VERSION"));
    println!("  model    {model}, vocabulary of {vocab_size}, texts up to {input_tokens} tokens");
    println!("  backend  {}", loaded.device);
    println!(
        "  batches  up to {} texts or {} tokens, waiting {} ms for company",
        limits.batch_size_max, limits.batch_tokens_max, arguments.batch_delay_ms
    );
    println!(
        "  limits   {} texts in the queue, {} ms a request, {} bytes a body",
        limits.queue_size, arguments.request_timeout_ms, arguments.max_body_bytes
    );
    println!("  address  http://{address}");
    let mask = fill_mask.mask_token();
    println!("  try      curl -X POST -d \"Paris is the capital of {mask}.\" http://{address}/");
}

/// Completes at the first SIGTERM or Ctrl-C.
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
            tracing::info!("{name}: finishing what was accepted");
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
