use std::path::Path;

use super::*;

fn tensors(folder: &Path) -> Result<Vec<(String, Vec<f32>)>, String> {
    let files = Files::folder(folder).unwrap();
    let mut all = WeightFiles::open(&files).map_err(|e| e.to_string())?;
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
    let folder = one_tensor("x", "C64", 1, &[0; 8]);
    assert!(
        tensors(folder.path())
            .unwrap_err()
            .contains("tensor x is of type C64; supported: F64, F32, F16, BF16, F8_E4M3")
    );
    // Beyond the range of f32.
    let folder = one_tensor("x", "F64", 1, &1e300f64.to_le_bytes());
    assert!(tensors(folder.path()).unwrap_err().contains("not a finite number"));
}

#[test]
fn a_file_of_another_form_is_named() {
    let zip = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pytorch/zip.bin");
    for (bytes, reason) in [
        (std::fs::read(zip).unwrap(), "its name must be pytorch_model.bin"),
        (b"<!DOCTYPE html><html></html>".to_vec(), "it is a web page"),
        (b"<html>login".to_vec(), "it is a web page"),
        (vec![], "it is shorter than eight bytes"),
        (
            [&2u64.to_le_bytes()[..], b"{}"].concat(),
            "model.safetensors has no tensors",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
        let error = tensors(folder.path()).unwrap_err();
        assert!(error.contains(reason) && error.contains(WEIGHTS), "{error}");
    }
}

#[test]
fn weights_of_other_programs_are_named() {
    for (name, reason) in [
        (
            "adapter_model.safetensors",
            "an adapter to the weights of another model",
        ),
        ("adapter_model.bin", "an adapter to the weights of another model"),
        ("tf_model.h5", "its weights only as tf_model.h5"),
        ("onnx/model.onnx", "its weights only as onnx/model.onnx"),
        ("openvino_model.xml", "its weights only as openvino_model.xml"),
        ("weights.txt", "no weights in safetensors format"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("onnx")).unwrap();
        std::fs::write(folder.path().join(name), "x").unwrap();
        let error = tensors(folder.path()).unwrap_err();
        assert!(
            error.contains(reason) && (name == "weights.txt" || error.contains(name)),
            "{error}"
        );
    }
}

/// Codes without their scales are no weights.
#[test]
fn quantized_weights_are_refused_by_their_method() {
    for (quantization, named) in [
        (r#"{"quant_method": "bitsandbytes"}"#, Some("(bitsandbytes)")),
        (r#"{"quant_method": "fp8"}"#, Some("(fp8)")),
        ("{}", Some("quantization_config in config.json")),
        ("null", None),
    ] {
        for (dtype, bytes) in [("I8", 1), ("U8", 1), ("F8_E4M3", 1), ("F32", 4), ("F16", 2)] {
            let folder = one_tensor("x", dtype, 1, &vec![0; bytes]);
            let config = format!(r#"{{"quantization_config": {quantization}}}"#);
            std::fs::write(folder.path().join(CONFIG), config).unwrap();
            let read = tensors(folder.path());
            match named.filter(|_| bytes == 1) {
                None => assert_eq!(read.unwrap(), [("x".to_owned(), vec![0.0])], "{quantization} {dtype}"),
                Some(named) => {
                    let error = read.unwrap_err();
                    assert!(error.contains(dtype) && error.contains(named), "{error}");
                }
            }
            let files = Files::folder(folder.path()).unwrap();
            let mut weights = WeightFiles::open(&files).unwrap();
            let error = weights.tensor("x.weight", &[1]).unwrap_err().to_string();
            assert!(
                error.contains("is missing") && named.is_none_or(|named| error.contains(named)),
                "{error}"
            );
        }
    }
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
        let bytes = [value.to_le_bytes(), 0.5f32.to_le_bytes()].concat();
        let folder = one_tensor(name, "F32", 2, &bytes);
        match tensors(folder.path()) {
            Ok(read) => assert!(is_accepted && read[0].1 == [EXCLUDED, 0.5], "{name}: {value}"),
            Err(error) => assert!(!is_accepted && error.contains("not a finite number"), "{name}: {error}"),
        }
    }
    let bytes = [f32::NEG_INFINITY.to_le_bytes(); 2].concat();
    let error = tensors(one_tensor("lm_head.bias", "F32", 2, &bytes).path()).unwrap_err();
    assert!(error.contains("tensor lm_head.bias excludes every token"), "{error}");
}

#[test]
fn prefixes_of_wrappers_are_removed_if_all_tensors_have_them() {
    let names = |names: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let entries = names
            .iter()
            .map(|name| format!(r#""{name}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#));
        let header = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat();
        std::fs::write(folder.path().join(WEIGHTS), file).unwrap();
        let files = WeightFiles::open(&Files::folder(folder.path()).unwrap()).unwrap();
        let mut names: Vec<String> = files.stored().map(|(name, _)| name.to_owned()).collect();
        names.sort();
        (names, files)
    };
    for (stored, expected) in [
        (["module.bert.a", "module.cls.b"], ["bert.a", "cls.b"]),
        (["_orig_mod.bert.a", "_orig_mod.cls.b"], ["bert.a", "cls.b"]),
        (["model.bert.a", "model.cls.b"], ["bert.a", "cls.b"]),
        (
            ["module._orig_mod.bert.a", "module._orig_mod.cls.b"],
            ["bert.a", "cls.b"],
        ),
        (["model.a", "head.b"], ["head.b", "model.a"]),
        (["net.bert.a", "net.cls.b"], ["net.bert.a", "net.cls.b"]),
    ] {
        assert_eq!(names(&stored).0, expected);
    }
    let (_, files) = names(&["net.bert.a", "net.cls.b"]);
    assert_eq!(files.unknown_prefix("bert.a"), Some("net."));
    assert_eq!(files.unknown_prefix("bert.c"), None);
    let (_, files) = names(&["net.bert.a", "cls.b"]);
    assert_eq!(files.unknown_prefix("bert.a"), None);
}

#[test]
fn an_index_may_name_files_in_folders_and_none_outside() {
    let stored = one_tensor("x", "F32", 1, &1.5f32.to_le_bytes());
    let bytes = std::fs::read(stored.path().join(WEIGHTS)).unwrap();
    let outer = tempfile::tempdir().unwrap();
    let model = outer.path().join("model");
    for path in [
        "part.safetensors",
        "model/part.safetensors",
        "model/a/b/part.safetensors",
    ] {
        let path = outer.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &bytes).unwrap();
    }
    let absolute = outer.path().join("part.safetensors").display().to_string();
    for (name, is_read) in [
        ("part.safetensors", true),
        ("a/b/part.safetensors", true),
        ("./a/b/part.safetensors", true),
        ("../part.safetensors", false),
        ("a/../../part.safetensors", false),
        ("a\\b\\part.safetensors", false),
        (&absolute, false),
        ("", false),
    ] {
        let index = serde_json::json!({"weight_map": {"x": name}});
        std::fs::write(model.join(WEIGHTS_INDEX), index.to_string()).unwrap();
        match tensors(&model) {
            Ok(read) => assert!(is_read && read == [("x".to_owned(), vec![1.5])], "{name}"),
            Err(error) => assert!(
                !is_read && error.contains(WEIGHTS_INDEX) && error.contains("is not the name of a file in its folder"),
                "{name}: {error}"
            ),
        }
    }
}
