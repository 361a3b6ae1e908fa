//! Wire types: bodies of requests and answers, and errors. HTTP, the Open Inference Protocol and `cloze predict` share them.

mod error;
mod request;
mod response;

pub use error::{Error, ErrorBody};
pub use request::{Format, without_bom};
pub(crate) use request::{JsonObject, WholeNumber, json_error, parse_top_k};
pub use response::AnswerJson;
