//! Where a checkpoint's bytes are: in a folder, or in this binary.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};

use super::CheckpointError;

/// Text files (configuration, vocabulary) beyond this size are refused unread.
const TEXT_FILE_BYTES_MAX: u64 = 64 << 20;

/// Something to read weights from.
pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// The files of one checkpoint, by name.
pub enum Files {
    /// A folder on disk.
    Folder(PathBuf),
    /// The demo model of `model/`.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// The demo model, as `model/README.md` describes it.
static DEMO: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../model/config.json")),
    ("tokenizer.json", include_bytes!("../../model/tokenizer.json")),
    (
        "tokenizer_config.json",
        include_bytes!("../../model/tokenizer_config.json"),
    ),
    ("model.safetensors", include_bytes!("../../model/model.safetensors")),
];

impl Files {
    /// The folder `path`, if it is one.
    pub fn folder(path: &Path) -> Result<Self, CheckpointError> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => Ok(Self::Folder(path.to_owned())),
            Ok(_) => Err(CheckpointError::Missing(format!(
                "{} is a file; --model wants the folder that holds config.json and the weights",
                path.display()
            ))),
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

    /// Whether there is something of this name; [`open`](Self::open) tells if it is no file.
    pub fn has(&self, name: &str) -> bool {
        match self {
            // In a folder that may not be read nothing is known; opening it tells why.
            Self::Folder(folder) => !matches!(folder.join(name).try_exists(), Ok(false)),
            Self::Embedded(files) => files.iter().any(|(known, _)| *known == name),
        }
    }

    /// What to call a file in an error.
    pub fn path(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::Embedded(_) => format!("the embedded {name}"),
        }
    }

    /// The whole of a small file.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: self.path(name),
            source,
        };
        let (file, size) = self.open(name)?;
        if size > TEXT_FILE_BYTES_MAX {
            let source = std::io::Error::other(format!("{size} bytes, more than a file of this kind can need"));
            return Err(io(source));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.take(TEXT_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// Opens a file and tells its size in bytes.
    pub fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64), CheckpointError> {
        let io = |source| CheckpointError::Io {
            path: self.path(name),
            source,
        };
        match self {
            Self::Folder(folder) => {
                let path = folder.join(name);
                // Asked before it is opened: that waits without end for a pipe's other end.
                if !std::fs::metadata(&path).map_err(io)?.is_file() {
                    return Err(io(std::io::Error::other("it is not a file")));
                }
                let file = File::open(path).map_err(io)?;
                let size = file.metadata().map_err(io)?.len();
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
