//! Names of the files of a checkpoint.

pub const CONFIG: &str = "config.json";
pub const TOKENIZER: &str = "tokenizer.json";
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
pub const ADDED_TOKENS: &str = "added_tokens.json";
/// Pooling of a model of sentence-transformers that makes sparse vectors.
pub const SPARSE_POOLING: &str = "1_SpladePooling/config.json";
pub const VOCAB: &str = "vocab.txt";
pub const VOCAB_JSON: &str = "vocab.json";
pub const MERGES: &str = "merges.txt";
/// SentencePiece models: of each class that has one, of XLM-RoBERTa and CamemBERT, of ALBERT, of RemBERT.
pub const TOKENIZER_MODEL: &str = "tokenizer.model";
pub const SENTENCEPIECE_BPE: &str = "sentencepiece.bpe.model";
pub const SPIECE: &str = "spiece.model";
pub const SENTENCEPIECE: &str = "sentencepiece.model";
/// Files that a tokenizer may be built from.
pub const TOKENIZER_SOURCES: [&str; 8] = [
    TOKENIZER,
    VOCAB,
    VOCAB_JSON,
    MERGES,
    TOKENIZER_MODEL,
    SENTENCEPIECE_BPE,
    SPIECE,
    SENTENCEPIECE,
];
pub const WEIGHTS: &str = "model.safetensors";
pub const WEIGHTS_INDEX: &str = "model.safetensors.index.json";
pub const PYTORCH_WEIGHTS: &str = "pytorch_model.bin";
pub const PYTORCH_INDEX: &str = "pytorch_model.bin.index.json";
/// Weight files of other libraries, for the error that says so.
pub const OTHER_WEIGHTS: [&str; 9] = [
    "adapter_model.safetensors",
    "adapter_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "rust_model.ot",
    "model.onnx",
    "onnx/model.onnx",
    "openvino_model.xml",
    "model.ckpt.index",
];
