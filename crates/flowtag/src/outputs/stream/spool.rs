//! Messages that wait on disk: a directory of files, each a row of frames as they go over the wire (`LENGTH SP MESSAGE`).
//!
//! Files are written from the lowest number up and removed when all in them arrived. `position` says how far the first of
//! them was told: its number and an offset. A daemon that is killed tells what it told last once more, at most
//! [`CHUNK`] bytes. Bounded by `max`, after which messages are refused; one that was cut off by a full disk or a crash is
//! taken out again.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Message;

/// Read at a time.
const CHUNK: u64 = 64 << 10;
/// A file is closed when it is that long, or an eighth of `max`.
const MAX_FILE: u64 = 1 << 20;
/// No message is longer; what claims to be is not one of ours.
const MAX_MESSAGE: usize = 1 << 15;
/// No file has a greater number; what claims to is not one of ours.
const MAX_NUMBER: u64 = u64::MAX / 2;
const SUFFIX: &str = "fireflies";

/// Why messages cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error(
        "cannot {action} {path}: the directory `spool` has to be writable for the daemon, with room on its disk"
    )]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the spool {path} is in use: each collector needs a directory of its own")]
    InUse { path: PathBuf },
    #[error("the spool {path} is full: {max} bytes wait in it (spool_max)")]
    Full { path: PathBuf, max: u64 },
}

/// A place in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    /// Number of the file.
    file: u64,
    offset: u64,
}

/// Messages on disk, in order.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    max: u64,
    /// Held until the spool is dropped.
    _lock: File,
    /// Up to here, all arrived.
    told: Position,
    /// Up to here, all was read.
    read: Position,
    /// Where the next message goes.
    end: Position,
    writer: Option<File>,
    /// Numbers of all files.
    files: BTreeSet<u64>,
    /// Bytes in all files.
    bytes: u64,
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { action, path, source }
}

impl Spool {
    /// Takes up what waits there. Made if absent.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub(crate) fn open(dir: &Path, max: u64) -> Result<Self, SpoolError> {
        fs::create_dir_all(dir).map_err(io_error("make", dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(io_error("open", &path))?;
        if lock.try_lock().is_err() {
            return Err(SpoolError::InUse { path: dir.to_owned() });
        }
        let mut files = numbers(dir)?;
        let size = |file: u64| fs::metadata(file_path(dir, file)).map_or(0, |m| m.len());
        // One beyond all files is not ours, and to believe it would cost them all.
        let is_ours = |told: &Position| files.last().is_none_or(|last| told.file <= last.saturating_add(1));
        let told = read_position(dir).filter(is_ours).unwrap_or_default();
        let waiting = files.split_off(&told.file);
        for file in std::mem::replace(&mut files, waiting) {
            let _ = fs::remove_file(file_path(dir, file));
        }
        let told = match files.first() {
            Some(first) if *first == told.file && told.offset <= size(*first) => told,
            first => Position { file: first.copied().unwrap_or(told.file.saturating_add(1)), offset: 0 },
        };
        // What the last file has after its last whole message is in the way of the next: a new one is begun.
        let end = Position { file: files.last().map_or(told.file, |last| last.saturating_add(1)), offset: 0 };
        let bytes = files.iter().map(|file| size(*file)).sum();
        Ok(Self { dir: dir.to_owned(), max, _lock: lock, told, read: told, end, writer: None, files, bytes })
    }

    /// Whether all was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.read == self.end
    }

    /// Keeps a message, after those that wait.
    ///
    /// # Errors
    /// It is not kept, and the spool is as before.
    pub(crate) fn push(&mut self, message: &Message) -> Result<(), SpoolError> {
        let length = message.len() as u64;
        if self.bytes + length > self.max {
            return Err(SpoolError::Full { path: self.dir.clone(), max: self.max });
        }
        if self.end.offset > 0 && self.end.offset + length > MAX_FILE.min(self.max / 8) {
            self.end = Position { file: self.end.file + 1, offset: 0 };
            self.writer = None;
        }
        let path = file_path(&self.dir, self.end.file);
        let mut file = match self.writer.take() {
            Some(file) => file,
            None => {
                let open = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
                let file = open.map_err(io_error("make", &path))?;
                self.files.insert(self.end.file);
                file
            }
        };
        if let Err(error) = file.write_all(message) {
            let _ = file.set_len(self.end.offset);
            return Err(io_error("write to", &path)(error));
        }
        self.writer = Some(file);
        self.end.offset += length;
        self.bytes += length;
        Ok(())
    }

    /// The next messages, and the place after them; none where there are no more. What cannot be read is left out, and said.
    pub(crate) fn read(&mut self) -> (Vec<Message>, Position) {
        while !self.is_empty() {
            let found = self.read_file().unwrap_or_else(|error| {
                tracing::error!(
                    error = crate::supervisor::throttle::chain(&error),
                    "messages in a spool are lost"
                );
                Vec::new()
            });
            if !found.is_empty() {
                return (found, self.read);
            }
            let next = self.files.range((Bound::Excluded(self.read.file), Bound::Unbounded)).next();
            self.read = next.map_or(self.end, |file| Position { file: *file, offset: 0 });
        }
        (Vec::new(), self.read)
    }

    /// Whole messages at the place that was read last; none at the end of its file.
    fn read_file(&mut self) -> Result<Vec<Message>, SpoolError> {
        let path = file_path(&self.dir, self.read.file);
        let mut bytes = Vec::new();
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            file => file.map_err(io_error("open", &path))?,
        };
        file.seek(SeekFrom::Start(self.read.offset)).map_err(io_error("read", &path))?;
        file.take(CHUNK).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        let mut messages = Vec::new();
        let mut rest = &bytes[..];
        while let Some(length) = frame_length(rest).filter(|length| *length <= rest.len()) {
            let (message, after) = rest.split_at(length);
            messages.push(Message::from(message));
            rest = after;
        }
        self.read.offset += (bytes.len() - rest.len()) as u64;
        Ok(messages)
    }

    /// All up to there arrived.
    pub(crate) fn commit(&mut self, position: Position) {
        while let Some(file) = self.files.first().copied().filter(|file| *file < position.file) {
            self.forget(file);
        }
        if position == self.end && position.offset > 0 {
            // All of it: the next message begins a new file.
            self.forget(position.file);
            self.writer = None;
            self.end = Position { file: position.file + 1, offset: 0 };
            (self.told, self.read) = (self.end, self.end);
        } else {
            self.told = position;
        }
        if let Err(error) = self.write_position() {
            tracing::debug!(%error, "the position of a spool is not kept");
        }
    }

    fn forget(&mut self, file: u64) {
        self.files.remove(&file);
        let path = file_path(&self.dir, file);
        let length = fs::metadata(&path).map_or(0, |m| m.len());
        if fs::remove_file(&path).is_ok() {
            self.bytes = self.bytes.saturating_sub(length);
        }
    }

    /// What did not arrive is read again.
    pub(crate) fn rewind(&mut self) {
        self.read = self.told;
    }

    fn write_position(&self) -> io::Result<()> {
        let new = self.dir.join("position.new");
        fs::write(&new, format!("{} {}\n", self.told.file, self.told.offset))?;
        fs::rename(new, self.dir.join("position"))
    }
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.{SUFFIX}"))
}

fn numbers(dir: &Path) -> Result<BTreeSet<u64>, SpoolError> {
    let entries = fs::read_dir(dir).map_err(io_error("list", dir))?;
    let number = |entry: io::Result<fs::DirEntry>| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(SUFFIX)?.strip_suffix('.')?.parse().ok()
    };
    Ok(entries.filter_map(number).filter(|number| *number <= MAX_NUMBER).collect())
}

fn read_position(dir: &Path) -> Option<Position> {
    let text = fs::read_to_string(dir.join("position")).ok()?;
    let (file, offset) = text.trim().split_once(' ')?;
    let position = Position { file: file.parse().ok()?, offset: offset.parse().ok()? };
    (position.file <= MAX_NUMBER).then_some(position)
}

/// Bytes of the frame that begins here, its length included. None: this is not the beginning of one.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let space = bytes.iter().take(6).position(|b| *b == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    (length <= MAX_MESSAGE).then_some(space + 1 + length)
}

#[cfg(test)]
mod tests {
    use super::super::frame;
    use super::*;

    fn text(n: usize) -> Message {
        frame(format!("message {n} {}", "x".repeat(n % 50)).as_bytes())
    }

    fn read_all(spool: &mut Spool) -> (Vec<Message>, Position) {
        let (mut all, mut last) = (Vec::new(), Position::default());
        while let (some, position) = spool.read()
            && !some.is_empty()
        {
            all.extend(some);
            last = position;
        }
        (all, last)
    }

    #[test]
    fn what_waits_outlives_the_daemon_and_comes_in_order_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let wanted: Vec<_> = (0..5000).map(text).collect();
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened");
        wanted.iter().for_each(|m| spool.push(m).expect("kept"));
        assert!(matches!(Spool::open(dir.path(), 1 << 20), Err(SpoolError::InUse { .. })));
        let (first, position) = spool.read();
        assert!(!first.is_empty() && first.len() < 5000);
        spool.commit(position);
        let (_, _) = spool.read(); // not confirmed
        drop(spool);
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened again");
        spool.push(&text(7777)).expect("kept");
        let (rest, last) = read_all(&mut spool);
        let all: Vec<_> = first.iter().chain(&rest).cloned().collect();
        assert!(all[..5000] == wanted[..] && all[5000..] == [text(7777)]);
        spool.commit(last);
        assert!(spool.is_empty() && spool.bytes == 0);
        assert_eq!(numbers(dir.path()).expect("a list"), BTreeSet::new(), "no file is left");
        spool.push(&text(1)).expect("kept");
        drop(spool);
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened again");
        assert_eq!(read_all(&mut spool).0, [text(1)]);
    }

    #[test]
    fn what_is_too_much_is_refused_and_there_is_room_again_when_some_arrived() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(dir.path(), 10_000).expect("opened");
        let kept = (0..1000).take_while(|n| spool.push(&text(*n)).is_ok()).count();
        assert!(kept > 100 && spool.bytes <= 10_000);
        assert!(matches!(spool.push(&text(kept)), Err(SpoolError::Full { .. })));
        let (all, position) = read_all(&mut spool);
        assert_eq!(all, (0..kept).map(text).collect::<Vec<_>>());
        spool.rewind();
        assert_eq!(read_all(&mut spool).0.len(), kept, "not confirmed, so read again");
        spool.commit(position);
        spool.push(&text(1)).expect("there is room");
    }

    #[test]
    fn garbage_and_what_was_cut_off_cost_no_other_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened");
        spool.push(&text(1)).expect("kept");
        drop(spool);
        let file = file_path(dir.path(), *numbers(dir.path()).expect("a list").first().expect("a file"));
        let mut cut = fs::read(&file).expect("read");
        cut.extend(b"400 cut off");
        fs::write(&file, cut).expect("written");
        fs::write(file_path(dir.path(), 900), b"garbage").expect("written");
        fs::write(dir.path().join("position"), b"garbage").expect("written");
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened again");
        spool.push(&text(2)).expect("kept");
        assert_eq!(read_all(&mut spool).0, [text(1), text(2)]);
    }

    #[test]
    fn numbers_that_cannot_be_ours_cost_neither_time_nor_messages() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut wanted = Vec::new();
        let positions = ["18446744073709551615 5", "9000000000000000000 0", "garbage", "1 999999"];
        for (n, position) in positions.into_iter().enumerate() {
            let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened");
            spool.push(&text(n)).expect("kept");
            wanted.push(text(n));
            drop(spool);
            for stray in [u64::MAX, MAX_NUMBER + 1, 1 << 60] {
                fs::write(file_path(dir.path(), stray), b"stray").expect("written");
            }
            fs::write(dir.path().join("position"), position).expect("written");
        }
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened again");
        spool.push(&text(4)).expect("kept");
        wanted.push(text(4));
        let (all, last) = read_all(&mut spool);
        assert_eq!(all, wanted);
        spool.commit(last);
        assert!(spool.is_empty() && spool.bytes == 0);
        assert!(file_path(dir.path(), u64::MAX).exists(), "not ours");
        drop(spool);
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened once more");
        spool.push(&text(5)).expect("kept");
        assert_eq!(read_all(&mut spool).0, [text(5)]);
    }

    #[test]
    fn a_disk_that_takes_nothing_is_an_error_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(dir.path(), 1 << 20).expect("opened");
        spool.push(&text(1)).expect("kept");
        // Every write to it fails: no space left on device.
        spool.writer = Some(OpenOptions::new().write(true).open("/dev/full").expect("a device"));
        assert!(matches!(spool.push(&text(2)), Err(SpoolError::Io { action: "write to", .. })));
        spool.push(&text(3)).expect("there is room again");
        assert_eq!(read_all(&mut spool).0, [text(1), text(3)]);
    }
}
