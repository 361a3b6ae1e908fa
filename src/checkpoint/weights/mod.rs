//! Weight files, read tensor by tensor, and each in small parts: no tensor is in memory in the file's own type.
//!
//! The files are read, not mapped: truncating a mapped file kills the process that reads it, and mapping needs
//! `unsafe`.
//!
//! | file | responsibility |
//! |---|---|
//! | `element` | types of elements, and their values in f32 |
//! | `safetensors` | headers of safetensors files |
//! | `pytorch/` | PyTorch's files: zip archives and pickles, read as data |

mod element;
mod pytorch;
mod safetensors;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::SeekFrom;

use super::error::{CheckpointError, Part, TensorError};
use super::files::{Files, ReadSeek};
use super::json;
use super::names::{CONFIG, OTHER_WEIGHTS, PYTORCH_INDEX, PYTORCH_WEIGHTS, WEIGHTS, WEIGHTS_INDEX};
use crate::sys::excerpt;
pub use element::ElementType;
use element::SUPPORTED;

/// Biases of the logits, in which −∞ excludes a token.
const OUTPUT_BIASES: [&str; 9] = [
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
    "lm_head.bias",
    "lm_head.decoder.bias",
    "vocab_projector.bias",
    "generator_lm_head.bias",
    "predictions.bias",
    "predictions.decoder.bias",
    "decoder.bias",
];
/// Prefixes that wrappers of a model add to all names: `DataParallel` and `DistributedDataParallel`, `torch.compile`,
/// and training frameworks.
const WRAPPERS: [&str; 3] = ["module.", "_orig_mod.", "model."];
/// A bias that no sum of a logit outweighs, and that no later sum takes out of f32's range.
const EXCLUDED: f32 = -1e30;
/// A tensor is read in parts of this size: it stays in the cache until it is converted. A multiple of every number's
/// size.
const READ_BYTES: usize = 1 << 18;

/// Weight files in the order of precedence, which is that of transformers: each as one file, or as an index of several.
pub const FORMATS: [(&str, &str); 2] = [(WEIGHTS, WEIGHTS_INDEX), (PYTORCH_WEIGHTS, PYTORCH_INDEX)];

/// The tensors of a checkpoint, read one at a time by their names in it.
///
/// Each call may read and convert again: a caller keeps what it needs and drops the rest.
pub trait TensorSource: Send {
    /// The values of `name`, row-major, in f32.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or cannot be read.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError>;

    /// The checkpoint has a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

/// All weight files of a checkpoint, opened and their headers read.
pub struct WeightFiles {
    files: Vec<WeightFile>,
    /// Index of the file that holds a tensor, and the tensor's place in it.
    tensors: HashMap<String, (usize, Tensor)>,
    /// Sentence part that says so if `config.json` describes the weights as quantized; empty otherwise.
    quantized: String,
}

struct WeightFile {
    path: String,
    file: Box<dyn ReadSeek>,
}

/// A tensor in a weight file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub element: ElementType,
    pub shape: Vec<usize>,
    /// Offset of the first element in bytes.
    offset: u64,
    /// Elements from one index of each dimension to the next, if the tensor is not row-major.
    strides: Option<Vec<usize>>,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl WeightFiles {
    /// Opens the files of the first format that is there.
    ///
    /// # Errors
    /// Files that are missing or not valid.
    pub fn open(files: &Files) -> Result<Self, CheckpointError> {
        let mut all = Self {
            files: Vec::new(),
            tensors: HashMap::new(),
            quantized: quantized(files),
        };
        for (single, index) in FORMATS {
            let names = match (files.has(single), files.has(index)) {
                (true, _) => vec![single.to_owned()],
                (false, true) => shards(files, index)?,
                (false, false) => continue,
            };
            for name in names {
                all.add(files, &name)?;
            }
            if all.tensors.is_empty() {
                let file = if files.has(single) { single } else { index };
                return Err(weights_error(format!("{} has no tensors", files.path(file))));
            }
            all.remove_wrappers();
            return Ok(all);
        }
        Err(CheckpointError::Missing {
            part: Part::Weights,
            location: files.location(),
            other_weights: OTHER_WEIGHTS.into_iter().find(|file| files.has(file)),
        })
    }

    fn add(&mut self, files: &Files, name: &str) -> Result<(), CheckpointError> {
        let path = files.path(name);
        let (mut file, bytes) = files.open(name)?;
        let tensors = match name.ends_with(".safetensors") {
            true => safetensors::read(&mut *file, bytes)
                .map_err(|reason| weights_error(format!("{path} is not a whole safetensors file: {reason}")))?,
            false => pytorch::read(&mut *file, bytes)
                .map_err(|reason| weights_error(format!("{path} is not a file of PyTorch tensors: {reason}")))?,
        };
        for (name, tensor) in tensors {
            self.tensors.insert(name, (self.files.len(), tensor));
        }
        self.files.push(WeightFile { path, file });
        Ok(())
    }

    /// Removes prefixes of wrappers that all names have.
    fn remove_wrappers(&mut self) {
        let common = |names: &HashMap<String, _>| {
            let mut wrappers = WRAPPERS.into_iter();
            wrappers.find(|wrapper| !names.is_empty() && names.keys().all(|name| name.starts_with(wrapper)))
        };
        while let Some(wrapper) = common(&self.tensors) {
            let unwrapped = self.tensors.drain().map(|(name, tensor)| {
                let name = name[wrapper.len()..].to_owned();
                (name, tensor)
            });
            self.tensors = unwrapped.collect();
        }
    }

    /// The prefix that all names of the files have before `name`, if there is one.
    pub fn unknown_prefix(&self, name: &str) -> Option<&str> {
        let prefixes = self.tensors.keys().filter_map(|stored| stored.strip_suffix(name));
        let prefix = prefixes.filter(|prefix| prefix.ends_with('.')).min()?;
        self.tensors
            .keys()
            .all(|stored| stored.starts_with(prefix))
            .then_some(prefix)
    }

    /// The files, by path.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// All tensors under the names that they have in the files, without the prefixes of wrappers.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, (_, tensor))| (name.as_str(), tensor))
    }
}

impl TensorSource for WeightFiles {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let files = || {
            let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
            paths.join(", ")
        };
        let Some((file, tensor)) = self.tensors.get(name) else {
            return Err(TensorError(format!(
                "tensor {name} is missing from {}{}",
                files(),
                self.quantized
            )));
        };
        let file = &mut self.files[*file];
        if !tensor.element.is_usual() && !self.quantized.is_empty() {
            return Err(TensorError(format!(
                "{}: tensor {name} is of type {}{}",
                file.path, tensor.element, self.quantized
            )));
        }
        if tensor.element.reader().is_none() {
            return Err(TensorError(format!(
                "{}: tensor {name} is of type {}; supported: {SUPPORTED}",
                file.path, tensor.element
            )));
        }
        if tensor.shape != shape {
            return Err(TensorError(format!(
                "{}: tensor {name} has shape {:?}, but config.json asks for {shape:?}",
                file.path, tensor.shape
            )));
        }
        let read = match &tensor.strides {
            None => file.read(tensor, tensor.elements(), name),
            Some(strides) => {
                let extent = file.read(tensor, tensor.extent(strides), name);
                extent.map(|extent| in_row_major_order(&extent, &tensor.shape, strides))
            }
        };
        read.map_err(|reason| TensorError(format!("{}: tensor {name}{reason}", file.path)))
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

impl Tensor {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Elements from the first to the last in the file.
    fn extent(&self, strides: &[usize]) -> usize {
        let steps = self.shape.iter().zip(strides);
        1 + steps.map(|(size, stride)| (size - 1) * stride).sum::<usize>()
    }
}

impl WeightFile {
    /// Reads `count` elements from the tensor's first one on, in the order of the file.
    fn read(&mut self, tensor: &Tensor, count: usize, name: &str) -> Result<Vec<f32>, String> {
        let reader = tensor.element.reader();
        let (element_bytes, convert) = reader.ok_or(" is of a type that is not read")?;
        let unreadable = |e: std::io::Error| format!(": {e}");
        let seek = self.file.seek(SeekFrom::Start(tensor.offset));
        seek.map_err(unreadable)?;
        let mut values = Vec::with_capacity(count);
        let mut left = count * element_bytes;
        let mut bytes = vec![0; READ_BYTES.min(left)];
        while left > 0 {
            let part = &mut bytes[..READ_BYTES.min(left)];
            left -= part.len();
            self.file.read_exact(part).map_err(unreadable)?;
            let before = values.len();
            convert(part, &mut values);
            if OUTPUT_BIASES.contains(&name) {
                exclude_from_predictions(&mut values[before..]);
            }
            if !values[before..].iter().all(|value| value.is_finite()) {
                return Err(" holds a value that is not a finite number; the file is damaged".to_owned());
            }
        }
        match OUTPUT_BIASES.contains(&name) && !values.is_empty() && values.iter().all(|&value| value == EXCLUDED) {
            true => Err(" excludes every token: all of its values are -inf".to_owned()),
            false => Ok(values),
        }
    }
}

/// The elements of a view in the order of its indices.
fn in_row_major_order(extent: &[f32], shape: &[usize], strides: &[usize]) -> Vec<f32> {
    let elements = shape.iter().product();
    let mut values = Vec::with_capacity(elements);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    while values.len() < elements {
        values.push(extent[at]);
        for dimension in (0..shape.len()).rev() {
            index[dimension] += 1;
            at += strides[dimension];
            if index[dimension] < shape[dimension] {
                break;
            }
            at -= shape[dimension] * strides[dimension];
            index[dimension] = 0;
        }
    }
    values
}

/// The part of a sentence that names the quantization which `config.json` states; empty if it states none.
fn quantized(files: &Files) -> String {
    let config = files.read(CONFIG).ok().and_then(|config| json::parse(&config).ok());
    let config: serde_json::Value = config.unwrap_or_default();
    let Some(quantization) = config.get("quantization_config").filter(|value| !value.is_null()) else {
        return String::new();
    };
    let method = quantization.get("quant_method").and_then(serde_json::Value::as_str);
    let method = method.map_or_else(String::new, |method| format!(" ({})", excerpt::name(method)));
    format!("; by quantization_config{method} in {CONFIG} the weights are quantized, which is not supported")
}

/// The names of the weight files that an index lists, each once. A name may have folders, as in transformers, but no
/// part that leads out of the checkpoint's folder.
pub fn shards(files: &Files, index: &str) -> Result<Vec<String>, CheckpointError> {
    let broken = |reason: String| weights_error(format!("{}: {reason}", files.path(index)));
    let index: Index = json::parse(&files.read(index)?).map_err(|e| broken(e.to_string()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    let is_inside = |name: &str| {
        let mut parts = name.split('/');
        !name.contains(['\\', ':', '\0']) && parts.all(|part| !matches!(part, "" | ".."))
    };
    match names.iter().find(|name| !is_inside(name)) {
        Some(name) => Err(broken(format!(
            "\"{}\" is not the name of a file in its folder",
            excerpt::name(name)
        ))),
        None => Ok(names),
    }
}

fn weights_error(reason: String) -> CheckpointError {
    CheckpointError::Weights(TensorError(reason))
}

/// Replaces −∞ with a finite number that has the same effect: probability 0. Checkpoints with a padded vocabulary have
/// −∞ in the bias of the rows that are no tokens.
fn exclude_from_predictions(bias: &mut [f32]) {
    for value in bias.iter_mut().filter(|value| **value == f32::NEG_INFINITY) {
        *value = EXCLUDED;
    }
}
