//! Zip archives with entries that are stored, not compressed, as `torch.save` writes them.
//!
//! The format: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>.

use std::collections::HashMap;
use std::io::{ErrorKind, SeekFrom};

use crate::checkpoint::files::ReadSeek;

/// The largest directory that is read: some 200,000 entries.
const DIRECTORY_BYTES_MAX: u64 = 16 << 20;
/// The end of central directory record, without its comment.
const END_BYTES: u64 = 22;
const COMMENT_BYTES_MAX: u64 = 65_535;
/// The locator of the 64-bit record, before the record above.
const LOCATOR_BYTES: u64 = 20;
const END_64_BYTES: usize = 56;
const ENTRY_BYTES: usize = 46;
const LOCAL_BYTES: usize = 30;

/// An archive's directory.
pub struct Archive {
    entries: HashMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Offset of its local header.
    offset: u64,
    bytes: u64,
    is_stored: bool,
}

impl Archive {
    /// Reads the directory of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// The reason in words.
    pub fn read(file: &mut dyn ReadSeek, file_bytes: u64) -> Result<Self, String> {
        let (offset, bytes) = directory(file, file_bytes)?;
        if bytes > DIRECTORY_BYTES_MAX || offset.checked_add(bytes).is_none_or(|end| end > file_bytes) {
            return Err("its zip directory is not within the file".to_owned());
        }
        let directory = read_at(file, offset, bytes as usize)?;
        let mut entries = HashMap::new();
        let mut rest = directory.as_slice();
        while rest.starts_with(b"PK\x01\x02") {
            let (name, entry, behind) = entry(rest).ok_or("its zip directory is cut off")?;
            entries.insert(name, entry);
            rest = behind;
        }
        Ok(Self { entries })
    }

    /// Names of all entries.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Offset and size of an entry's bytes in the file.
    ///
    /// # Errors
    /// An entry that is missing, compressed, or not within the file.
    pub fn locate(&self, file: &mut dyn ReadSeek, file_bytes: u64, name: &str) -> Result<(u64, u64), String> {
        let entry = self.entries.get(name);
        let entry = entry.ok_or_else(|| format!("it has no entry {name}"))?;
        if !entry.is_stored {
            return Err(format!("its entry {name} is compressed, which torch.save does not do"));
        }
        let local = read_at(file, entry.offset, LOCAL_BYTES)?;
        if !local.starts_with(b"PK\x03\x04") {
            return Err(format!("its entry {name} has no header"));
        }
        let names = u64::from(u16_at(&local, 26)) + u64::from(u16_at(&local, 28));
        let start = entry.offset.checked_add(LOCAL_BYTES as u64 + names);
        let start = start.filter(|start| start.checked_add(entry.bytes).is_some_and(|end| end <= file_bytes));
        let start = start.ok_or_else(|| format!("its entry {name} reaches beyond the end of the file"))?;
        Ok((start, entry.bytes))
    }
}

/// Reads `length` bytes at `offset`.
pub fn read_at(file: &mut dyn ReadSeek, offset: u64, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length];
    let read = file
        .seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes));
    match read {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err("it is cut off".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Offset and size of the central directory.
fn directory(file: &mut dyn ReadSeek, file_bytes: u64) -> Result<(u64, u64), String> {
    let tail_bytes = file_bytes.min(END_BYTES + COMMENT_BYTES_MAX);
    let tail_start = file_bytes - tail_bytes;
    let tail = read_at(file, tail_start, tail_bytes as usize)?;
    let last = tail.len().checked_sub(END_BYTES as usize);
    let end = last.and_then(|last| (0..=last).rev().find(|&at| tail[at..].starts_with(b"PK\x05\x06")));
    let end = end.ok_or("it is a zip archive without an end; the download may be incomplete")?;
    let (bytes, offset) = (u32_at(&tail, end + 12), u32_at(&tail, end + 16));
    let locator = (tail_start + end as u64).checked_sub(LOCATOR_BYTES);
    let locator = match locator {
        Some(at) => read_at(file, at, LOCATOR_BYTES as usize)?,
        None => Vec::new(),
    };
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok((offset.into(), bytes.into()));
    }
    let record = read_at(file, u64_at(&locator, 8), END_64_BYTES)?;
    match record.starts_with(b"PK\x06\x06") {
        true => Ok((u64_at(&record, 48), u64_at(&record, 40))),
        false => Err("its zip directory is not where the file says".to_owned()),
    }
}

/// The first entry of a directory, and what is behind it.
fn entry(bytes: &[u8]) -> Option<(String, Entry, &[u8])> {
    let (head, rest) = bytes.split_at_checked(ENTRY_BYTES)?;
    let (name, rest) = rest.split_at_checked(u16_at(head, 28).into())?;
    let (extra, rest) = rest.split_at_checked(u16_at(head, 30).into())?;
    let (_comment, rest) = rest.split_at_checked(u16_at(head, 32).into())?;
    let mut wide = wide_numbers(extra);
    // The order of the format: uncompressed size, compressed size, offset.
    let mut number = |at: usize| match u32_at(head, at) {
        u32::MAX => wide.next(),
        number => Some(number.into()),
    };
    let (size, compressed, offset) = (number(24)?, number(20)?, number(42)?);
    let (flags, method) = (u16_at(head, 8), u16_at(head, 10));
    let is_encrypted = flags & 1 != 0;
    let entry = Entry {
        offset,
        bytes: size,
        is_stored: method == 0 && size == compressed && !is_encrypted,
    };
    Some((String::from_utf8_lossy(name).into_owned(), entry, rest))
}

/// The numbers of the extra field for sizes beyond 32 bits.
fn wide_numbers(mut extra: &[u8]) -> impl Iterator<Item = u64> {
    const WIDE: u16 = 1;
    let mut numbers: &[u8] = &[];
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let Some((field, behind)) = rest.split_at_checked(u16_at(head, 2).into()) else {
            break;
        };
        if u16_at(head, 0) == WIDE {
            numbers = field;
        }
        extra = behind;
    }
    let (numbers, _) = numbers.as_chunks::<8>();
    numbers.iter().map(|&number| u64::from_le_bytes(number))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
