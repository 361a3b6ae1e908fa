use std::io::Cursor;
use std::path::{Path, PathBuf};

use super::*;
use crate::checkpoint::files::Files;
use crate::checkpoint::names::{PYTORCH_INDEX, PYTORCH_WEIGHTS, WEIGHTS};
use crate::checkpoint::weights::{TensorSource, WeightFiles};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(name)).unwrap()
}

/// Expected tensors from `make.py`: name, shape, values.
fn expected() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let values: serde_json::Value = serde_json::from_slice(&fixture("values.json")).unwrap();
    let tensors = values.as_object().unwrap().iter().map(|(name, tensor)| {
        let numbers = |field: &str| {
            let list = tensor[field].as_array().unwrap().iter();
            list.map(|number| number.as_f64().unwrap()).collect::<Vec<f64>>()
        };
        let shape = numbers("shape").into_iter().map(|size| size as usize).collect();
        let values = numbers("values").into_iter().map(|value| value as f32).collect();
        (name.clone(), shape, values)
    });
    tensors.collect()
}

/// A folder in which the file has the name of the hub's layout.
fn folder(bytes: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(PYTORCH_WEIGHTS), bytes).unwrap();
    folder
}

fn open(folder: &tempfile::TempDir) -> Result<WeightFiles, String> {
    WeightFiles::open(&Files::folder(folder.path()).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn every_layout_gives_the_values_of_pytorch() {
    for name in [
        "zip.bin",
        "old.bin",
        "zip-protocol-4.bin",
        "old-protocol-5.bin",
        "zip-plain-dict.bin",
    ] {
        let mut weights = open(&folder(&fixture(name))).unwrap();
        let expected = expected();
        assert_eq!(weights.stored().count(), expected.len(), "{name}");
        for (tensor, shape, values) in expected {
            let stored = weights
                .stored()
                .find(|(stored, _)| *stored == tensor)
                .unwrap()
                .1
                .clone();
            assert_eq!(stored.shape, shape, "{name}: {tensor}");
            assert_eq!(weights.tensor(&tensor, &shape).unwrap(), values, "{name}: {tensor}");
        }
        let error = weights.tensor("f32", &[6, 4]).unwrap_err().to_string();
        assert!(error.contains("has shape [4, 6]"), "{error}");
    }
}

/// The same model in each format.
#[test]
fn a_model_has_the_values_of_its_safetensors_file() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let safetensors = tempfile::tempdir().unwrap();
    std::fs::copy(fuzz.join("tiny/model.safetensors"), safetensors.path().join(WEIGHTS)).unwrap();
    let mut safetensors = open(&safetensors).unwrap();
    let stored = safetensors
        .stored()
        .map(|(name, tensor)| (name.to_owned(), tensor.shape.clone()));
    let stored: Vec<_> = stored.collect();
    for name in ["zip", "old", "transposed", "protocol-4"] {
        let mut weights = open(&folder(&std::fs::read(fuzz.join("corpus/pytorch").join(name)).unwrap())).unwrap();
        assert_eq!(weights.stored().count(), stored.len());
        for (tensor, shape) in &stored {
            let expected = safetensors.tensor(tensor, shape).unwrap();
            assert_eq!(weights.tensor(tensor, shape).unwrap(), expected, "{name}: {tensor}");
        }
    }
}

#[test]
fn elements_may_be_of_types_without_a_storage_of_their_own() {
    let mut weights = open(&folder(&fixture("zip-untyped.bin"))).unwrap();
    for (tensor, shape, values) in expected() {
        assert_eq!(weights.tensor(&tensor, &shape).unwrap(), values, "{tensor}");
    }
    for (tensor, element, values) in [
        ("u16", ElementType::U16, vec![0.0, 1.0, 2.0, 3.0, 4.0]),
        ("f8", ElementType::F8E4m3, vec![0.0; 3]),
    ] {
        let stored = weights.stored().find(|(stored, _)| *stored == tensor).unwrap().1;
        assert_eq!(stored.element, element);
        assert_eq!(weights.tensor(tensor, &[values.len()]).unwrap(), values);
    }
}

#[test]
fn an_expanded_tensor_repeats_the_elements_of_its_storage() {
    for name in ["expanded.bin", "expanded-old.bin"] {
        let mut weights = open(&folder(&fixture(name))).unwrap();
        for (tensor, shape, values) in [
            ("rows", [2, 3], vec![1.0, 2.0, 3.0, 1.0, 2.0, 3.0]),
            ("columns", [2, 3], vec![4.0, 4.0, 4.0, 5.0, 5.0, 5.0]),
            ("scalar", [2, 2], vec![6.0; 4]),
            ("transposed", [3, 2], vec![1.0, 1.0, 2.0, 2.0, 3.0, 3.0]),
        ] {
            assert_eq!(weights.tensor(tensor, &shape).unwrap(), values, "{name}: {tensor}");
        }
        // A trillion elements, which config.json would have to ask for.
        let error = weights.tensor("large", &[2, 3]).unwrap_err().to_string();
        assert!(error.contains("has shape [1048576, 1048576]"), "{error}");
    }
}

#[test]
fn safetensors_take_precedence_and_indexes_are_read() {
    let two = folder(&fixture("zip.bin"));
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/tiny/model.safetensors");
    std::fs::copy(tiny, two.path().join(WEIGHTS)).unwrap();
    assert!(!open(&two).unwrap().contains("f32"));

    let parts = tempfile::tempdir().unwrap();
    for (part, name) in [("part-1.bin", "zip.bin"), ("part-2.bin", "old.bin")] {
        std::fs::write(parts.path().join(part), fixture(name)).unwrap();
    }
    let index = r#"{"metadata": {}, "weight_map": {"f32": "part-1.bin", "f16": "part-2.bin"}}"#;
    std::fs::write(parts.path().join(PYTORCH_INDEX), index).unwrap();
    let weights = open(&parts).unwrap();
    assert_eq!(weights.paths().count(), 2);
    assert!(weights.contains("transposed"));
}

#[test]
fn other_files_are_refused_with_the_reason() {
    for (name, reason) in [
        ("refused-code.bin", "print, which is no part of a file of tensors"),
        ("refused-code-old.bin", "print, which is no part of a file of tensors"),
        ("refused-negated.bin", "values are to be negated or conjugated"),
        ("refused-list.bin", "it holds no dict of tensors by name"),
        (
            "refused-nested.bin",
            "it holds no tensors by name, but a dict of them as \"model\", which must be saved by itself",
        ),
        ("refused-pickle.bin", "torch.save did not write it"),
        ("refused-page.bin", "it is a web page"),
        ("refused-program.bin", "it is a TorchScript program"),
        ("refused-compressed.bin", "is compressed"),
    ] {
        let error = open(&folder(&fixture(name))).err().unwrap();
        assert!(
            error.contains("pytorch_model.bin is not a file of PyTorch tensors: ") && error.contains(reason),
            "{name}: {error}"
        );
    }
    let safetensors = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/tiny/model.safetensors")).unwrap();
    for (bytes, reason) in [
        (b"".as_slice(), "it is empty"),
        (&safetensors, "it is a safetensors file"),
    ] {
        let error = open(&folder(bytes)).err().unwrap();
        assert!(error.contains(reason), "{error}");
    }
}

/// As in `torch.load(weights_only=True)`: what a model does not need may be in the file.
#[test]
fn tensors_in_other_forms_are_refused_only_where_they_are_needed() {
    let mut weights = open(&folder(&fixture("refused-sparse.bin"))).unwrap();
    let error = weights.tensor("a", &[2]).unwrap_err().to_string();
    assert!(error.contains("tensor a is of type sparse tensor"), "{error}");
    for name in ["other-forms.bin", "other-forms-old.bin"] {
        let mut weights = open(&folder(&fixture(name))).unwrap();
        assert_eq!(weights.tensor("weight", &[2]).unwrap(), [1.0, 2.0], "{name}");
        for (tensor, form) in [
            ("sparse", "sparse tensor"),
            ("quantized", "quantized tensor"),
            ("meta", "tensor without values"),
        ] {
            let error = weights.tensor(tensor, &[3]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("tensor {tensor} is of type {form}")),
                "{name}: {error}"
            );
        }
        let others = ["counter", "complex", "bytes", "steps"];
        assert!(!others.iter().any(|other| weights.contains(other)), "{name}");
    }
}

/// Every prefix of a file is refused, except those that lack bytes which no tensor has.
#[test]
fn a_cut_off_file_is_refused() {
    for name in ["zip.bin", "old.bin"] {
        let whole = fixture(name);
        for length in 0..whole.len() {
            let read = read(&mut Cursor::new(&whole[..length]), length as u64);
            assert!(read.is_err(), "{name}: {length} of {}", whole.len());
        }
        assert!(read(&mut Cursor::new(&whole), whole.len() as u64).is_ok());
    }
}

/// A flipped bit is refused, or changes a name, a value or a size; it never makes the reader panic or read elsewhere.
#[test]
fn a_flipped_bit_does_no_harm() {
    for name in ["zip.bin", "old.bin"] {
        let whole = fixture(name);
        let step = 3;
        for bit in (0..8 * whole.len()).step_by(step) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let length = bytes.len() as u64;
            let Ok(tensors) = read(&mut Cursor::new(&bytes), length) else {
                continue;
            };
            for (tensor, entry) in tensors {
                let elements: usize = entry.shape.iter().product();
                let extent = entry
                    .strides
                    .as_deref()
                    .map_or(elements, |strides| entry.extent(strides));
                assert!(entry.offset + extent as u64 <= length, "{name}: bit {bit}: {tensor}");
            }
        }
    }
}
