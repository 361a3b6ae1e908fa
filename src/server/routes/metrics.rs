//! `GET /metrics`: counters, gauges and histograms for Prometheus.

use std::sync::Arc;

use poem::http::{HeaderValue, header};
use poem::web::Data;
use poem::{Request, Response, handler};

use super::engine_metrics::{write_engine, write_process, write_server};
use crate::server::app::App;
use crate::server::metrics::exposition::{Exposition, Format};

/// `GET /metrics`, in the format that the client accepts.
#[handler]
pub fn metrics(request: &Request, Data(app): Data<&Arc<App>>) -> Response {
    let accept = request.headers().get_all(header::ACCEPT).iter();
    let accept: Vec<&str> = accept.filter_map(|value| value.to_str().ok()).collect();
    let format = Format::negotiate(&accept.join(","));
    let mut page = Exposition::new(format);
    app.state.metrics.write(&mut page);
    write_engine(app, &mut page);
    write_server(app, &mut page);
    write_process(&mut page);
    Response::builder()
        .content_type(format.content_type())
        .header(header::VARY, HeaderValue::from_static("accept"))
        .body(page.finish())
}
