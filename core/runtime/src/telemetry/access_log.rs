//! Where access-log lines go: a thread of its own writes them, so that a slow disk or pipe never delays a connection.

use std::cell::Cell;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::counter;
use serde::Serialize;

use super::{Entry, LogFormat, metric};
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
            Some(path) if path == Path::new("/dev/null") => Self::Off,
            Some(path) => Self::File(path),
            None => Self::Stdout,
        }
    }
}

/// Writes one line per connection or request. Clones share the writer.
#[derive(Clone, Debug)]
pub struct AccessLog {
    writer: Option<Arc<Writer>>,
    style: Style,
}

/// Which lines are written, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    /// Text, or an object in JSON on each line.
    pub format: LogFormat,
    /// The share, 0 to 1, of what ended well that is written. What was refused or broke always is.
    pub sample: f64,
}

impl Default for Style {
    /// All lines, as text.
    fn default() -> Self {
        Self { format: LogFormat::Text, sample: 1.0 }
    }
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
    /// Whether the file is to be opened anew.
    reopen: bool,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whole lines wait for the writer, unless too much does.
    fn add(&self, lines: &[u8]) {
        let mut waiting = self.waiting();
        if waiting.lines.len() >= WAITING {
            drop(waiting);
            counter!(metric::ACCESS_LOG_DROPPED).increment(1);
            return;
        }
        waiting.lines.extend_from_slice(lines);
        let asleep = std::mem::take(&mut waiting.asleep);
        drop(waiting);
        if asleep {
            self.lines.notify_one();
        }
    }
}

thread_local! {
    /// Where a line is made.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
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
        let target = match destination {
            Destination::Off => return Ok(Self { writer: None, style: Style::default() }),
            Destination::Stdout => Target { to: Box::new(io::stdout()), path: None },
            Destination::File(path) => {
                let file = opened(path).map_err(Error::io(format!("open the access log {}", path.display())))?;
                Target { to: Box::new(file), path: Some(path.clone()) }
            }
        };
        let shared = Arc::new(Shared::default());
        let writer = Arc::new(Writer(Arc::clone(&shared)));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&shared, target))
            .map_err(Error::io("start the access-log thread"))?;
        Ok(Self { writer: Some(writer), style: Style::default() })
    }

    /// The same, written in this style.
    #[must_use]
    pub fn with_style(mut self, style: Style) -> Self {
        self.style = style;
        self
    }

    /// Writes `entry`, if it is one of those that are written. Never waits for the destination: when too much is waiting the line is dropped
    /// and counted.
    pub fn write(&self, entry: &Entry<'_>) {
        let Style { format, sample } = self.style;
        if entry.reason == "ok" && sample < 1.0 && fastrand::f64() >= sample {
            return;
        }
        match format {
            LogFormat::Text => self.line(entry),
            LogFormat::Json => self.write_with(|now, lines| {
                #[derive(Serialize)]
                struct Line<'a> {
                    time: String,
                    #[serde(flatten)]
                    entry: &'a Entry<'a>,
                }
                serde_json::to_writer(&mut *lines, &Line { time: format!("{now:.6}"), entry })?;
                lines.push(b'\n');
                Ok(())
            }),
        }
    }

    /// Writes what `put` puts, which is whole lines. Never waits for the destination, as [`AccessLog::write`].
    pub fn put(&self, put: impl FnOnce(&mut Vec<u8>)) {
        self.write_with(|_, lines| {
            put(lines);
            Ok(())
        });
    }

    /// Writes `{now, RFC 3339} {text}`.
    fn line(&self, text: &impl Display) {
        self.write_with(|now, lines| writeln!(lines, "{now:.6} {text}"));
    }

    fn write_with(&self, put: impl FnOnce(jiff::Timestamp, &mut Vec<u8>) -> io::Result<()>) {
        let Some(Writer(shared)) = self.writer.as_deref() else { return };
        // Made without the lock, for which all threads wait: that takes much longer than to put it where lines wait. The memory is that of the last
        // one, unless the thread is about to end.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        // Half a line is worse than none; a vector takes whatever is written.
        if put(jiff::Timestamp::now(), &mut line).is_ok() {
            shared.add(&line);
        }
        if line.capacity() <= KEPT {
            line.clear();
            let _ending = LINE.try_with(|kept| kept.set(line));
        }
    }

    /// Has the file opened anew by its path, as whoever has renamed it asks for: lines written from now on are in the new one, or in the old one if
    /// none can be opened. It is not waited for. What is no file stays as it is.
    pub fn reopen(&self) {
        let Some(Writer(shared)) = self.writer.as_deref() else { return };
        let mut waiting = shared.waiting();
        waiting.reopen = true;
        waiting.asleep = false;
        drop(waiting);
        shared.lines.notify_one();
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

/// What is written to.
struct Target {
    to: Box<dyn Write + Send>,
    /// Of a file.
    path: Option<PathBuf>,
}

impl Target {
    /// Opens the file anew, and returns whether it has; it stays the same where that cannot be. A pipe or a device is not renamed, and to open
    /// one could take for ever.
    fn reopen(&mut self) -> bool {
        let Some(path) = &self.path else { return false };
        if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            return false;
        }
        match opened(path) {
            Ok(file) => {
                self.to = Box::new(file);
                true
            }
            Err(error) => {
                let path = path.display();
                tracing::error!(%error, %path, "the access log cannot be opened anew; its lines go on into the file that was open");
                false
            }
        }
    }
}

fn opened(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes until the log is closed and empty.
fn write_lines(shared: &Shared, mut target: Target) {
    let mut batch = Vec::new();
    let mut written = Written::default();
    loop {
        let Next { flush, closed, reopen } = next(shared, &mut batch);
        if reopen && target.reopen() {
            // Half a line at the end of the one before is nothing that this one has to end.
            written = Written::default();
        }
        if let Err(error) = written.write(&mut *target.to, &batch) {
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

/// What is said of lines.
struct Next {
    /// Up to which flush they are.
    flush: u64,
    /// They are the last.
    closed: bool,
    /// The file is to be opened anew before them.
    reopen: bool,
}

/// Waits for lines and takes them.
fn next(shared: &Shared, batch: &mut Vec<u8>) -> Next {
    let mut waiting = shared.waiting();
    waiting.asleep = true;
    let idle = |waiting: &mut Waiting| {
        waiting.lines.is_empty() && waiting.flushes.0 == waiting.flushes.1 && !waiting.closed && !waiting.reopen
    };
    waiting = shared.lines.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner);
    waiting.asleep = false;
    let until = Instant::now() + GATHER;
    while waiting.flushes.0 == waiting.flushes.1 && !waiting.closed {
        let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
        waiting = shared.lines.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    std::mem::swap(&mut waiting.lines, batch);
    Next { flush: waiting.flushes.0, closed: waiting.closed, reopen: std::mem::take(&mut waiting.reopen) }
}

#[cfg(test)]
mod tests;
