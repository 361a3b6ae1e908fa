//! Wire types: bodies of requests and answers, and errors. HTTP, the Open Inference Protocol and `cloze predict` share
//! them.
//!
//! | file | subject |
//! |---|---|
//! | `format` | a body is a text or JSON, by content type and content |
//! | `fill_mask`, `score`, `sparse`, `tokens` | the body of a task, in JSON |
//! | `mode`, `truncation` | parameters that choose the task, or cut texts |
//! | `task_kind` | the tasks that have a body, and what differs in their errors |
//! | `json` | numbers, names and lists in any notation that JSON allows; errors of the parser |
//! | `response` | answers |
//! | `error` | errors: status, `error_type`, sentence |

mod error;
mod fill_mask;
mod format;
mod json;
mod mode;
mod response;
mod score;
mod sparse;
mod task_kind;
mod tokens;
mod truncation;

pub use error::{Error, ErrorBody};
pub(crate) use fill_mask::parse_top_k;
pub use format::{Format, without_bom};
pub(crate) use json::{Count, JsonObject, WholeNumber, json_error, push_string};
pub use response::AnswerJson;
pub use task_kind::TaskKind;
pub use tokens::{TokenJson, TokensAnswer, TokensRequest};
