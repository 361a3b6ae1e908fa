//! Errors of the hub client.

use std::path::Path;

/// An error between this process and the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// No cache folder is set, and the user has no home folder.
    #[error("there is no home folder to store models in")]
    NoHome,
    /// Network access is disabled.
    #[error("{name} is not complete in the cache ({cache}), and the hub client is in offline mode")]
    Offline { name: String, cache: String },
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
    #[error("{url}: {reason}")]
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
    /// The cache cannot be read or written.
    #[error("{path}: {source}")]
    Disk { path: String, source: std::io::Error },
}

impl HubError {
    pub(super) fn disk(path: &Path, source: std::io::Error) -> Self {
        Self::Disk {
            path: path.display().to_string(),
            source,
        }
    }
}
