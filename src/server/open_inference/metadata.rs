//! Metadata and health of the server and the model.

use std::sync::Arc;

use poem::web::{Data, Json};
use poem::{IntoResponse, Request, Response, handler};
use serde::Serialize;

use super::model::{VERSION, check_model};
use super::request::INPUT;
use super::tensor::Output;
use crate::server::app::App;
use crate::server::error::ApiError;

#[derive(Serialize)]
struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 3],
}

/// `GET /v2`.
#[handler]
pub fn server() -> Json<impl Serialize> {
    Json(ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "model_configuration", "parameters"],
    })
}

#[derive(Serialize)]
struct ModelMetadata<'a> {
    name: &'a str,
    versions: [&'static str; 1],
    platform: String,
    inputs: [TensorMetadata; 1],
    outputs: [TensorMetadata; Output::ALL.len()],
}

#[derive(Serialize)]
struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    /// -1 for a dimension of variable size.
    shape: Vec<i64>,
}

/// `GET /v2/models/{name}`.
#[handler]
pub fn model(request: &Request, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    check_model(request, app)?;
    let metadata = ModelMetadata {
        name: &app.about.model_name,
        versions: [VERSION],
        platform: platform(app),
        inputs: [TensorMetadata {
            name: INPUT,
            datatype: "BYTES",
            shape: vec![-1],
        }],
        outputs: Output::ALL.map(|output| TensorMetadata {
            name: output.name(),
            datatype: output.datatype(),
            shape: output.shape(-1, -1),
        }),
    };
    Ok(Json(metadata).into_response())
}

fn platform(app: &App) -> String {
    format!("burn_{}", app.about.model.family)
}

/// Triton's model configuration, as far as it says something about this model.
#[derive(Serialize)]
struct ModelConfig<'a> {
    name: &'a str,
    platform: String,
    backend: &'static str,
    version_policy: VersionPolicy,
    /// 0: `dims` are whole shapes, and texts of different requests form a batch inside the server.
    max_batch_size: u32,
    input: [TensorConfig; 1],
    output: [TensorConfig; Output::ALL.len()],
}

#[derive(Serialize)]
struct VersionPolicy {
    latest: Latest,
}

#[derive(Serialize)]
struct Latest {
    num_versions: u32,
}

#[derive(Serialize)]
struct TensorConfig {
    name: &'static str,
    data_type: &'static str,
    /// -1 for a dimension of variable size.
    dims: Vec<i64>,
}

/// `GET /v2/models/{name}/config`.
#[handler]
pub fn config(request: &Request, Data(app): Data<&Arc<App>>) -> Result<Response, ApiError> {
    check_model(request, app)?;
    let config = ModelConfig {
        name: &app.about.model_name,
        platform: platform(app),
        backend: "burn",
        version_policy: VersionPolicy {
            latest: Latest { num_versions: 1 },
        },
        max_batch_size: 0,
        input: [TensorConfig {
            name: INPUT,
            data_type: "TYPE_STRING",
            dims: vec![-1],
        }],
        output: Output::ALL.map(|output| TensorConfig {
            name: output.name(),
            data_type: output.config_type(),
            dims: output.shape(-1, -1),
        }),
    };
    Ok(Json(config).into_response())
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

/// `GET /v2/health/live`: 200 as long as the process answers.
#[handler]
pub fn live() -> Json<impl Serialize> {
    Json(Live { live: true })
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
}

/// `GET /v2/health/ready`: 200 if a new request would be answered, 503 otherwise.
#[handler]
pub fn ready(Data(app): Data<&Arc<App>>) -> Result<Json<impl Serialize + use<>>, ApiError> {
    check_ready(app).map(|()| Json(Ready { ready: true }))
}

#[derive(Serialize)]
struct ModelReady {
    name: String,
    ready: bool,
}

/// `GET /v2/models/{name}/ready`.
#[handler]
pub fn model_ready(request: &Request, Data(app): Data<&Arc<App>>) -> Result<Json<impl Serialize + use<>>, ApiError> {
    check_model(request, app)?;
    let name = app.about.model_name.clone();
    check_ready(app).map(|()| Json(ModelReady { name, ready: true }))
}

fn check_ready(app: &App) -> Result<(), ApiError> {
    match app.is_ready() {
        true => Ok(()),
        false => Err(ApiError::not_ready()),
    }
}
