//! Headers of safetensors files: <https://huggingface.co/docs/safetensors>.

use std::io::{ErrorKind, SeekFrom};

use safetensors::tensor::{Metadata, TensorInfo};

use super::{ElementType, Tensor};
use crate::checkpoint::files::{ReadSeek, is_web_page};

/// The limit of the safetensors format itself.
const HEADER_BYTES_MAX: u64 = 100_000_000;
/// The length of the header is in the first eight bytes.
const LENGTH_BYTES: u64 = 8;

/// The tensors of a file of `bytes` bytes, by name.
///
/// # Errors
/// The reason in words.
pub fn read(file: &mut dyn ReadSeek, bytes: u64) -> Result<Vec<(String, Tensor)>, String> {
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => "it is shorter than eight bytes".to_owned(),
        _ => e.to_string(),
    })?;
    if length.starts_with(b"PK\x03\x04") {
        return Err("it is a zip archive, as torch.save writes; its name must be pytorch_model.bin".to_owned());
    }
    if length.starts_with(b"<") {
        let mut rest = vec![0; 16.min(bytes - LENGTH_BYTES) as usize];
        file.read_exact(&mut rest).map_err(|e| e.to_string())?;
        if is_web_page(&[&length, rest.as_slice()].concat()) {
            return Err("it is a web page".to_owned());
        }
        file.seek(SeekFrom::Start(LENGTH_BYTES)).map_err(|e| e.to_string())?;
    }
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > bytes - LENGTH_BYTES {
        return Err("its header is longer than the file".to_owned());
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(|e| e.to_string())?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|e| e.to_string())?;
    let data_start = LENGTH_BYTES + length;
    // As the format demands. A header whose length is wrong by a byte may still be read, and every value would be
    // another.
    let ends = metadata.tensors().values().map(|info| info.data_offsets.1).max();
    if ends.is_some_and(|end| (end as u64) < bytes - data_start) {
        return Err("there are bytes behind its last tensor".to_owned());
    }
    // In the order of the file, so that an error names the same tensor each time.
    let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
    tensors.sort_unstable_by(|(a, one), (b, other)| (one.data_offsets, a).cmp(&(other.data_offsets, b)));
    let tensors = tensors.into_iter().map(|(name, info)| {
        check_extent(info, bytes - data_start).map_err(|reason| format!("tensor {name} {reason}"))?;
        let tensor = Tensor {
            element: ElementType::named(&format!("{:?}", info.dtype)),
            shape: info.shape.clone(),
            offset: data_start + info.data_offsets.0 as u64,
            strides: None,
        };
        Ok((name, tensor))
    });
    tensors.collect()
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
