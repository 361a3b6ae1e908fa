//! `GET /health`, `/health/ready` and `/health/live`: readiness and liveness probes.

use std::sync::Arc;

use poem::handler;
use poem::web::{Data, Json};
use serde::Serialize;

use crate::server::app::App;
use crate::server::error::ApiError;

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// `GET /health` and `GET /health/ready`: 200 if a new request would be answered, 503 otherwise.
#[handler]
pub fn ready(Data(app): Data<&Arc<App>>) -> Result<Json<impl Serialize + use<>>, ApiError> {
    match app.is_ready() {
        true => Ok(Json(Health { status: "ok" })),
        false => Err(ApiError::not_ready()),
    }
}

/// `GET /health/live`: 200 as long as the process answers.
#[handler]
pub fn live() -> Json<impl Serialize> {
    Json(Health { status: "ok" })
}
