//! Answers as tensors: in the JSON, or in binary after it.

use poem::http::HeaderValue;
use poem::{IntoResponse, Response};
use serde::Serialize;

use super::model::VERSION;
use super::request::{HEADER_LENGTH, ResponseFormat};
use super::tensor::{Data, Row};
use crate::server::error::ApiError;
use crate::tasks::fill_mask::TextAnswer;

#[derive(Serialize)]
struct InferResponse<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<OutputTensor<'a>>,
}

#[derive(Serialize)]
struct OutputTensor<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

#[derive(Serialize)]
struct OutputParameters {
    binary_data_size: usize,
}

/// Renders the answers of all texts as the requested tensors, with one row per mask.
pub fn render(model_name: &str, texts: &[TextAnswer], format: ResponseFormat) -> Result<Response, ApiError> {
    let rows = rows(texts);
    let columns = rows.first().map_or(0, |row| row.predictions.len());
    let mut binary = Vec::new();
    let mut any_binary = false;
    let outputs = format.outputs.iter().map(|requested| {
        let data = requested.output.data(&rows);
        let (parameters, data) = match requested.binary {
            false => (None, Some(data)),
            true => {
                any_binary = true;
                let before = binary.len();
                data.write_to(&mut binary);
                let binary_data_size = binary.len() - before;
                (Some(OutputParameters { binary_data_size }), None)
            }
        };
        OutputTensor {
            name: requested.output.name(),
            datatype: requested.output.datatype(),
            shape: requested.output.shape(rows.len(), columns),
            parameters,
            data,
        }
    });
    let response = InferResponse {
        model_name,
        model_version: VERSION,
        outputs: outputs.collect(),
        id: format.id,
    };
    let mut body = serde_json::to_vec(&response).map_err(ApiError::internal)?;
    if !any_binary {
        return Ok(body
            .with_content_type("application/json; charset=utf-8")
            .into_response());
    }
    let json_length = HeaderValue::from(body.len());
    body.append(&mut binary);
    let response = body.with_content_type("application/octet-stream");
    Ok(response.with_header(HEADER_LENGTH, json_length).into_response())
}

fn rows(texts: &[TextAnswer]) -> Vec<Row<'_>> {
    let texts = texts.iter().enumerate();
    let rows = texts.flat_map(|(text, masks)| {
        let masks = masks.iter().enumerate();
        masks.map(move |(mask, predictions)| Row {
            text,
            mask,
            predictions,
        })
    });
    rows.collect()
}
