//! The files of a checkpoint, read from a folder or from the demo model inside the binary.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use super::error::CheckpointError;
#[cfg(demo_model)]
use super::names::WEIGHTS;
use super::names::{CONFIG, TOKENIZER, TOKENIZER_CONFIG};

/// Limit on the size of a text file (configuration, vocabulary).
pub const TEXT_FILE_BYTES_MAX: u64 = 64 << 20;

/// In UTF-8. Editors of some systems write it at the beginning of a text file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// An open file.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// The files of one checkpoint.
pub enum Files {
    Folder(PathBuf),
    /// Name and content of each file.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// The demo model, as `model/README.md` describes it.
static DEMO: &[(&str, &[u8])] = &[
    (CONFIG, include_bytes!("../../model/config.json")),
    (TOKENIZER, include_bytes!("../../model/tokenizer.json")),
    (TOKENIZER_CONFIG, include_bytes!("../../model/tokenizer_config.json")),
    #[cfg(demo_model)]
    (WEIGHTS, include_bytes!("../../model/model.safetensors")),
];

/// False in a build from the package on crates.io, whose size limit excludes the weights of the demo model.
pub const HAS_DEMO_MODEL: bool = cfg!(demo_model);

impl Files {
    /// The files in a folder. An error if `path` is not a folder.
    pub fn folder(path: &Path) -> Result<Self, CheckpointError> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Folder(path.to_owned())),
            Ok(_) => Err(CheckpointError::NotAFolder {
                path: path.display().to_string(),
            }),
            Err(source) => Err(CheckpointError::Io {
                path: path.display().to_string(),
                source,
            }),
        }
    }

    /// The demo model inside the binary.
    pub fn embedded() -> Self {
        Self::Embedded(DEMO)
    }

    /// True if the name exists, as a file or otherwise; [`open`](Self::open) fails if it is not a file.
    pub fn has(&self, name: &str) -> bool {
        match self {
            // An error counts as present, so that opening the file reports it.
            Self::Folder(folder) => !matches!(folder.join(name).try_exists(), Ok(false)),
            Self::Embedded(files) => files.iter().any(|(known, _)| *known == name),
        }
    }

    /// Path of a file, for messages.
    pub fn path(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::Embedded(_) => format!("the embedded {name}"),
        }
    }

    /// Path of the folder, for messages.
    pub fn location(&self) -> String {
        match self {
            Self::Folder(folder) => folder.display().to_string(),
            Self::Embedded(_) => "the embedded model".to_owned(),
        }
    }

    /// Reads a text file whole, without a byte order mark.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: self.path(name),
            source,
        };
        let (file, size) = self.open(name)?;
        if size > TEXT_FILE_BYTES_MAX {
            let source = std::io::Error::other(format!("{size} bytes is too large for a file of this kind"));
            return Err(io(source));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(TEXT_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
        if bytes.starts_with(BYTE_ORDER_MARK) {
            bytes.drain(..BYTE_ORDER_MARK.len());
        }
        match other_form(name, &bytes) {
            Some(form) => Err(io(std::io::Error::other(form))),
            None => Ok(bytes),
        }
    }

    /// Opens a file and returns its size in bytes.
    pub fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: self.path(name),
            source,
        };
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                // Checked first: opening a named pipe blocks until its other end is opened.
                if !std::fs::metadata(&path).map_err(io)?.is_file() {
                    return Err(io(std::io::Error::other("not a regular file")));
                }
                let mut file = File::open(path).map_err(io)?;
                let size = file.metadata().map_err(io)?.len();
                if is_lfs_pointer(&mut file, size).map_err(io)? {
                    return Err(CheckpointError::LfsPointer { path: self.path(name) });
                }
                Ok((Box::new(file), size))
            }
            Self::Embedded(files) => {
                let found = files.iter().find(|(known, _)| *known == name);
                let (_, bytes) = found.ok_or_else(|| io(std::io::ErrorKind::NotFound.into()))?;
                Ok((Box::new(Cursor::new(*bytes)), bytes.len() as u64))
            }
        }
    }
}

/// The actual form of a file that is not the expected text, for error messages.
fn other_form(name: &str, bytes: &[u8]) -> Option<&'static str> {
    const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
    if UTF_16.iter().any(|mark| bytes.starts_with(mark)) {
        return Some("it is in UTF-16; it must be in UTF-8");
    }
    let is_json = name.ends_with(".json");
    match bytes {
        b"" if is_json => Some("it is empty"),
        _ if is_json && is_web_page(bytes) => Some("it is a web page"),
        _ => None,
    }
}

/// True for the page that a proxy or a hub answers in place of a file.
pub fn is_web_page(bytes: &[u8]) -> bool {
    const BEGINNING_BYTES: usize = 1024;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(BEGINNING_BYTES)])
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_ascii_lowercase();
    ["<!doctype html", "<html", "<head", "<?xml"]
        .iter()
        .any(|tag| text.starts_with(tag))
}

/// True for the text that git checks out in place of a large file when Git LFS is not installed.
fn is_lfs_pointer(file: &mut File, size: u64) -> std::io::Result<bool> {
    const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";
    const POINTER_BYTES_MAX: u64 = 1024;
    if !(BEGINNING.len() as u64..=POINTER_BYTES_MAX).contains(&size) {
        return Ok(false);
    }
    let mut beginning = [0; BEGINNING.len()];
    file.read_exact(&mut beginning)?;
    file.rewind()?;
    Ok(beginning == *BEGINNING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::names::VOCAB;

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::folder(folder.path()).unwrap();
        for (content, text) in [("\u{feff}{}", "{}"), ("\u{feff}\n", "\n"), ("a\u{feff}", "a\u{feff}")] {
            for name in [CONFIG, TOKENIZER, VOCAB] {
                std::fs::write(folder.path().join(name), content).unwrap();
                assert_eq!(files.read(name).unwrap(), text.as_bytes());
            }
        }
    }

    #[test]
    fn a_file_of_another_form_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::folder(folder.path()).unwrap();
        let utf16: Vec<u8> = "\u{feff}{}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (content, form) in [
            (utf16.as_slice(), "it is in UTF-16"),
            (b"\xfe\xff\0{", "it is in UTF-16"),
            (b"", "it is empty"),
            (b"\xef\xbb\xbf", "it is empty"),
            (b"\n <!DOCTYPE html><title>Login</title>", "it is a web page"),
            (b"<html lang=en>", "it is a web page"),
        ] {
            for name in [CONFIG, TOKENIZER, TOKENIZER_CONFIG] {
                std::fs::write(folder.path().join(name), content).unwrap();
                let error = files.read(name).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains(form), "{error}");
            }
        }
        // A vocabulary may have tokens of any text.
        std::fs::write(folder.path().join(VOCAB), "<html>\n").unwrap();
        assert!(files.read(VOCAB).is_ok());
    }

    #[test]
    fn a_git_lfs_pointer_is_named_whatever_file_it_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438007537\n";
        let files = Files::folder(folder.path()).unwrap();
        for name in [WEIGHTS, TOKENIZER, VOCAB, CONFIG] {
            std::fs::write(folder.path().join(name), pointer).unwrap();
            let error = files.open(name).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains("Git LFS pointer"), "{error}");
            // A file with a similar beginning is read from its beginning.
            let other = "version https://git-lfs.github.com/other and more of it";
            std::fs::write(folder.path().join(name), other).unwrap();
            assert_eq!(files.read(name).unwrap(), other.as_bytes());
        }
    }
}
