//! Does the process live, and would a request be answered?

use std::sync::Arc;

use poem::handler;
use poem::web::{Data, Json};
use serde::Serialize;

use crate::server::{ApiError, App};

#[derive(Serialize)]
struct Health {
    status: &'static str,
}

/// 200 when a request would be answered, 503 otherwise.
#[handler]
pub fn health(Data(app): Data<&Arc<App>>) -> Result<Json<impl Serialize + use<>>, ApiError> {
    match app.is_ready() {
        true => Ok(Json(Health { status: "ok" })),
        false => Err(ApiError::not_ready()),
    }
}

/// 200: the process answers.
#[handler]
pub fn live() -> Json<impl Serialize> {
    Json(Health { status: "ok" })
}
