//! Where access-log lines go: a thread of its own writes them, so that a slow disk or pipe never delays a connection.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;

use super::metric;
use crate::Error;

/// Bytes that may wait for the writer; lines beyond that are dropped and counted.
const WAITING: usize = 8 << 20;
/// How long the writer lets lines gather before it hands them on: one wake-up and one write for all of them.
const GATHER: Duration = Duration::from_millis(5);
/// A buffer that grew beyond this is given back once it is written.
const KEPT: usize = 16 << 10;
/// How long [`AccessLog::flush`] waits.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the access log is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Destination {
    /// Standard output.
    #[default]
    Stdout,
    /// Appended to this file, which is made if it does not exist.
    File(PathBuf),
    /// Nowhere.
    Off,
}

impl From<Option<PathBuf>> for Destination {
    /// A path is a file, `/dev/null` is off, no path is standard output.
    fn from(path: Option<PathBuf>) -> Self {
        match path {
            Some(path) if path == std::path::Path::new("/dev/null") => Self::Off,
            Some(path) => Self::File(path),
            None => Self::Stdout,
        }
    }
}

/// Writes one line per connection or request. Clones share the writer.
#[derive(Clone, Debug)]
pub struct AccessLog {
    writer: Option<Arc<Writer>>,
}

/// The side of those who write lines; the thread ends when it is dropped.
#[derive(Debug)]
struct Writer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// Wakes the thread.
    lines: Condvar,
    /// Wakes those who flush.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole lines.
    lines: Vec<u8>,
    /// Whether the thread sleeps until there are lines.
    asleep: bool,
    /// How often a flush was asked for, and how often one was done.
    flushes: (u64, u64),
    closed: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.waiting().closed = true;
        self.0.lines.notify_one();
    }
}

impl AccessLog {
    /// Opens the destination and starts the writer thread, which ends when the last clone is dropped.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub fn open(destination: &Destination) -> Result<Self, Error> {
        let target: Box<dyn Write + Send> = match destination {
            Destination::Off => return Ok(Self { writer: None }),
            Destination::Stdout => Box::new(io::stdout()),
            Destination::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.map_err(Error::io(format!("open the access log {}", path.display())))?)
            }
        };
        let shared = Arc::new(Shared::default());
        let writer = Arc::new(Writer(Arc::clone(&shared)));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&shared, target))
            .map_err(Error::io("start the access-log thread"))?;
        Ok(Self { writer: Some(writer) })
    }

    /// Writes `{now, RFC 3339} {entry}`. Never waits for the destination: when too much is waiting the line is dropped and counted.
    pub fn write(&self, entry: &impl Display) {
        let Some(Writer(shared)) = self.writer.as_deref() else { return };
        let now = jiff::Timestamp::now();
        let mut waiting = shared.waiting();
        let before = waiting.lines.len();
        if before >= WAITING {
            drop(waiting);
            counter!(metric::ACCESS_LOG_DROPPED).increment(1);
            return;
        }
        // Half a line is worse than none; a vector takes whatever is written.
        if writeln!(waiting.lines, "{now:.6} {entry}").is_err() {
            waiting.lines.truncate(before);
        }
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            shared.lines.notify_one();
        }
    }

    /// Waits (at most 2 s, blocking) until every line written so far is with the operating system. For the end of a program.
    pub fn flush(&self) {
        let Some(Writer(shared)) = self.writer.as_deref() else { return };
        let mut waiting = shared.waiting();
        waiting.flushes.0 += 1;
        let mine = waiting.flushes.0;
        shared.lines.notify_one();
        // A writer that cannot finish in time is not worth delaying the end of the program for.
        let _flushed = shared.written.wait_timeout_while(waiting, FLUSH_TIMEOUT, |waiting| waiting.flushes.1 < mine);
    }
}

/// Writes until the log is closed and empty.
fn write_lines(shared: &Shared, mut target: Box<dyn Write + Send>) {
    let mut batch = Vec::new();
    let mut written = Written::default();
    loop {
        let (flush, closed) = next(shared, &mut batch);
        if let Err(error) = written.write(&mut *target, &batch) {
            let lost = lines(batch.get(written.written..).unwrap_or_default());
            tracing::debug!(%error, lost, "the access log cannot be written");
            counter!(metric::ACCESS_LOG_DROPPED).increment(lost as u64);
        }
        batch.clear();
        if batch.capacity() > KEPT {
            batch = Vec::new();
        }
        if flush > 0 {
            shared.waiting().flushes.1 = flush;
            shared.written.notify_all();
        }
        if closed {
            return;
        }
    }
}

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}

/// How far the destination has come.
#[derive(Default)]
struct Written {
    /// Bytes of the batch.
    written: usize,
    /// Whether it ends with half a line, whose rest is lost.
    torn: bool,
}

impl Written {
    /// Writes whole lines. A destination that takes nothing now is waited for; after any other error the rest of them is lost.
    fn write(&mut self, target: &mut dyn Write, batch: &[u8]) -> io::Result<()> {
        self.written = 0;
        if self.torn && !batch.is_empty() {
            patiently(|| target.write(b"\n"))?;
            self.torn = false;
        }
        while let Some(rest) = batch.get(self.written..).filter(|rest| !rest.is_empty()) {
            match patiently(|| target.write(rest)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => {
                    self.written += more;
                    self.torn = batch.get(..self.written).is_some_and(|written| !written.ends_with(b"\n"));
                }
                Err(error) => return Err(error),
            }
        }
        patiently(|| target.flush())
    }
}

/// Does `work` until the destination is ready for it.
fn patiently<T>(mut work: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(GATHER),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Waits for lines and takes them; also says up to which flush they are, and whether they are the last.
fn next(shared: &Shared, batch: &mut Vec<u8>) -> (u64, bool) {
    let mut waiting = shared.waiting();
    waiting.asleep = true;
    let idle = |waiting: &mut Waiting| waiting.lines.is_empty() && waiting.flushes.0 == waiting.flushes.1 && !waiting.closed;
    waiting = shared.lines.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
    waiting.asleep = false;
    let until = Instant::now() + GATHER;
    while waiting.flushes.0 == waiting.flushes.1 && !waiting.closed {
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
        waiting = shared.lines.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    std::mem::swap(&mut waiting.lines, batch);
    (waiting.flushes.0, waiting.closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ambit-access-log-{name}-{}", std::process::id()))
    }

    #[test]
    fn lines_written_before_a_flush_are_in_the_file_in_order() {
        let path = file("order");
        let log = AccessLog::open(&Destination::File(path.clone())).unwrap();
        for number in 0..1000 {
            log.write(&format!("line={number}"));
        }
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let numbers: Vec<_> = text.lines().map(|line| line.split_once("line=").unwrap().1.parse::<u32>().unwrap()).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert!(text.starts_with("20") && text.contains("Z line=0\n"), "{}", &text[..60]);
    }

    #[test]
    fn a_line_is_in_the_file_soon_without_a_flush_and_the_last_one_after_the_log_is_closed() {
        let path = file("soon");
        let log = AccessLog::open(&Destination::File(path.clone())).unwrap();
        let wait_for = |text: &str| {
            let until = Instant::now() + Duration::from_secs(5);
            while !std::fs::read_to_string(&path).unwrap().contains(text) {
                assert!(Instant::now() < until, "{text} is not in the log");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for line in ["line=1", "line=2"] {
            log.write(&line);
            wait_for(line);
        }
        log.write(&"line=3");
        drop(log);
        wait_for("line=3");
        std::fs::remove_file(&path).unwrap();
    }

    /// Answers as it is told; takes everything when it is told nothing more.
    struct Told(Vec<io::Result<usize>>, Vec<u8>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = if self.0.is_empty() { bytes.len() } else { self.0.remove(0)? };
            self.1.extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_destination_that_is_full_for_a_moment_loses_no_line_and_one_that_fails_no_line_after_it() {
        let error = |kind: io::ErrorKind| Err(io::Error::from(kind));
        let mut written = Written::default();
        let mut full = Told(vec![Ok(3), error(io::ErrorKind::WouldBlock), error(io::ErrorKind::Interrupted)], Vec::new());
        written.write(&mut full, b"one\ntwo\n").unwrap();
        assert_eq!(full.1, b"one\ntwo\n");
        let mut failing = Told(vec![Ok(5), error(io::ErrorKind::StorageFull)], Vec::new());
        written.write(&mut failing, b"one\ntwo\n").unwrap_err();
        assert_eq!(lines(&b"one\ntwo\n"[written.written..]), 1);
        written.write(&mut failing, b"three\n").unwrap();
        written.write(&mut failing, b"four\n").unwrap();
        assert_eq!(failing.1, b"one\nt\nthree\nfour\n");
    }

    #[test]
    fn a_log_that_cannot_be_opened_says_which_file() {
        let error = AccessLog::open(&Destination::File("/nonexistent/dir/log".into())).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/dir/log"), "{error}");
    }
}
