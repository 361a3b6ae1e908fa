//! Errors of the hub client.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use crate::sys::excerpt;

/// An error between this process and the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No cache folder is set, and the user has no home folder.
    #[error("there is no home folder to store models in")]
    NoHome,
    /// An environment variable with a value that it cannot have.
    #[error("{name} is {value:?}; it must be a number of seconds from 1 to 86400")]
    Variable { name: &'static str, value: String },
    /// Network access is disabled.
    #[error("{name} {state} ({cache}), and the hub client is in offline mode")]
    Offline {
        name: String,
        cache: String,
        state: CacheState,
    },
    /// TLS is not available.
    #[error("{0}, so nothing can be downloaded")]
    Tls(#[from] crate::sys::crypto::ClientError),
    /// No response.
    #[error("{endpoint} cannot be reached for {name} ({reason})")]
    Unreachable {
        endpoint: String,
        name: String,
        reason: String,
    },
    /// The hub does not show a model of this name to this user.
    #[error("there is no local folder {name}, and the hub shows no model of this name")]
    NoModel { name: String },
    /// The access token is not valid.
    #[error("the hub rejects the access token that was sent for {name}")]
    BadToken { name: String },
    /// The user has not accepted the model's licence.
    #[error("{name} is gated: its licence has to be accepted at {page}")]
    Gated { name: String, page: String },
    /// The model has no such branch, tag or commit.
    #[error("{id} has no revision {revision}")]
    NoRevision { id: String, revision: String },
    /// The file is in the hub's list, but cannot be downloaded.
    #[error("the hub has no file {file} in {name}")]
    NoFile { name: String, file: String },
    /// A response that is not understood.
    #[error("{url}: {}", excerpt::sentence(reason))]
    Response { url: String, reason: String },
    /// The connection was lost too many times.
    #[error("the download of {file} stopped at {bytes} of {size} bytes ({reason}); the next start resumes it there")]
    Interrupted {
        file: String,
        bytes: u64,
        size: u64,
        reason: String,
    },
    /// The content does not match its etag.
    #[error("{file} does not have the hash that the hub announced ({etag}); the download was deleted, try again")]
    WrongHash { file: String, etag: String },
    /// The hub announces a file that is larger than such a file can be. Nothing was downloaded.
    #[error("{endpoint} announces {file} with {bytes} bytes, and a file of this kind has {bytes_max} at most")]
    TooLarge {
        endpoint: String,
        file: String,
        bytes: u64,
        bytes_max: u64,
    },
    /// The content is something else, such as the login page of a proxy. It was deleted.
    #[error(
        "the {file} that {endpoint} sent is not valid ({}); it was deleted, so a later start tries again",
        excerpt::sentence(reason)
    )]
    Invalid {
        endpoint: String,
        file: String,
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error("{path}: {source}")]
    Disk { path: String, source: std::io::Error },
}

/// What the cache has of a revision that is not complete in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheState {
    Nothing,
    /// The model, but not this revision.
    OtherRevisions,
    /// A part of the files.
    Part,
}

/// As the end of a sentence about the model.
impl Display for CacheState {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "is not in the cache",
            Self::OtherRevisions => "is not in the cache, which has it at other revisions",
            Self::Part => "is not complete in the cache",
        })
    }
}

impl HubError {
    pub(super) fn disk(path: &Path, source: std::io::Error) -> Self {
        Self::Disk {
            path: path.display().to_string(),
            source,
        }
    }
}
