//! Folder layout of the cache, as all of the hub's tools use it:
//!
//! ```text
//! models--OWNER--MODEL/refs/main                   commit of the branch at the last download
//! models--OWNER--MODEL/snapshots/COMMIT/FILE       link to a blob
//! models--OWNER--MODEL/.no_exist/COMMIT/FILE       empty: the commit has no such file
//! models--OWNER--MODEL/blobs/ETAG                  content of a file
//! models--OWNER--MODEL/blobs/ETAG.incomplete       partial download
//! .locks/models--OWNER--MODEL/ETAG.lock            locked during the download
//! ```

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use hf_hub::{CacheRepo, Repo, RepoType};

use super::{CacheState, HubError, ModelName};

/// The part of the cache that belongs to one model and revision.
pub struct Cache {
    root: PathBuf,
    repo: Repo,
    name: ModelName,
}

impl Cache {
    pub fn new(root: &Path, name: &ModelName) -> Self {
        let (id, revision) = (name.id().to_owned(), name.revision().to_owned());
        Self {
            root: root.to_owned(),
            repo: Repo::with_revision(id, RepoType::Model, revision),
            name: name.clone(),
        }
    }

    fn layout(&self) -> CacheRepo {
        hf_hub::Cache::new(self.root.clone()).repo(self.repo.clone())
    }

    /// The model's folder, with all of its revisions.
    pub fn folder(&self) -> PathBuf {
        self.root.join(self.repo.folder_name())
    }

    /// The commit of the revision at the last download.
    pub fn commit(&self) -> Option<String> {
        if self.name.is_commit() {
            return Some(self.name.revision().to_owned());
        }
        let commit = fs::read_to_string(self.folder().join("refs").join(self.name.revision())).ok()?;
        let commit = commit.trim();
        super::name::is_part(commit).then(|| commit.to_owned())
    }

    /// The state of a revision that is not complete.
    pub fn state(&self) -> CacheState {
        let has_revision = self.commit().is_some_and(|commit| self.snapshot(&commit).is_dir());
        let mut revisions = fs::read_dir(self.folder().join("refs")).into_iter().flatten();
        match self.folder().is_dir() {
            false => CacheState::Nothing,
            true if !has_revision && revisions.next().is_some() => CacheState::OtherRevisions,
            true => CacheState::Part,
        }
    }

    /// Records the commit of the revision.
    pub fn set_commit(&self, commit: &str) -> Result<(), HubError> {
        if self.name.is_commit() {
            return Ok(());
        }
        let path = self.folder().join("refs");
        self.layout()
            .create_ref(commit)
            .map_err(|source| HubError::disk(&path, source))
    }

    /// The folder that holds the files of a commit under their own names.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.layout().pointer_path(commit)
    }

    pub fn name(&self) -> &ModelName {
        &self.name
    }

    /// The empty file that records the absence of `file` in a commit.
    pub fn absent(&self, commit: &str, file: &str) -> PathBuf {
        self.folder().join(".no_exist").join(commit).join(file)
    }

    /// Records the absence of `file` in a commit.
    pub fn record_absent(&self, commit: &str, file: &str) -> Result<(), HubError> {
        let path = self.absent(commit, file);
        create_folder(path.parent().expect("the file is in a folder"))?;
        File::create(&path)
            .map(drop)
            .map_err(|source| HubError::disk(&path, source))
    }

    /// Path of the content with this etag.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder().join("blobs").join(etag)
    }

    /// Keeps other processes from downloading the same content until the lock is dropped.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let folder = self.root.join(".locks").join(self.repo.folder_name());
        create_folder(&folder)?;
        let path = folder.join(format!("{etag}.lock"));
        let lock = File::create(&path).map_err(|source| HubError::disk(&path, source))?;
        if let Err(fs::TryLockError::WouldBlock) = lock.try_lock() {
            tracing::info!("waiting for another process that downloads the same file");
        }
        lock.lock().map_err(|source| HubError::disk(&path, source))?;
        Ok(lock)
    }

    /// Links the file `name` of a commit to the content with this etag.
    pub fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let link = self.snapshot(commit).join(name);
        create_folder(link.parent().expect("the file is in a folder"))?;
        // A link of an earlier attempt may point to content that was deleted.
        if link.symlink_metadata().is_ok() {
            fs::remove_file(&link).map_err(|source| HubError::disk(&link, source))?;
        }
        #[cfg(unix)]
        let linked = {
            // One folder up for each folder in the name.
            let up = "../".repeat(Path::new(name).components().count() - 1);
            std::os::unix::fs::symlink(Path::new(&up).join("../../blobs").join(etag), &link)
        };
        #[cfg(not(unix))]
        let linked = fs::hard_link(self.blob(etag), &link);
        linked.map_err(|source| HubError::disk(&link, source))
    }
}

pub fn create_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|source| HubError::disk(path, source))
}
