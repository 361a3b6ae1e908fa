//! Client of the Hugging Face hub: downloads files into the cache that all of the hub's tools share.
//!
//! Files that another tool has downloaded are found here, and the reverse. This module knows nothing about the
//! contents of the files; [`crate::checkpoint`] decides which ones a model needs.
//!
//! | file | responsibility |
//! |---|---|
//! | `name` | model name and revision, such as `google-bert/bert-base-uncased` |
//! | `settings` | environment variables of the hub's tools |
//! | `cache` | folder layout: blobs, snapshots, refs, locks |
//! | `client` | HTTP requests, and errors from their responses |
//! | `conversion` | conversions of weights to safetensors, in pull requests |
//! | `download` | download of one file: resume, verify size and hash |
//! | `digest` | hash of a file from its etag |
//! | `error` | errors |

mod cache;
mod client;
mod conversion;
mod digest;
mod download;
mod error;
mod name;
mod settings;

use std::path::{Path, PathBuf};

use cache::Cache;
use client::Client;

pub use error::{CacheState, HubError};
pub use name::ModelName;
pub use settings::{Settings, shows_progress};

/// Receives the progress of downloads.
pub trait Progress {
    /// A download begins. `bytes` is the size of the file, `present` the part that an earlier attempt left.
    fn begin(&mut self, file: &str, bytes: u64, present: u64);
    /// `bytes` of the file are on disk.
    fn reached(&mut self, bytes: u64);
    /// The file is complete and its hash is right.
    fn end(&mut self);
}

/// The form that a file must have to be stored in the cache. A proxy may answer every request with its login page.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// The largest size in bytes, known before the download.
    pub bytes_max: Option<u64>,
    /// Reads the file; the reason if its content is something else.
    pub check: &'a dyn Fn(&Path) -> Result<(), String>,
}

/// A hub and a local cache of its files.
pub struct Hub {
    settings: Settings,
}

impl Hub {
    /// Connects to nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// The revision in the cache, if its commit is known. Files may be missing from it. Uses no network.
    pub fn cached(&self, name: &ModelName) -> Option<CachedModel> {
        let cache = Cache::new(&self.settings.cache, name);
        let commit = cache.commit()?;
        Some(CachedModel { cache, commit })
    }

    /// The state of a revision that is not complete in the cache.
    pub fn cache_state(&self, name: &ModelName) -> CacheState {
        Cache::new(&self.settings.cache, name).state()
    }

    /// Requests the commit and the file list of the revision.
    ///
    /// # Errors
    /// [`HubError::Offline`] if the settings forbid network access; otherwise an error of the request.
    pub fn resolve<'a>(&'a self, name: &'a ModelName) -> Result<RemoteModel<'a>, HubError> {
        let cache = Cache::new(&self.settings.cache, name);
        if self.settings.offline {
            return Err(HubError::Offline {
                name: name.to_string(),
                cache: self.settings.cache.display().to_string(),
                state: cache.state(),
            });
        }
        let client = Client::new(&self.settings, name)?;
        let info = client.info()?;
        Ok(RemoteModel {
            client,
            cache,
            commit: info.commit,
            files: info.files,
        })
    }

    /// The revision of the model at which the hub's conversion service has put its weights in safetensors format, such
    /// as `refs/pr/3`. `None` if there is none, or the hub cannot say so.
    pub fn conversion(&self, name: &ModelName) -> Option<String> {
        if self.settings.offline {
            return None;
        }
        let found = Client::new(&self.settings, name).and_then(|client| client.conversion());
        found.unwrap_or_else(|error| {
            tracing::debug!("the pull requests of {name} are not known: {error}");
            None
        })
    }
}

/// One commit of a model in the cache.
pub struct CachedModel {
    cache: Cache,
    commit: String,
}

impl CachedModel {
    /// The snapshot folder.
    pub fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// The model at this commit.
    pub fn name(&self) -> ModelName {
        self.cache.name().at(&self.commit)
    }

    /// True if the hub is known not to have this file.
    pub fn is_absent(&self, file: &str) -> bool {
        self.cache.absent(&self.commit, file).exists()
    }
}

/// One commit of a model on the hub.
pub struct RemoteModel<'a> {
    client: Client<'a>,
    cache: Cache,
    commit: String,
    files: Vec<String>,
}

impl RemoteModel<'_> {
    /// The snapshot folder in the cache, which holds the files that were fetched.
    pub fn folder(&self) -> PathBuf {
        self.cache.snapshot(&self.commit)
    }

    /// True if the commit has this file.
    pub fn has(&self, file: &str) -> bool {
        self.files.iter().any(|known| known == file)
    }

    /// Downloads a file into [`folder`](Self::folder), unless it is there and as `expected`.
    ///
    /// # Errors
    /// [`HubError`] if the file cannot be downloaded, verified or stored.
    pub fn fetch(&self, file: &str, expected: Expected<'_>, progress: &mut dyn Progress) -> Result<(), HubError> {
        download::download(&self.client, &self.cache, &self.commit, file, expected, progress)
    }

    /// Records that the commit does not have this file.
    ///
    /// # Errors
    /// [`HubError::Disk`].
    pub fn record_absent(&self, file: &str) -> Result<(), HubError> {
        self.cache.record_absent(&self.commit, file)
    }

    /// Records the commit of the revision, so that [`Hub::cached`] finds it. Call it after the last file.
    ///
    /// # Errors
    /// [`HubError::Disk`].
    pub fn finish(self) -> Result<PathBuf, HubError> {
        self.cache.set_commit(&self.commit)?;
        Ok(self.folder())
    }
}
