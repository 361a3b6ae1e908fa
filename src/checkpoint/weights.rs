//! Safetensors files, read tensor by tensor, and each in small parts: no tensor is in memory in the file's own type.
//!
//! The files are read, not mapped: truncating a mapped file kills the process that reads it, and mapping needs
//! `unsafe`.

use std::collections::HashMap;
use std::io::{ErrorKind, SeekFrom};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::error::{CheckpointError, Part, TensorError};
use super::files::{Files, ReadSeek};
use super::names::{OTHER_WEIGHTS, WEIGHTS, WEIGHTS_INDEX};

/// The limit of the safetensors format itself.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The length of the header stands in the first eight bytes.
const LENGTH_BYTES: u64 = 8;
/// Biases of the logits, in which −∞ excludes a token.
const OUTPUT_BIASES: [&str; 8] = [
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
    "lm_head.bias",
    "lm_head.decoder.bias",
    "vocab_projector.bias",
    "generator_lm_head.bias",
    "predictions.bias",
    "predictions.decoder.bias",
];
/// A bias that no sum of a logit outweighs, and that no later sum takes out of f32's range.
const EXCLUDED: f32 = -1e30;
/// A tensor is read in parts of this size: it stays in the cache until it is converted. A multiple of every number's
/// size.
const READ_BYTES: usize = 1 << 18;

/// The tensors of a checkpoint, read one at a time by their names in it.
///
/// Each call may read and convert again: a caller keeps what it needs and drops the rest.
pub trait TensorSource {
    /// The values of `name`, row-major, in f32.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, or cannot be read.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError>;

    /// The checkpoint has a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

/// All weight files of a checkpoint, opened and their headers read.
pub struct SafetensorsFiles {
    files: Vec<WeightFile>,
    /// Which file holds a tensor, and what the header says of it.
    tensors: HashMap<String, (usize, TensorInfo)>,
}

struct WeightFile {
    path: String,
    file: Box<dyn ReadSeek>,
    /// Offset of the first tensor.
    data_start: u64,
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl SafetensorsFiles {
    pub fn open(files: &Files) -> Result<Self, CheckpointError> {
        let mut all = Self {
            files: Vec::new(),
            tensors: HashMap::new(),
        };
        if files.has(WEIGHTS) {
            all.add(files, WEIGHTS)?;
            return Ok(all);
        }
        if !files.has(WEIGHTS_INDEX) {
            return Err(CheckpointError::Missing {
                part: Part::Weights,
                location: files.location(),
                other_weights: OTHER_WEIGHTS.into_iter().find(|file| files.has(file)),
            });
        }
        for name in shards(files)? {
            all.add(files, &name)?;
        }
        Ok(all)
    }

    fn add(&mut self, files: &Files, name: &str) -> Result<(), CheckpointError> {
        let path = files.path(name);
        let (mut file, bytes) = files.open(name)?;
        let broken = |reason: &str| weights_error(format!("{path} is not a whole safetensors file: {reason}"));
        let mut length = [0; LENGTH_BYTES as usize];
        file.read_exact(&mut length).map_err(|e| match e.kind() {
            ErrorKind::UnexpectedEof => broken("it is shorter than eight bytes"),
            _ => weights_error(format!("{path}: {e}")),
        })?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX || length > bytes - LENGTH_BYTES {
            return Err(broken("its header is longer than the file"));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(|e| broken(&e.to_string()))?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| broken(&e.to_string()))?;
        let data_start = LENGTH_BYTES + length;
        // As the format demands. A header whose length is wrong by a byte may still be read, and every value
        // would be another.
        let ends = metadata.tensors().values().map(|info| info.data_offsets.1).max();
        if ends.is_some_and(|end| (end as u64) < bytes - data_start) {
            return Err(broken("there are bytes behind its last tensor"));
        }
        for (tensor, info) in metadata.tensors() {
            check_extent(info, bytes - data_start).map_err(|reason| broken(&format!("tensor {tensor} {reason}")))?;
            self.tensors.insert(tensor, (self.files.len(), info.clone()));
        }
        self.files.push(WeightFile { path, file, data_start });
        Ok(())
    }

    /// The files, by path.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str())
    }

    /// All tensors under the names that they have in the files.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, (_, info))| (name.as_str(), info))
    }
}

impl TensorSource for SafetensorsFiles {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, TensorError> {
        let files = || {
            let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
            paths.join(", ")
        };
        let Some((file, info)) = self.tensors.get(name) else {
            return Err(TensorError(format!("tensor {name} is missing from {}", files())));
        };
        let file = &mut self.files[*file];
        if info.shape != shape {
            return Err(TensorError(format!(
                "{}: tensor {name} has shape {:?}, but config.json asks for {shape:?}",
                file.path, info.shape
            )));
        }
        let unreadable = |e: std::io::Error| TensorError(format!("{}: tensor {name}: {e}", file.path));
        let convert: fn(&[u8], &mut Vec<f32>) = match info.dtype {
            Dtype::F64 => |bytes, values| floats(bytes, |b| f64::from_le_bytes(b) as f32, values),
            Dtype::F32 => |bytes, values| floats(bytes, f32::from_le_bytes, values),
            Dtype::F16 => |bytes, values| floats(bytes, |b| half::f16::from_le_bytes(b).to_f32(), values),
            Dtype::BF16 => |bytes, values| floats(bytes, |b| half::bf16::from_le_bytes(b).to_f32(), values),
            other => {
                return Err(TensorError(format!(
                    "{}: tensor {name} is of type {other:?}; F64, F32, F16 and BF16 are supported",
                    file.path
                )));
            }
        };
        let (start, end) = info.data_offsets;
        let seek = file.file.seek(SeekFrom::Start(file.data_start + start as u64));
        seek.map_err(unreadable)?;
        let mut values = Vec::with_capacity(info.shape.iter().product());
        let mut bytes = vec![0; READ_BYTES.min(end - start)];
        let mut left = end - start;
        while left > 0 {
            let part = &mut bytes[..READ_BYTES.min(left)];
            left -= part.len();
            file.file.read_exact(part).map_err(unreadable)?;
            let before = values.len();
            convert(part, &mut values);
            if OUTPUT_BIASES.contains(&name) {
                exclude_from_predictions(&mut values[before..]);
            }
            if !values[before..].iter().all(|value| value.is_finite()) {
                return Err(TensorError(format!(
                    "{}: tensor {name} holds a value that is not a finite number; the file is damaged",
                    file.path
                )));
            }
        }
        Ok(values)
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

/// The names of the weight files that the index lists, each once.
pub fn shards(files: &Files) -> Result<Vec<String>, CheckpointError> {
    let broken = |reason: String| weights_error(format!("{}: {reason}", files.path(WEIGHTS_INDEX)));
    let index: Index = serde_json::from_slice(&files.read(WEIGHTS_INDEX)?).map_err(|e| broken(e.to_string()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names.iter().find(|name| name.contains(['/', '\\'])) {
        Some(name) => Err(broken(format!("\"{name}\" is not the name of a file beside it"))),
        None => Ok(names),
    }
}

fn weights_error(reason: String) -> CheckpointError {
    CheckpointError::Weights(TensorError(reason))
}

/// Checks that a tensor lies within the file's data and has the length of its shape and type.
fn check_extent(info: &TensorInfo, data_bytes: u64) -> Result<(), &'static str> {
    let (start, end) = info.data_offsets;
    if start > end || end as u64 > data_bytes {
        return Err("reaches beyond the end of the file");
    }
    let elements = info.shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size));
    match elements.and_then(|n| n.checked_mul(info.dtype.bitsize())) {
        Some(bits) if bits == (end - start) * 8 => Ok(()),
        _ => Err("is not as long as its shape says"),
    }
}

/// Replaces −∞ with a finite number that has the same effect: probability 0. Checkpoints with a padded vocabulary have
/// −∞ in the bias of the rows that are no tokens.
fn exclude_from_predictions(bias: &mut [f32]) {
    for value in bias.iter_mut().filter(|value| **value == f32::NEG_INFINITY) {
        *value = EXCLUDED;
    }
}

/// Adds the values of little-endian numbers of `N` bytes.
fn floats<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32, values: &mut Vec<f32>) {
    let (chunks, _) = bytes.as_chunks::<N>();
    values.extend(chunks.iter().map(|&chunk| value(chunk)));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tensors(folder: &Path) -> Result<Vec<(String, Vec<f32>)>, String> {
        let files = Files::folder(folder).unwrap();
        let mut all = SafetensorsFiles::open(&files).map_err(|e| e.to_string())?;
        let stored = all.stored().map(|(name, info)| (name.to_owned(), info.shape.clone()));
        let mut stored: Vec<_> = stored.collect();
        stored.sort();
        let values = stored.into_iter().map(|(name, shape)| {
            let values = all.tensor(&name, &shape).map_err(|e| e.to_string())?;
            Ok((name, values))
        });
        values.collect()
    }

    /// Whatever bit of the header is wrong: the file is refused by its name, or a tensor has another name (and is
    /// then missing). Never is a value read from another place, or as another type.
    #[test]
    fn a_flipped_bit_of_a_header_is_seen() {
        let whole = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/tiny/model.safetensors")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(WEIGHTS);
        std::fs::write(&path, &whole).unwrap();
        let sound = tensors(folder.path()).unwrap();
        let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        let mut renamed = 0;
        // All of its length; of the rest every seventh bit, so that in eight bytes each bit has its turn.
        for bit in (0..64).chain((64..8 * header_end).step_by(7)) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, bytes).unwrap();
            match tensors(folder.path()) {
                Err(error) => assert!(error.contains(WEIGHTS), "bit {bit}: {error}"),
                Ok(read) => {
                    let other: Vec<_> = read.iter().filter(|tensor| !sound.contains(tensor)).collect();
                    assert_eq!(other.len(), 1, "bit {bit}");
                    let (name, values) = other[0];
                    let is_renamed = |(old, same): &(String, _)| same == values && !read.iter().any(|(n, _)| n == old);
                    assert!(sound.iter().any(is_renamed), "bit {bit}: {name}");
                    renamed += 1;
                }
            }
        }
        assert!(renamed > 10, "{renamed}");
    }

    /// A file with one tensor of this type and these bytes.
    fn one_tensor(name: &str, dtype: &str, elements: usize, data: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let header = format!(
            r#"{{"{name}":{{"dtype":"{dtype}","shape":[{elements}],"data_offsets":[0,{}]}}}}"#,
            data.len()
        );
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
        std::fs::write(folder.path().join(WEIGHTS), file).unwrap();
        folder
    }

    #[test]
    fn every_floating_point_type_is_read() {
        let values = [0.5f32, -2.0, 1.25];
        let f64s: Vec<u8> = values
            .iter()
            .flat_map(|&value| f64::from(value).to_le_bytes())
            .collect();
        let f32s: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let f16s: Vec<u8> = values
            .iter()
            .flat_map(|&v| half::f16::from_f32(v).to_le_bytes())
            .collect();
        let bf16s: Vec<u8> = values
            .iter()
            .flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())
            .collect();
        for (dtype, bytes) in [("F64", f64s), ("F32", f32s), ("F16", f16s), ("BF16", bf16s)] {
            let folder = one_tensor("x", dtype, 3, &bytes);
            assert_eq!(
                tensors(folder.path()).unwrap(),
                [("x".to_owned(), values.to_vec())],
                "{dtype}"
            );
        }
        let folder = one_tensor("x", "I64", 1, &[0; 8]);
        assert!(
            tensors(folder.path())
                .unwrap_err()
                .contains("F64, F32, F16 and BF16 are supported")
        );
        // Beyond the range of f32.
        let folder = one_tensor("x", "F64", 1, &1e300f64.to_le_bytes());
        assert!(tensors(folder.path()).unwrap_err().contains("not a finite number"));
    }

    #[test]
    fn minus_infinity_is_accepted_in_the_bias_of_the_logits_only() {
        for (value, name, is_accepted) in [
            (f32::NEG_INFINITY, "cls.predictions.bias", true),
            (f32::NEG_INFINITY, "cls.predictions.decoder.bias", true),
            (f32::NEG_INFINITY, "cls.predictions.transform.dense.bias", false),
            (f32::INFINITY, "cls.predictions.bias", false),
            (f32::NAN, "cls.predictions.bias", false),
        ] {
            let folder = one_tensor(name, "F32", 1, &value.to_le_bytes());
            match tensors(folder.path()) {
                Ok(read) => assert!(is_accepted && read[0].1 == [EXCLUDED], "{name}: {value}"),
                Err(error) => assert!(!is_accepted && error.contains("not a finite number"), "{name}: {error}"),
            }
        }
    }
}
