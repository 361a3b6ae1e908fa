//! A second BERT: the golden checkpoint `uncased-tied`, exported to ONNX by torch and turned into Burn code by
//! burn-import. `tests/logits.rs` compares Cloze's BERT with it.

/// The code that `build.rs` generates from `bert.onnx`: a `Model` with `from_embedded` and `forward`, `[1, tokens]`
/// token ids to `[1, tokens, vocabulary]` logits.
#[allow(clippy::all, clippy::pedantic, missing_docs, unused)]
pub mod bert {
    include!(concat!(env!("OUT_DIR"), "/bert.rs"));
}
