//! Lines of a file or of standard input, bounded in length.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A longer line is refused; the limit of the server's bodies.
pub const LINE_BYTES_MAX: usize = 1 << 20;
/// Lines that are read ahead of those that are made questions of.
const LINES_AHEAD: usize = 64;

/// A line as it came, without its end.
pub struct RawLine {
    /// From 1 on.
    pub number: u64,
    /// Its bytes in the input, with its end.
    pub bytes: u64,
    /// `None` where it is longer than [`LINE_BYTES_MAX`].
    pub content: Option<Vec<u8>>,
}

/// The source of lines.
pub struct Source {
    reader: Box<dyn Read + Send>,
    bytes: Option<u64>,
    is_terminal: bool,
}

impl Source {
    /// Opens a file, or standard input for `-`.
    pub fn open(path: &Path) -> Result<Self, String> {
        if path.as_os_str() == "-" {
            return Ok(Self {
                reader: Box::new(io::stdin()),
                bytes: size_of_stdin(),
                is_terminal: io::stdin().is_terminal(),
            });
        }
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(format!("{} is a folder; predict reads one file", path.display()));
        }
        Ok(Self {
            reader: Box::new(file),
            bytes: metadata.is_file().then_some(metadata.len()),
            is_terminal: false,
        })
    }

    /// True if a person types the lines.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Size of the input in bytes, if known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// Reads on a thread of its own, a little ahead of the consumer of the lines.
    pub fn read(self) -> Receiver<io::Result<RawLine>> {
        let (sender, lines) = sync_channel(LINES_AHEAD);
        std::thread::spawn(move || read_lines(BufReader::new(self.reader), &sender));
        lines
    }
}

fn read_lines(mut reader: impl BufRead, sender: &SyncSender<io::Result<RawLine>>) {
    for number in 1.. {
        let line = match read_line(&mut reader) {
            Ok(None) => return,
            Ok(Some((bytes, content))) => Ok(RawLine { number, bytes, content }),
            Err(error) => Err(error),
        };
        let failed = line.is_err();
        if sender.send(line).is_err() || failed {
            return;
        }
    }
}

/// Bytes of the next line, and its content; `None` at the end.
fn read_line(reader: &mut impl BufRead) -> io::Result<Option<(u64, Option<Vec<u8>>)>> {
    let (mut bytes, mut content) = (0, Vec::new());
    loop {
        let ahead = match reader.fill_buf() {
            Ok(ahead) => ahead,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let line_end = ahead.iter().position(|&byte| byte == b'\n');
        let piece = &ahead[..line_end.unwrap_or(ahead.len())];
        // Bytes beyond the limit are counted and dropped.
        if content.len() <= LINE_BYTES_MAX {
            let free = LINE_BYTES_MAX + 1 - content.len();
            content.extend_from_slice(&piece[..piece.len().min(free)]);
        }
        let taken = piece.len() + usize::from(line_end.is_some());
        bytes += taken as u64;
        reader.consume(taken);
        if line_end.is_some() || taken == 0 {
            break;
        }
    }
    if content.last() == Some(&b'\r') {
        content.pop();
    }
    Ok((bytes > 0).then(|| (bytes, (content.len() <= LINE_BYTES_MAX).then_some(content))))
}

/// The size of the file that standard input was redirected from.
fn size_of_stdin() -> Option<u64> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let file = File::from(io::stdin().as_fd().try_clone_to_owned().ok()?);
        let metadata = file.metadata().ok()?;
        metadata.is_file().then_some(metadata.len())
    }
    #[cfg(not(unix))]
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_measured_and_bounded() {
        let long = "x".repeat(LINE_BYTES_MAX);
        let input = format!("one\r\n\ntwo\n{long}\n{long}y\nlast");
        let (sender, lines) = sync_channel(10);
        // A small buffer, so that lines come in pieces.
        read_lines(BufReader::with_capacity(7, input.as_bytes()), &sender);
        drop(sender);
        let lines: Vec<RawLine> = lines.iter().map(Result::unwrap).collect();
        let contents: Vec<Option<&str>> = lines
            .iter()
            .map(|line| {
                line.content
                    .as_deref()
                    .map(|content| std::str::from_utf8(content).unwrap())
            })
            .collect();
        assert_eq!(
            contents,
            [Some("one"), Some(""), Some("two"), Some(&long), None, Some("last")]
        );
        assert!(lines.iter().map(|line| line.number).eq(1..=6));
        assert_eq!(lines[0].bytes, 5);
        assert_eq!(lines.iter().map(|line| line.bytes).sum::<u64>(), input.len() as u64);
    }
}
