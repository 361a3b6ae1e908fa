//! An opened checkpoint: its family, tokenizer and weight files are known, its weights are not loaded yet.

use std::path::Path;

use super::{LoadError, LoadedModel, ModelInfo, Placement, Pooling, load_model};
use crate::backend::{Device, EncoderBackend, Precision};
use crate::checkpoint::{CheckpointError, Source, TensorSource, TokenizerFiles, WeightFiles};
use crate::encoder::{Architecture, EncoderError};
use crate::lm::EncoderModel;

/// A model as a checkpoint holds it.
pub struct PretrainedModel {
    /// The folder's name, the name on the hub, or `demo`.
    pub name: String,
    pub info: ModelInfo,
    pub architecture: Architecture,
    pub tokenizer: TokenizerFiles,
    weights: WeightFiles,
}

impl PretrainedModel {
    /// Reads configuration, tokenizer and the headers of the weight files.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and the reason.
    pub fn read(source: Source) -> Result<Self, CheckpointError> {
        let architecture = architecture(&source)?;
        let tokenizer = source.tokenizer()?;
        let vocab_size = architecture.spec.vocab_size;
        tokenizer.check_fits(vocab_size)?;
        if let Some(few) = tokenizer.too_few_tokens(vocab_size) {
            tracing::warn!("{few}");
        }
        let weights = source.weights()?;
        check_head(&source, &architecture, &weights)?;
        let pooling = match source.sums_sparse_vectors()? {
            true => Pooling::Sum,
            false => Pooling::Max,
        };
        Ok(Self {
            weights,
            name: source.name,
            info: ModelInfo {
                pooling,
                ..ModelInfo::of(&architecture)
            },
            architecture,
            tokenizer,
        })
    }

    /// Opens a folder in the layout of the Hugging Face hub.
    ///
    /// # Errors
    /// As of [`read`](Self::read), or if it is not a folder.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::read(Source::folder(folder)?)
    }

    /// Opens the demo model inside the binary.
    ///
    /// # Errors
    /// None, unless the build embedded a broken model.
    pub fn embedded() -> Result<Self, CheckpointError> {
        Self::read(Source::embedded())
    }

    /// Loads the weights onto the device that `placement` names.
    ///
    /// # Errors
    /// [`LoadError`] says if the checkpoint or the device failed.
    pub fn load(&mut self, placement: &Placement) -> Result<LoadedModel, LoadError> {
        load_model(&self.architecture, &mut self.weights, placement)
    }

    /// Loads the weights onto a device of any backend.
    ///
    /// # Errors
    /// A precision that the backend does not compute in, or a tensor that cannot be read.
    pub fn load_on<B: EncoderBackend>(
        &mut self,
        device: &Device<B>,
        precision: Precision,
    ) -> Result<EncoderModel<B>, EncoderError> {
        EncoderModel::load(&self.architecture, &mut self.weights, device, precision)
    }
}

/// Refuses the text of a `config.json` that no family supports.
///
/// # Errors
/// [`CheckpointError::Config`] with the reasons.
pub fn check_config(config: &[u8]) -> Result<(), CheckpointError> {
    parse(config, "config.json".to_owned()).map(drop)
}

/// The architecture that the checkpoint's `config.json` describes.
pub(super) fn architecture(source: &Source) -> Result<Architecture, CheckpointError> {
    parse(&source.config()?, source.config_path())
}

/// Checks that the weights are those of the architecture, and have a masked-language-model head.
pub(super) fn check_head(
    source: &Source,
    architecture: &Architecture,
    weights: &WeightFiles,
) -> Result<(), CheckpointError> {
    let parameters = architecture.spec.parameters();
    let mut names = parameters
        .iter()
        .map(|&parameter| architecture.stored_name(parameter, weights));
    if !names.clone().any(|name| weights.contains(&name)) {
        let mut stored: Vec<&str> = weights.stored().map(|(name, _)| name).collect();
        stored.sort_unstable();
        return Err(CheckpointError::OtherNames {
            class: architecture.family.class,
            example: stored.first().copied().unwrap_or("absent").to_owned(),
            prefix: names.find_map(|name| weights.unknown_prefix(&name).map(str::to_owned)),
        });
    }
    let is_stored = |parameter| weights.contains(&architecture.stored_name(parameter, weights));
    let mut of_head = parameters.iter().filter(|parameter| parameter.is_of_head()).peekable();
    // A head that is the word embeddings alone has no parameter of its own.
    match of_head.peek().is_none() || of_head.any(|&parameter| is_stored(parameter)) {
        true => Ok(()),
        false => Err(CheckpointError::NoHead {
            architectures: source.architectures(),
        }),
    }
}

/// `path` is that of the file, for the error.
fn parse(config: &[u8], path: String) -> Result<Architecture, CheckpointError> {
    Architecture::parse(config).map_err(|error| CheckpointError::Config { path, reasons: error.0 })
}

impl ModelInfo {
    fn of(architecture: &Architecture) -> Self {
        Self {
            family: architecture.family.model_type,
            architecture: architecture.family.class,
            vocab_size: architecture.spec.vocab_size,
            max_tokens: architecture.spec.max_tokens(),
            pooling: Pooling::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lm::inspect::Inspection;

    /// A copy of `fuzz/tiny` with these replacements in `config.json` and in the names of the tensors.
    fn tiny(architectures: &str, head: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/tiny");
        for entry in std::fs::read_dir(tiny).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let path = folder.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["architectures"] = serde_json::from_str(architectures).unwrap();
        std::fs::write(path, config.to_string()).unwrap();
        let path = folder.path().join("model.safetensors");
        let weights = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains("cls.predictions.");
        assert!(weights, "the names are replaced byte by byte");
        let mut bytes = std::fs::read(&path).unwrap();
        let old = b"cls.predictions.";
        for start in 0..bytes.len() - old.len() {
            if bytes[start..].starts_with(old) {
                bytes[start..start + old.len()].copy_from_slice(head.as_bytes());
            }
        }
        std::fs::write(path, bytes).unwrap();
        folder
    }

    #[test]
    fn weights_under_other_names_are_refused_with_a_name_or_the_prefix() {
        let folder = tiny("null", "cls.predictions.");
        let path = folder.path().join("model.safetensors");
        let whole = std::fs::read(&path).unwrap();
        let length = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&whole[8..8 + length]).unwrap();
        for (rename, refused) in [
            ((|name| format!("module.{name}")) as fn(&str) -> String, None),
            (|name| format!("module.model.{name}"), None),
            (
                |name| format!("net.{name}"),
                Some("none of the tensors is named as in BertForMaskedLM; all names begin with \"net.\""),
            ),
            (|name| format!("x.y.{name}"), Some("all names begin with \"x.y.\"")),
            (|name| name.replace('.', "/"), Some("; one of them is bert/embeddings/")),
        ] {
            let renamed = header.iter().map(|(name, value)| match name.as_str() {
                "__metadata__" => (name.clone(), value.clone()),
                name => (rename(name), value.clone()),
            });
            let renamed = serde_json::Value::Object(renamed.collect()).to_string();
            let file = [
                &(renamed.len() as u64).to_le_bytes(),
                renamed.as_bytes(),
                &whole[8 + length..],
            ]
            .concat();
            std::fs::write(&path, file).unwrap();
            let opened = PretrainedModel::open(folder.path())
                .err()
                .map(|error| error.to_string());
            let inspection = Inspection::of(Source::folder(folder.path()).unwrap());
            let errors: Vec<String> = inspection.errors.iter().map(ToString::to_string).collect();
            match refused {
                None => assert_eq!((opened, errors.len()), (None, 0)),
                Some(reason) => {
                    assert!(opened.as_ref().unwrap().contains(reason), "{opened:?}");
                    assert_eq!(errors, [opened.unwrap()]);
                }
            }
        }
    }

    #[test]
    fn a_model_without_a_masked_lm_head_is_refused_by_the_name_of_its_architecture() {
        assert!(PretrainedModel::open(tiny("null", "cls.predictions.").path()).is_ok());
        for (architectures, named) in [
            (r#"["BertModel"]"#, "; config.json gives the architecture as BertModel"),
            (r#"["BertForMaskedLM", "X"]"#, "as BertForMaskedLM, X"),
            ("null", "no masked-language-model head"),
        ] {
            let folder = tiny(architectures, "cls.elsewhere.x.");
            let error = PretrainedModel::open(folder.path()).err().unwrap().to_string();
            assert!(
                error.contains("no masked-language-model head") && error.ends_with(named),
                "{error}"
            );
            let inspection = Inspection::of(Source::folder(folder.path()).unwrap());
            let errors: Vec<String> = inspection.errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors, [error]);
        }
    }

    #[test]
    fn an_unknown_pooling_of_sparse_vectors_is_refused_by_loading_and_by_inspection() {
        let folder = tiny("null", "cls.predictions.");
        let pooling = folder.path().join("1_SpladePooling");
        std::fs::create_dir(&pooling).unwrap();
        std::fs::write(pooling.join("config.json"), r#"{"pooling_strategy": "mean"}"#).unwrap();
        let error = PretrainedModel::open(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains("1_SpladePooling") && error.contains("\"mean\""),
            "{error}"
        );
        let inspection = Inspection::of(Source::folder(folder.path()).unwrap());
        let errors: Vec<String> = inspection.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, [error]);
    }

    #[test]
    fn the_refusal_of_a_model_type_has_the_whole_list_of_those_that_are_supported() {
        for model_type in [
            "gpt2",
            "deberta-v2",
            "flaubert",
            "switch_transformers",
            "bigbird_pegasus",
        ] {
            let config = format!(r#"{{"model_type": "{model_type}"}}"#);
            let error = check_config(config.as_bytes()).unwrap_err().to_string();
            let list = error.split("supported: ").nth(1).unwrap();
            assert!(!error.contains('…') && list.split(", ").count() > 20, "{error}");
        }
    }

    #[test]
    fn errors_repeat_a_bounded_part_of_a_file() {
        let long = "x".repeat(1 << 20);
        let set = |fields: &[&str]| {
            let mut config = serde_json::json!({"model_type": "bert", "vocab_size": 9, "hidden_size": 8,
                "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16});
            for &field in fields {
                config[field] = long.as_str().into();
            }
            check_config(config.to_string().as_bytes()).unwrap_err().to_string()
        };
        for field in ["model_type", "hidden_act", "hidden_size", "vocab_size"] {
            let error = set(&[field]);
            assert!(error.len() < 500, "{} bytes", error.len());
        }
        let error = set(&["hidden_act", "hidden_size", "vocab_size"]);
        assert!(error.len() < 1500, "{} bytes", error.len());
        assert!(
            error.contains("hidden_act is") && error.contains("vocab_size is"),
            "{error}"
        );
        let folder = tiny(&format!(r#"["{long}"]"#), "cls.elsewhere.x.");
        let error = PretrainedModel::open(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains("no masked-language-model head") && error.len() < 500,
            "{} bytes",
            error.len()
        );
    }

    #[test]
    fn a_tokenizer_whose_rules_multiply_a_text_is_refused() {
        let folder = tiny("null", "cls.predictions.");
        let path = folder.path().join("tokenizer.json");
        let mut tokenizer: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let doubling = serde_json::json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        for (part, field, named) in [
            ("normalizer", "normalizers", "the normalizer"),
            ("decoder", "decoders", "the decoder"),
        ] {
            let rules = serde_json::json!({"type": "Sequence", field: vec![doubling.clone(); 60]});
            let usual = std::mem::replace(&mut tokenizer[part], rules);
            std::fs::write(&path, tokenizer.to_string()).unwrap();
            tokenizer[part] = usual;
            // A class whose rules are those of the file.
            let config = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "mask_token": "[MASK]"}"#;
            std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
            let error = PretrainedModel::open(folder.path()).err().unwrap().to_string();
            assert!(error.contains(named) && error.contains("times as long"), "{error}");
            let inspection = Inspection::of(Source::folder(folder.path()).unwrap());
            let errors: Vec<String> = inspection.errors.iter().map(ToString::to_string).collect();
            assert_eq!(errors, [error]);
        }
    }
}
