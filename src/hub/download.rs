//! Download of one file into the cache: resumes a partial download and verifies size and hash.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cache::{Cache, create_folder};
use super::client::{Client, Content, Failure, Metadata};
use super::digest::Verifier;
use super::{Expected, HubError, Progress};

/// A download fails after this many attempts in a row without a byte received.
const EMPTY_ATTEMPTS_MAX: u32 = 5;
/// Pause before the second attempt; doubled after each further one.
const RETRY_DELAY: Duration = Duration::from_millis(200);
const BUFFER_BYTES: usize = 128 << 10;
/// A download fails if it receives less than this within the stall timeout.
const STALL_BYTES: u64 = 64 << 10;

/// Downloads `file` of a commit into the cache, unless it is there and as expected.
pub fn download(
    client: &Client<'_>,
    cache: &Cache,
    commit: &str,
    file: &str,
    expected: Expected<'_>,
    progress: &mut dyn Progress,
) -> Result<(), HubError> {
    let stored = cache.snapshot(commit).join(file);
    if stored.exists() && is_valid(&stored, expected) {
        return Ok(());
    }
    let metadata = client.metadata(commit, file)?;
    if let Some(bytes_max) = expected.bytes_max.filter(|&bytes_max| metadata.bytes > bytes_max) {
        return Err(HubError::TooLarge {
            endpoint: client.endpoint().to_owned(),
            file: file.to_owned(),
            bytes: metadata.bytes,
            bytes_max,
        });
    }
    let blob = cache.blob(&metadata.etag);
    create_folder(blob.parent().expect("a blob has a parent folder"))?;
    let _lock = cache.lock(&metadata.etag)?;
    // A mirror whose etags are no hashes may have sent another content under this one before.
    if blob.exists() && !is_valid(&blob, expected) {
        fs::remove_file(&blob).map_err(|source| HubError::disk(&blob, source))?;
    }
    if !blob.exists() {
        let mut part = PartialFile::open(&blob, file, metadata)?;
        progress.begin(file, part.metadata.bytes, part.verifier.bytes());
        part.download(client, commit, progress)?;
        part.finish(&blob, client.endpoint(), expected)?;
        progress.end();
    }
    let etag = blob.file_name().expect("a blob is named by its etag");
    cache.link(commit, file, &etag.to_string_lossy())
}

/// Checks a file in the cache, and logs what is wrong with it.
fn is_valid(path: &Path, expected: Expected<'_>) -> bool {
    match (expected.check)(path) {
        Ok(()) => true,
        Err(reason) => {
            tracing::warn!("{} is not valid and is downloaded again: {reason}", path.display());
            false
        }
    }
}

/// A download in progress, `ETAG.incomplete` in the cache.
struct PartialFile {
    name: String,
    metadata: Metadata,
    path: PathBuf,
    file: File,
    /// Covers the bytes on disk.
    verifier: Verifier,
}

impl PartialFile {
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
            verifier: Verifier::new(&metadata.etag, metadata.bytes),
            file: file.map_err(|source| HubError::disk(&path, source))?,
            metadata,
            path,
        };
        // Without a hash nothing shows that the rest belongs to the same content.
        match part.verifier.is_hash() {
            true => part.hash_existing()?,
            false => part.restart()?,
        }
        Ok(part)
    }

    /// Hashes the bytes that an earlier attempt left.
    fn hash_existing(&mut self) -> Result<(), HubError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.file.read(&mut buffer).map_err(|source| self.disk(source))? {
                0 => break,
                n => self.verifier.update(&buffer[..n]),
            }
        }
        match self.verifier.bytes() > self.metadata.bytes {
            true => self.restart(),
            false => Ok(()),
        }
    }

    fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| self.disk(source))?;
        self.verifier = Verifier::new(&self.metadata.etag, self.metadata.bytes);
        Ok(())
    }

    /// Downloads the missing bytes; retries as long as attempts make progress.
    fn download(&mut self, client: &Client<'_>, commit: &str, progress: &mut dyn Progress) -> Result<(), HubError> {
        let mut empty_attempts = 0;
        let mut rate = Rate::new(client.stall_timeout());
        while self.verifier.bytes() < self.metadata.bytes {
            let before = self.verifier.bytes();
            let interrupted = match client.content(commit, &self.name, before) {
                Ok(content) => self.append(content, &mut rate, progress)?,
                Err(Failure::Permanent(error)) => return Err(error),
                Err(Failure::Transient(reason)) => Some(reason),
            };
            let Some(reason) = interrupted else { break };
            empty_attempts = if self.verifier.bytes() > before {
                0
            } else {
                empty_attempts + 1
            };
            if empty_attempts == EMPTY_ATTEMPTS_MAX || rate.is_stalled() {
                return Err(HubError::Interrupted {
                    file: self.name.clone(),
                    bytes: self.verifier.bytes(),
                    size: self.metadata.bytes,
                    reason,
                });
            }
            tracing::debug!(
                file = self.name,
                bytes = self.verifier.bytes(),
                reason,
                "download interrupted"
            );
            std::thread::sleep(RETRY_DELAY * 2u32.pow(empty_attempts));
        }
        Ok(())
    }

    /// Writes the content to disk. Returns the reason if it ends early.
    fn append(
        &mut self,
        content: Content,
        rate: &mut Rate,
        progress: &mut dyn Progress,
    ) -> Result<Option<String>, HubError> {
        if content.start != self.verifier.bytes() {
            self.restart()?;
        }
        // One byte more than expected shows that the content is too long.
        let missing = self.metadata.bytes - self.verifier.bytes();
        let mut reader = content.reader.take(missing + 1);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) if self.verifier.bytes() < self.metadata.bytes => {
                    return Ok(Some("the connection ended early".to_owned()));
                }
                Ok(0) => return Ok(None),
                Ok(n) => n,
                Err(error) => return Ok(Some(error.to_string())),
            };
            self.file.write_all(&buffer[..n]).map_err(|source| self.disk(source))?;
            self.verifier.update(&buffer[..n]);
            progress.reached(self.verifier.bytes());
            rate.add(n as u64);
            if rate.is_stalled() && self.verifier.bytes() < self.metadata.bytes {
                return Ok(Some(rate.reason()));
            }
        }
    }

    /// Verifies size, hash and form, then renames the file to `blob`. Deletes a wrong file.
    fn finish(self, blob: &Path, endpoint: &str, expected: Expected<'_>) -> Result<(), HubError> {
        let is_valid = self.verifier.bytes() == self.metadata.bytes && self.verifier.verify();
        if !is_valid {
            fs::remove_file(&self.path).map_err(|source| HubError::disk(&self.path, source))?;
            return Err(HubError::WrongHash {
                file: self.name,
                etag: self.metadata.etag,
            });
        }
        if let Err(reason) = (expected.check)(&self.path) {
            fs::remove_file(&self.path).map_err(|source| HubError::disk(&self.path, source))?;
            return Err(HubError::Invalid {
                endpoint: endpoint.to_owned(),
                file: self.name,
                reason,
            });
        }
        // The content must be on disk before the final name is, even after a power loss.
        let renamed = self.file.sync_all().and_then(|()| fs::rename(&self.path, blob));
        renamed.map_err(|source| HubError::disk(&self.path, source))
    }

    fn disk(&self, source: std::io::Error) -> HubError {
        HubError::disk(&self.path, source)
    }
}

/// Bytes received in consecutive periods. A server that sends a byte now and then would keep a download alive for ever.
struct Rate {
    timeout: Duration,
    began: Instant,
    bytes: u64,
}

impl Rate {
    fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            began: Instant::now(),
            bytes: 0,
        }
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= STALL_BYTES {
            *self = Self::new(self.timeout);
        }
    }

    fn is_stalled(&self) -> bool {
        self.began.elapsed() > self.timeout
    }

    fn reason(&self) -> String {
        format!(
            "{} bytes in {} s are too few",
            self.bytes,
            self.began.elapsed().as_secs()
        )
    }
}
