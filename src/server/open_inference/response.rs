//! Answers as tensors: in the JSON, or in binary after it.

use poem::http::HeaderValue;
use poem::{IntoResponse, Response};
use serde::Serialize;

use super::model::VERSION;
use super::request::{HEADER_LENGTH, InferRequest};
use super::tensor::{Data, Row};
use crate::fill_mask::Answer;
use crate::server::error::ApiError;

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
pub fn render(model_name: &str, answers: Vec<Answer>, wanted: InferRequest) -> Result<Response, ApiError> {
    let rows = rows(answers);
    let columns = rows.first().map_or(0, |row| row.predictions.len());
    let mut binary = Vec::new();
    let mut any_binary = false;
    let outputs = wanted.outputs.iter().map(|wanted| {
        let data = wanted.output.data(&rows);
        let (parameters, data) = match wanted.binary {
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
            name: wanted.output.name(),
            datatype: wanted.output.datatype(),
            shape: wanted.output.shape(rows.len(), columns),
            parameters,
            data,
        }
    });
    let response = InferResponse {
        model_name,
        model_version: VERSION,
        outputs: outputs.collect(),
        id: wanted.id,
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

fn rows(answers: Vec<Answer>) -> Vec<Row> {
    let texts = answers.into_iter().enumerate();
    texts
        .flat_map(|(text, answer)| {
            let masks = match answer {
                Answer::One(predictions) => vec![predictions],
                Answer::Several(masks) => masks,
            };
            let masks = masks.into_iter().enumerate();
            masks.map(move |(mask, predictions)| Row {
                text,
                mask,
                predictions,
            })
        })
        .collect()
}
