//! Wire types: bodies of requests and answers, and errors. HTTP, the Open Inference Protocol and `cloze predict` share
//! them.

mod error;
mod json;
mod mode;
mod request;
mod response;
mod score;
mod sparse;
mod tokens;
mod truncation;

pub use error::{Error, ErrorBody};
pub(crate) use json::{Count, JsonObject, WholeNumber, json_error, push_string};
pub(crate) use request::parse_top_k;
pub use request::{Format, TaskKind, without_bom};
pub use response::AnswerJson;
pub use tokens::{TokenJson, TokensAnswer, TokensRequest};
