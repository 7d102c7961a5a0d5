//! The log of a container, in CRI's format: each line is a time (RFC 3339 with nanoseconds), a stream, `F` or `P` (the stream's
//! next entry continues it), and the text. On a full disk output is counted and dropped, and the log says so once it can be
//! written again. The container is never blocked.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::clock;
use super::record::now_ns;

/// The limit on the text of one entry, in bytes, as in containerd and the kubelet.
const LINE_LIMIT: usize = 16 << 10;
/// How long the beginning of a line waits for its end before it is written as a part: a prompt should be seen.
const PARTIAL_WAIT: Duration = Duration::from_secs(1);
/// The mode of the log, as in containerd: a log collector reads by group.
const LOG_MODE: u32 = 0o640;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    const fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The log of one container.
#[derive(Debug)]
pub(super) struct Log {
    /// None: the output is dropped.
    target: Option<(PathBuf, File)>,
    /// The unfinished lines, by stream.
    begun: [Begun; 2],
    /// The number of entries that could not be written, and the error.
    lost: Option<(u64, io::Error)>,
}

/// An unfinished line.
#[derive(Debug, Default)]
struct Begun {
    text: Vec<u8>,
    since: Option<Instant>,
}

impl Log {
    pub(super) fn open(path: Option<&Path>) -> io::Result<Self> {
        let target = path.map(|path| open(path).map(|file| (path.to_owned(), file))).transpose()?;
        Ok(Self { target, begun: [Begun::default(), Begun::default()], lost: None })
    }

    /// Opens the path again. Earlier output is in the old file, later output in the new one; if the new one cannot be opened,
    /// the old one is kept.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some((path, file)) = &mut self.target {
            *file = open(path)?;
        }
        Ok(())
    }

    /// Logs output.
    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.target.is_none() {
            return;
        }
        let mut entries = Vec::with_capacity(bytes.len() + bytes.len() / 4 + 64);
        let time = clock::rfc3339(now_ns());
        let begun = &mut self.begun[stream as usize];
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ended) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            split(&mut begun.text, text, |part| entry(&mut entries, &time, stream, b'P', part));
            if ended {
                entry(&mut entries, &time, stream, b'F', &begun.text);
                begun.text.clear();
            }
        }
        begun.since = if begun.text.is_empty() { None } else { Some(begun.since.unwrap_or_else(Instant::now)) };
        if begun.text.is_empty() {
            // The memory of a long line is not kept for the rest of the container's life.
            begun.text = Vec::new();
        }
        self.append(&entries);
    }

    /// Writes the unfinished lines that have waited long enough (`all`: every one) as parts; returns the time until the next is
    /// due.
    pub(super) fn flush(&mut self, all: bool) -> Option<Duration> {
        let mut entries = Vec::new();
        let mut next: Option<Duration> = None;
        for stream in [Stream::Stdout, Stream::Stderr] {
            let begun = &mut self.begun[stream as usize];
            let Some(since) = begun.since else { continue };
            let waited = since.elapsed();
            if all || waited >= PARTIAL_WAIT {
                entry(&mut entries, &clock::rfc3339(now_ns()), stream, b'P', &begun.text);
                *begun = Begun::default();
            } else {
                let left = PARTIAL_WAIT.saturating_sub(waited);
                next = Some(next.map_or(left, |other| other.min(left)));
            }
        }
        self.append(&entries);
        next
    }

    fn append(&mut self, entries: &[u8]) {
        let Some((_, file)) = &mut self.target else { return };
        if entries.is_empty() {
            return;
        }
        if let Some((count, cause)) = self.lost.take() {
            let mut note = Vec::new();
            let text = format!("[cellblock: {count} entries of this log are lost here: {cause}]");
            entry(&mut note, &clock::rfc3339(now_ns()), Stream::Stderr, b'F', text.as_bytes());
            if append_whole(file, &note).is_err() {
                self.lost = Some((count + count_entries(entries), cause));
                return;
            }
        }
        if let Err((lost, cause)) = append_whole(file, entries) {
            self.lost = Some((lost, cause));
        }
    }
}

/// The kubelet makes the directory; not every client does.
fn open(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create(true).mode(LOG_MODE).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(directory)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(directory)?;
            open()
        }
        (opened, _) => opened,
    }
}

/// Adds text to an unfinished line; returns the full parts.
fn split(begun: &mut Vec<u8>, mut text: &[u8], mut full: impl FnMut(&[u8])) {
    while begun.len() + text.len() > LINE_LIMIT {
        let (head, tail) = text.split_at(LINE_LIMIT - begun.len());
        begun.extend_from_slice(head);
        full(begun);
        begun.clear();
        text = tail;
    }
    begun.extend_from_slice(text);
}

fn entry(entries: &mut Vec<u8>, time: &str, stream: Stream, tag: u8, text: &[u8]) {
    entries.extend_from_slice(time.as_bytes());
    entries.push(b' ');
    entries.extend_from_slice(stream.name().as_bytes());
    entries.extend_from_slice(&[b' ', tag, b' ']);
    entries.extend_from_slice(text);
    entries.push(b'\n');
}

fn count_entries(entries: &[u8]) -> u64 {
    entries.iter().map(|&byte| u64::from(byte == b'\n')).sum()
}

/// Appends entries; after an error the file ends with a whole entry, and the number of missing ones is returned.
fn append_whole(file: &mut File, entries: &[u8]) -> Result<(), (u64, io::Error)> {
    let mut written = 0;
    while written < entries.len() {
        match file.write(&entries[written..]) {
            Ok(0) => return Err(take_back(file, entries, written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(take_back(file, entries, written, error)),
        }
    }
    Ok(())
}

fn take_back(file: &File, entries: &[u8], written: usize, cause: io::Error) -> (u64, io::Error) {
    let whole = entries[..written].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if whole < written
        && let Ok(metadata) = file.metadata()
    {
        // A torn entry that cannot be cut off is one bad line in a log on a failing disk.
        let _ = file.set_len(metadata.len().saturating_sub((written - whole) as u64));
    }
    (count_entries(&entries[whole..]), cause)
}

#[cfg(test)]
mod tests {
    use super::{LINE_LIMIT, Log, PARTIAL_WAIT, Stream};

    /// The log without its times: `stdout F text`.
    fn entries(path: &std::path::Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn lines_keep_their_streams_and_parts_are_marked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(Some(&path)).unwrap();
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"bad\n");
        log.write(Stream::Stdout, b"o\n\nlast");
        assert!(log.flush(false).unwrap() <= PARTIAL_WAIT);
        log.flush(true);
        assert_eq!(entries(&path), ["stdout F one", "stderr F bad", "stdout F two", "stdout F ", "stdout P last"]);
        assert_eq!(log.flush(false), None);
    }

    #[test]
    fn a_long_line_is_split_at_the_limit_however_it_was_read() {
        let directory = tempfile::tempdir().unwrap();
        let line = vec![b'x'; 2 * LINE_LIMIT + 5];
        for (number, step) in [1000, LINE_LIMIT, line.len()].into_iter().enumerate() {
            let path = directory.path().join(number.to_string());
            let mut log = Log::open(Some(&path)).unwrap();
            line.chunks(step).for_each(|chunk| log.write(Stream::Stdout, chunk));
            log.write(Stream::Stdout, b"\n");
            let lengths: Vec<usize> = entries(&path).iter().map(|entry| entry.len() - "stdout P ".len()).collect();
            assert_eq!(lengths, [LINE_LIMIT, LINE_LIMIT, 5]);
        }
    }

    #[test]
    fn a_full_disk_loses_entries_and_the_log_says_how_many() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = Log::open(Some(&path)).unwrap();
        log.write(Stream::Stdout, b"a\nb\n");
        log.write(Stream::Stdout, b"c\n");
        std::fs::remove_file(&path).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"d\n");
        let entries = entries(&path);
        assert!(entries[0].contains("3 entries of this log are lost"), "{entries:?}");
        assert_eq!(entries[1], "stdout F d");
    }

    #[test]
    fn a_reopened_log_goes_on_in_the_new_file() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("pod/0.log"), directory.path().join("pod/0.log.1"));
        let mut log = Log::open(Some(&path)).unwrap();
        log.write(Stream::Stdout, b"one\ntwo");
        std::fs::rename(&path, &old).unwrap();
        log.reopen().unwrap();
        log.write(Stream::Stdout, b"\n");
        assert_eq!(entries(&old), ["stdout F one"]);
        assert_eq!(entries(&path), ["stdout F two"]);
    }
}
