//! The service as a whole: the route table, the layers around it, start and stop.

use std::future::Future;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use poem::error::NotFoundError;
use poem::{Endpoint, EndpointExt, Request, Response, Route};
use tokio::time::Instant;

use super::app::App;
use super::middleware::{auth, cors, host, paths, telemetry};
use super::net;
use super::open_inference::{infer, metadata};
use super::options::Options;
use super::route::{Access, RouteRow};
use super::routes::{health, info, metrics, openapi, task, tokens, ui};

/// The route table: every path, its methods, and which of them need the API key.
///
/// A test compares it with `openapi.json`, which leaves the files of the pages out, another checks the access rule of
/// each method.
pub(super) fn table(options: &Options) -> Vec<RouteRow> {
    use Access::{Key, Open};
    let scrape = match options.metrics_without_key {
        true => Open,
        false => Key,
    };
    let at = RouteRow::new;
    vec![
        at("/").get(Open, ui::index).post(Key, task::fill_mask),
        at("/page.css").get(Open, ui::style),
        at("/page.js").get(Open, ui::script),
        at("/favicon.svg").get(Open, ui::icon),
        at("/docs").get(Open, openapi::page),
        at("/docs.css").get(Open, openapi::style),
        at("/docs.js").get(Open, openapi::script),
        at("/openapi.json").get(Open, openapi::document),
        at("/v1/fill-mask").post(Key, task::fill_mask),
        at("/v1/score").post(Key, task::score),
        at("/v1/sparse-embeddings").post(Key, task::sparse),
        at("/embed_sparse").post(Key, task::sparse),
        at("/v1/tokens").post(Key, tokens::tokens),
        at("/health").get(Open, health::ready),
        at("/health/live").get(Open, health::live),
        at("/health/ready").get(Open, health::ready),
        at("/info").get(Key, info::info),
        at("/metrics").get(scrape, metrics::metrics),
        at("/v2").get(Key, metadata::server),
        at("/v2/health/live").get(Open, metadata::live),
        at("/v2/health/ready").get(Open, metadata::ready),
        at("/v2/models/:name").get(Key, metadata::model),
        at("/v2/models/:name/config").get(Key, metadata::config),
        at("/v2/models/:name/ready").get(Key, metadata::model_ready),
        at("/v2/models/:name/infer").post(Key, infer::infer),
        at("/v2/models/:name/versions/:version").get(Key, metadata::model),
        at("/v2/models/:name/versions/:version/config").get(Key, metadata::config),
        at("/v2/models/:name/versions/:version/ready").get(Key, metadata::model_ready),
        at("/v2/models/:name/versions/:version/infer").post(Key, infer::infer),
    ]
}

/// The whole service as an endpoint: the route table inside authentication, CORS, the host check, telemetry and the
/// normalization of paths, in this order.
pub fn service(app: Arc<App>) -> impl Endpoint<Output = Response> + 'static {
    service_on(app, false)
}

/// The service of a listener, which checks the host of each request if the listener `is_loopback`.
pub(super) fn service_on(app: Arc<App>, is_loopback: bool) -> impl Endpoint<Output = Response> + 'static {
    let rows = table(&app.options);
    app.state.metrics.prepare(rows.iter().map(RouteRow::path));
    let routes = rows
        .into_iter()
        .fold(Route::new(), |routes, row| routes.at(row.path(), row.into_endpoint()));
    let (named, keys, origins, observed) = (Arc::clone(&app), Arc::clone(&app), Arc::clone(&app), Arc::clone(&app));
    let hosts = Arc::clone(&app);
    routes
        .around(guard_unknown_paths)
        .around(move |next, mut request| {
            let app = Arc::clone(&keys);
            async move {
                auth::authenticate(app.options.api_key.as_ref(), &mut request);
                next.call(request).await
            }
        })
        // Outside authentication, because a browser's preflight request carries no key.
        .around(move |next, request| {
            let app = Arc::clone(&origins);
            async move { cors::answer(&app.options.cors_origins, &*next, request).await }
        })
        .around(move |next, request| {
            let Options {
                allowed_hosts,
                cors_origins,
                ..
            } = &hosts.options;
            let checked = match is_loopback {
                true => host::check(allowed_hosts, cors_origins, &request),
                false => Ok(()),
            };
            async move {
                checked?;
                next.call(request).await
            }
        })
        .around(move |next, request| {
            let app = Arc::clone(&observed);
            async move { Ok(telemetry::observe(&app.state, &*next, request).await) }
        })
        .around(move |next, mut request| {
            paths::normalize(&mut request, &named.about);
            async move { next.call(request).await }
        })
        .data(app)
}

/// A path that is not in the table needs the key too, so that clients without it cannot explore paths.
async fn guard_unknown_paths(routes: Arc<Route>, request: Request) -> poem::Result<Response> {
    let key = auth::require_key(&request);
    match routes.call(request).await {
        Err(error) if error.is::<NotFoundError>() => Err(key.err().map_or(error, poem::Error::from)),
        result => result,
    }
}

/// Time for the engine to stop after the connections have taken the whole shutdown timeout.
const ENGINE_STOP_GRACE: Duration = Duration::from_millis(250);

/// Serves until `shutdown` completes, then lets accepted requests finish for at most `drain_timeout`.
///
/// # Errors
/// If the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    shutdown: impl Future<Output = ()>,
    drain_timeout: Duration,
) -> std::io::Result<()> {
    let displacing = Arc::clone(&app);
    let connections = net::ConnectionOptions {
        limits: app.options.connections,
        tls: app.options.tls.clone(),
        end_slow_request: net::EndSlowRequest(Arc::new(move || displacing.pipeline.engine().displace_slow())),
        counters: Arc::clone(&app.state.metrics.connections),
    };
    let mut stop_at = Instant::now();
    let shutdown = async {
        shutdown.await;
        // First of all: readiness probes see the shutdown before connections are closed.
        app.state.drain();
        stop_at = Instant::now() + drain_timeout;
    };
    let is_loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let endpoint = Arc::new(service_on(Arc::clone(&app), is_loopback));
    let refusing = Arc::clone(&app);
    let refuse = Arc::new(move |reason, peer| telemetry::refuse(&refusing.state, reason, peer));
    let serving = net::serve(listener, endpoint, refuse, connections, shutdown, drain_timeout);
    tokio::select! {
        served = serving => served?,
        () = app.state.log_counts() => {}
    }
    app.state.log_last_counts();
    // All connections are closed, so no client waits: the engine stops after the running batch at the latest. It gets a
    // thread of its own, because those of the runtime may all be busy with requests.
    let (stopped, has_stopped) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("cloze-stop".to_owned())
        .spawn(move || {
            app.pipeline.engine().stop();
            // Fails if the timeout has passed.
            let _ = stopped.send(());
        })?;
    let stop_at = stop_at.max(Instant::now() + ENGINE_STOP_GRACE);
    if tokio::time::timeout_at(stop_at, has_stopped).await.is_err() {
        tracing::warn!("the last batch did not finish within the shutdown timeout; leaving it");
    }
    Ok(())
}
