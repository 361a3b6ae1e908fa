//! One file: into the cache, resumed where it broke off, its size and hash verified.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::{Cache, create_folder};
use super::client::{Client, Content, Failure, Metadata};
use super::digest::Check;
use super::{HubError, Progress};

/// Attempts in a row that bring nothing at all before a download gives up.
const FRUITLESS_ATTEMPTS_MAX: u32 = 5;
/// Doubled after each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const PIECE_BYTES: usize = 128 << 10;

/// Makes `file` of a commit be in the cache.
pub fn download(
    client: &Client<'_>,
    cache: &Cache,
    commit: &str,
    file: &str,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    if cache.snapshot(commit).join(file).exists() {
        return Ok(());
    }
    let metadata = client.metadata(commit, file)?;
    let blob = cache.blob(&metadata.etag);
    create_folder(blob.parent().expect("a blob is in a folder"))?;
    let _lock = cache.lock(&metadata.etag)?;
    if !blob.exists() {
        let mut part = Part::open(&blob, file, metadata)?;
        progress.begin(file, part.metadata.size, part.check.bytes());
        part.complete(client, commit, progress)?;
        part.keep_as(&blob)?;
        progress.end();
    }
    let etag = blob.file_name().expect("it is named by its etag");
    cache.link(commit, file, &etag.to_string_lossy())
}

/// What there is of a file so far.
struct Part {
    name: String,
    metadata: Metadata,
    path: PathBuf,
    file: File,
    /// Of what the file holds.
    check: Check,
}

impl Part {
    fn open(blob: &Path, name: &str, metadata: Metadata) -> Result<Self, HubError> {
        let mut path = blob.as_os_str().to_owned();
        path.push(".incomplete");
        let path = PathBuf::from(path);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let mut part = Self {
            name: name.to_owned(),
            check: Check::new(&metadata.etag, metadata.size),
            file: file.map_err(|source| HubError::disk(&path, source))?,
            metadata,
            path,
        };
        part.take_what_is_there()?;
        Ok(part)
    }

    /// Hashes what an earlier attempt left.
    fn take_what_is_there(&mut self) -> Result<(), HubError> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match self.file.read(&mut piece).map_err(|source| self.disk(source))? {
                0 => break,
                n => self.check.update(&piece[..n]),
            }
        }
        match self.check.bytes() > self.metadata.size {
            true => self.restart(),
            false => Ok(()),
        }
    }

    fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.disk(source))?;
        self.check = Check::new(&self.metadata.etag, self.metadata.size);
        Ok(())
    }

    /// Fetches what is missing, in as many attempts as it takes while each brings something.
    fn complete(&mut self, client: &Client<'_>, commit: &str, progress: &mut dyn Progress) -> Result<(), HubError> {
        let mut fruitless = 0;
        while self.check.bytes() < self.metadata.size {
            let before = self.check.bytes();
            let broken = match client.content(commit, &self.name, before) {
                Ok(content) => self.append(content, progress)?,
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(reason)) => Some(reason),
            };
            let Some(reason) = broken else { break };
            fruitless = if self.check.bytes() > before { 0 } else { fruitless + 1 };
            if fruitless == FRUITLESS_ATTEMPTS_MAX {
                return Err(HubError::BrokenOff {
                    file: self.name.clone(),
                    bytes: self.check.bytes(),
                    size: self.metadata.size,
                    reason,
                });
            }
            tracing::debug!(
                file = self.name,
                bytes = self.check.bytes(),
                reason,
                "a download broke off"
            );
            std::thread::sleep(FIRST_PAUSE * 2u32.pow(fruitless));
        }
        Ok(())
    }

    /// Writes what comes; gives the reason where it broke off before the end.
    fn append(&mut self, content: Content, progress: &mut dyn Progress) -> Result<Option<String>, HubError> {
        if content.start != self.check.bytes() {
            self.restart()?;
        }
        // One byte more than there should be is enough to know that there are too many.
        let missing = self.metadata.size - self.check.bytes();
        let mut reader = content.reader.take(missing + 1);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let n = match reader.read(&mut piece) {
                Ok(0) if self.check.bytes() < self.metadata.size => return Ok(Some("it ended early".to_owned())),
                Ok(0) => return Ok(None),
                Ok(n) => n,
                Err(error) => return Ok(Some(error.to_string())),
            };
            self.file.write_all(&piece[..n]).map_err(|source| self.disk(source))?;
            self.check.update(&piece[..n]);
            progress.reached(self.check.bytes());
        }
    }

    /// Verifies the whole and gives it its final name; what is wrong is deleted.
    fn keep_as(self, blob: &Path) -> Result<(), HubError> {
        let is_right = self.check.bytes() == self.metadata.size && self.check.verify();
        if !is_right {
            fs::remove_file(&self.path).map_err(|source| HubError::disk(&self.path, source))?;
            return Err(HubError::WrongHash {
                file: self.name,
                etag: self.metadata.etag,
            });
        }
        // Whoever finds the final name must find the content too, after a power cut as well.
        let kept = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        kept.map_err(|source| HubError::disk(&self.path, source))
    }

    fn disk(&self, source: std::io::Error) -> HubError {
        HubError::disk(&self.path, source)
    }
}
