//! The Open Inference Protocol, version 2, over REST: the protocol of the clients of Triton and KServe.
//!
//! One input, `text`, of datatype BYTES and shape `[texts]`. The outputs have one row per mask, in the order of the
//! texts and of the masks in each, so they are never ragged. If every text has one mask, row `i` belongs to text `i`;
//! otherwise `text_index` and `mask_index` say which mask a row belongs to.
//!
//! | file | content |
//! |---|---|
//! | `metadata` | metadata of server and model, health |
//! | `infer` | `POST /v2/models/{name}/infer` |
//! | `request` | its body, with tensors in the JSON or in binary after it |
//! | `response` | answers as tensors, in either form |
//! | `tensor` | the outputs by name |
//! | `model` | the model's name and version in paths |
//!
//! The protocol: <https://github.com/kserve/open-inference-protocol>; the binary extension:
//! <https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md>.

pub mod infer;
pub mod metadata;
mod model;
mod request;
mod response;
mod tensor;
#[cfg(test)]
mod tests;

pub use request::parse_infer;
