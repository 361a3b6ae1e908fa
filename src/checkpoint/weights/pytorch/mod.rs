//! Weight files of PyTorch (`pytorch_model.bin`), read without running anything: their pickle describes tensors in
//! terms of storages, and the reader takes that description alone.
//!
//! Two layouts exist. Since PyTorch 1.6 a file is a zip archive with `data.pkl` and one entry per storage. Before, it
//! was a sequence of pickles (a magic number, a version, properties of the system, the tensors, the keys of the
//! storages) with the storages behind it.

mod pickle;
#[cfg(test)]
mod tests;
mod zip;

use std::collections::HashMap;

use super::{ElementType, Tensor};
use crate::checkpoint::files::{ReadSeek, is_web_page};
use pickle::{Id, Pickles, Storage, Value};
use zip::{Archive, read_at};

/// The largest pickle that is read. It holds names and sizes, not the weights.
const PICKLE_BYTES_MAX: u64 = 64 << 20;
/// The first object of a file of the old layout, as it is in memory: 0x1950a86a20f9469cfc6c.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Before each storage of the old layout: the number of its elements.
const COUNT_BYTES: u64 = 8;

/// Offset and size in bytes of each storage, by key.
type Places = HashMap<String, (u64, u64)>;

/// The tensors of a file of `bytes` bytes, by name.
///
/// # Errors
/// The reason in words.
pub fn read(file: &mut dyn ReadSeek, bytes: u64) -> Result<Vec<(String, Tensor)>, String> {
    let beginning = read_at(file, 0, bytes.min(512) as usize)?;
    if beginning.starts_with(b"PK\x03\x04") {
        return read_zip(file, bytes);
    }
    // Behind the protocol, and from protocol 4 on behind the length of a frame.
    let has_magic = |at| beginning.get(at..).is_some_and(|pickle| pickle.starts_with(MAGIC));
    if has_magic(2) || has_magic(11) {
        return read_old(file, bytes);
    }
    let is_archive = beginning.get(257..).is_some_and(|magic| magic.starts_with(b"ustar"));
    let reason = match beginning.as_slice() {
        b"" => "it is empty",
        _ if is_archive => "it has the layout of PyTorch before 0.2",
        _ if beginning.get(8..10) == Some(b"{\"") => "it is a safetensors file; its name must be model.safetensors",
        _ if is_web_page(&beginning) => "it is a web page",
        _ => "torch.save did not write it",
    };
    Err(reason.to_owned())
}

fn read_zip(file: &mut dyn ReadSeek, bytes: u64) -> Result<Vec<(String, Tensor)>, String> {
    let archive = Archive::read(file, bytes)?;
    let root = archive.names().find_map(|name| {
        let root = name.strip_suffix("data.pkl")?;
        let is_root = root.ends_with('/') && root.matches('/').count() == 1;
        is_root.then(|| root.to_owned())
    });
    let root = root.ok_or("it is a zip archive without data.pkl")?;
    if archive.names().any(|name| name == format!("{root}constants.pkl")) {
        return Err("it is a TorchScript program, not a file of tensors".to_owned());
    }
    let byteorder = format!("{root}byteorder");
    if archive.names().any(|name| name == byteorder) {
        let (start, length) = archive.locate(file, bytes, &byteorder)?;
        if read_at(file, start, length.min(6) as usize)? != b"little" {
            return Err(BIG_ENDIAN.to_owned());
        }
    }
    let (start, length) = archive.locate(file, bytes, &format!("{root}data.pkl"))?;
    if length > PICKLE_BYTES_MAX {
        return Err(format!("its pickle is larger than {PICKLE_BYTES_MAX} bytes"));
    }
    let pickle = read_at(file, start, length as usize)?;
    let mut pickles = Pickles::new(&pickle);
    let root_value = pickles.read()?;
    let tensors = named_tensors(&pickles, root_value)?;
    let other = other_tensors(&pickles, root_value);
    let mut places = Places::new();
    for (_, tensor) in &tensors {
        let key = &storage(&pickles, tensor).key;
        if !places.contains_key(key) {
            let place = archive.locate(file, bytes, &format!("{root}data/{key}"))?;
            places.insert(key.clone(), place);
        }
    }
    let placed = place_all(&pickles, tensors, &places)?;
    Ok(placed.into_iter().chain(other).collect())
}

const BIG_ENDIAN: &str = "its numbers are big-endian";

fn read_old(file: &mut dyn ReadSeek, bytes: u64) -> Result<Vec<(String, Tensor)>, String> {
    let beginning = read_at(file, 0, bytes.min(PICKLE_BYTES_MAX) as usize)?;
    let mut pickles = Pickles::new(&beginning);
    let (_magic, _version) = (pickles.read()?, pickles.read()?);
    let system = pickles.read()?;
    if entries(&pickles, system).any(|(name, value)| name == "little_endian" && *value == Value::Bool(false)) {
        return Err(BIG_ENDIAN.to_owned());
    }
    let (root, keys) = (pickles.read()?, pickles.read()?);
    let tensors = named_tensors(&pickles, root)?;
    let other = other_tensors(&pickles, root);
    let Value::List(keys) = pickles.value(keys) else {
        return Err("it has no list of its storages".to_owned());
    };
    let mut sizes: HashMap<&str, (u64, u64)> = HashMap::new();
    for storage in pickles.storages() {
        // A part of a storage has the size of the whole.
        let size = (storage.size, element_bytes(&storage.element)?);
        if sizes.insert(&storage.key, size).is_some_and(|other| other != size) {
            return Err(format!("its storage {} has two sizes", storage.key));
        }
    }
    let mut places = Places::new();
    let mut at = pickles.position() as u64;
    for &key in keys {
        let key = pickles.key(key).ok_or("a storage has no key")?;
        let size = sizes.get(key.as_str()).copied();
        let (elements, element_bytes) = size.ok_or_else(|| format!("its storage {key} belongs to no tensor"))?;
        let size = elements.checked_mul(element_bytes);
        let start = at + COUNT_BYTES;
        let end = size
            .and_then(|size| start.checked_add(size))
            .filter(|&end| end <= bytes);
        let end = end.ok_or_else(|| format!("its storage {key} reaches beyond the end of the file"))?;
        if read_at(file, at, COUNT_BYTES as usize)? != elements.to_le_bytes() {
            return Err(format!("its storage {key} has another size than its tensors say"));
        }
        places.insert(key, (start, end - start));
        at = end;
    }
    let placed = place_all(&pickles, tensors, &places)?;
    Ok(placed.into_iter().chain(other).collect())
}

/// Tensors of one file. A hostile pickle may give one tensor any number of names.
const TENSORS_MAX: usize = 1 << 18;
/// Longest key that a message repeats.
const KEY_BYTES_SHOWN: usize = 64;
/// Longest name of a tensor.
const NAME_BYTES_MAX: usize = 1024;

/// The tensors among the entries of a dict; other entries are no weights.
fn named_tensors<'a>(pickles: &'a Pickles, root: Id) -> Result<Vec<(String, &'a pickle::Tensor)>, String> {
    if !matches!(pickles.value(root), Value::Dict(_)) {
        return Err("it holds no dict of tensors by name".to_owned());
    }
    let tensors = entries(pickles, root).filter_map(|(name, value)| match value {
        Value::Tensor(tensor) => Some((name.to_owned(), tensor)),
        _ => None,
    });
    let tensors: Vec<_> = tensors.take(TENSORS_MAX + 1).collect();
    if tensors.len() > TENSORS_MAX {
        return Err(format!("it holds more than {TENSORS_MAX} tensors"));
    }
    match tensors.is_empty() && other_tensors(pickles, root).is_empty() {
        true => Err(match nested(pickles, root) {
            Some(key) => {
                format!("it holds no tensors by name, but a dict of them as {key:?}, which must be saved by itself")
            }
            None => "it holds no tensors by name".to_owned(),
        }),
        false => Ok(tensors),
    }
}

/// Tensors in forms that are not read. A model that needs one of them is refused by its name.
fn other_tensors(pickles: &Pickles, root: Id) -> Vec<(String, Tensor)> {
    let other = entries(pickles, root).filter_map(|(name, value)| match value {
        Value::OtherTensor(form) => Some((name.to_owned(), *form)),
        _ => None,
    });
    let other = other.take(TENSORS_MAX).map(|(name, form)| {
        let tensor = Tensor {
            element: ElementType::Other(form.to_owned()),
            shape: Vec::new(),
            offset: 0,
            strides: None,
        };
        (name, tensor)
    });
    other.collect()
}

/// The key of an entry of `root` that is a dict of tensors by name, as in checkpoints of training programs.
fn nested<'a>(pickles: &'a Pickles, root: Id) -> Option<&'a str> {
    let Value::Dict(all) = pickles.value(root) else {
        return None;
    };
    let key = all.iter().find_map(|&(key, value)| {
        let is_tensor = |(_, value): (&str, &Value)| matches!(value, Value::Tensor(_));
        entries(pickles, value).any(is_tensor).then_some(key)
    })?;
    match pickles.value(key) {
        Value::Str(key) if key.len() <= KEY_BYTES_SHOWN => Some(key),
        _ => None,
    }
}

/// Entries of a dict whose keys are names; none if it is no dict.
fn entries<'a>(pickles: &'a Pickles, dict: Id) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let entries = match pickles.value(dict) {
        Value::Dict(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().filter_map(|&(key, value)| match pickles.value(key) {
        Value::Str(name) if name.len() <= NAME_BYTES_MAX => Some((name.as_str(), pickles.value(value))),
        _ => None,
    })
}

fn storage<'a>(pickles: &'a Pickles, tensor: &pickle::Tensor) -> &'a Storage {
    match pickles.value(tensor.storage) {
        Value::Storage(storage) => storage,
        _ => unreachable!("a tensor is built from a storage only"),
    }
}

fn place_all(
    pickles: &Pickles,
    tensors: Vec<(String, &pickle::Tensor)>,
    places: &Places,
) -> Result<Vec<(String, Tensor)>, String> {
    let placed = tensors.into_iter().map(|(name, tensor)| {
        let storage = storage(pickles, tensor);
        match place(tensor, storage, places.get(&storage.key).copied()) {
            Ok(tensor) => Ok((name, tensor)),
            Err(reason) => Err(format!("tensor {name} {reason}")),
        }
    });
    placed.collect()
}

/// The tensor in the file, of which its storage takes `place`.
fn place(tensor: &pickle::Tensor, storage: &Storage, place: Option<(u64, u64)>) -> Result<Tensor, String> {
    let (start, bytes) = place.ok_or("has no storage")?;
    let element = tensor.dtype.as_deref().unwrap_or(&storage.element);
    let element_bytes = element_bytes(element)?;
    let elements = bytes / element_bytes;
    const BEYOND: &str = "reaches beyond its storage";
    let count = tensor.shape.iter().try_fold(1u64, |n, &size| n.checked_mul(size));
    let count = count.ok_or(BEYOND)?;
    let first = tensor.offset.checked_add(storage.offset).ok_or(BEYOND)?;
    let last = tensor
        .shape
        .iter()
        .zip(&tensor.strides)
        .try_fold(first, |at, (&size, &stride)| {
            let step = size.saturating_sub(1).checked_mul(stride)?;
            at.checked_add(step)
        });
    if count > 0 && last.is_none_or(|last| last >= elements) {
        return Err(BEYOND.to_owned());
    }
    let size = |size: u64| usize::try_from(size).map_err(|_| BEYOND.to_owned());
    let shape: Vec<usize> = tensor.shape.iter().map(|&of| size(of)).collect::<Result<_, _>>()?;
    let strides: Vec<usize> = tensor.strides.iter().map(|&of| size(of)).collect::<Result<_, _>>()?;
    Ok(Tensor {
        element: element_type(element),
        // An empty tensor may be anywhere.
        offset: if count > 0 {
            start + first * element_bytes
        } else {
            start
        },
        strides: (!is_row_major(&shape, &strides)).then_some(strides),
        shape,
    })
}

/// True if the elements are in the order of the indices. The stride of a dimension of one element has no meaning.
fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1;
    for (&size, &stride) in shape.iter().zip(strides).rev() {
        if size != 1 && stride != expected {
            return shape.contains(&0);
        }
        expected *= size;
    }
    true
}

/// The type of a storage (`Float`) or of elements (`float32`).
fn element_type(name: &str) -> ElementType {
    match name {
        "Double" | "float64" | "double" => ElementType::F64,
        "Float" | "float32" | "float" => ElementType::F32,
        "Half" | "float16" | "half" => ElementType::F16,
        "BFloat16" | "bfloat16" => ElementType::Bf16,
        "float8_e4m3fn" => ElementType::F8E4m3,
        "float8_e5m2" => ElementType::F8E5m2,
        "Long" | "int64" | "long" => ElementType::I64,
        "Int" | "int32" | "int" => ElementType::I32,
        "Short" | "int16" | "short" => ElementType::I16,
        "Char" | "int8" => ElementType::I8,
        "uint64" => ElementType::U64,
        "uint32" => ElementType::U32,
        "uint16" => ElementType::U16,
        "Byte" | "uint8" | "Untyped" => ElementType::U8,
        "Bool" | "bool" => ElementType::Bool,
        other => ElementType::Other(other.to_owned()),
    }
}

fn element_bytes(name: &str) -> Result<u64, String> {
    let element = element_type(name);
    if let Some((bytes, _)) = element.reader() {
        return Ok(bytes as u64);
    }
    Ok(match name {
        "complex64" | "ComplexFloat" => 8,
        "complex128" | "ComplexDouble" => 16,
        "QInt32" => 4,
        "QInt8" | "QUInt8" => 1,
        name if name.starts_with("float8") => 1,
        name => return Err(format!("is of type {name}")),
    })
}
