//! Where access-log lines go: a thread of its own writes them, so that a slow disk or pipe never delays a connection.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::time::Duration;

use metrics::counter;

use super::metric;
use crate::Error;

/// Lines that may wait for the writer; beyond that they are dropped and counted.
const QUEUE: usize = 16 * 1024;
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

enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

/// Writes one line per connection or request. Clones share the writer.
#[derive(Clone, Debug)]
pub struct AccessLog {
    queue: Option<Arc<SyncSender<Message>>>,
}

impl AccessLog {
    /// Opens the destination and starts the writer thread, which ends when the last clone is dropped.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be started.
    pub fn open(destination: &Destination) -> Result<Self, Error> {
        let target: Box<dyn Write + Send> = match destination {
            Destination::Off => return Ok(Self { queue: None }),
            Destination::Stdout => Box::new(io::stdout()),
            Destination::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Box::new(file.map_err(Error::io(format!("open the access log {}", path.display())))?)
            }
        };
        let (queue, lines) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_lines(&lines, BufWriter::with_capacity(64 * 1024, target)))
            .map_err(Error::io("start the access-log thread"))?;
        Ok(Self { queue: Some(Arc::new(queue)) })
    }

    /// Writes `{now, RFC 3339} {entry}`. Never blocks: when the queue is full the line is dropped and counted.
    pub fn write(&self, entry: &impl Display) {
        let Some(queue) = &self.queue else { return };
        let line = format!("{:.6} {entry}\n", jiff::Timestamp::now());
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(Message::Line(line)) {
            counter!(metric::ACCESS_LOG_DROPPED).increment(1);
        }
    }

    /// Waits (at most 2 s, blocking) until every line written so far is with the operating system. For the end of a program.
    pub fn flush(&self) {
        let Some(queue) = &self.queue else { return };
        let (done, flushed) = sync_channel(1);
        if queue.send(Message::Flush(done)).is_ok() {
            // A writer that cannot finish in time is not worth delaying the end of the program for.
            let _ = flushed.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

/// Writes until every sender is gone; hands lines on as soon as no more are waiting, so that a reader sees them at once.
fn write_lines(lines: &Receiver<Message>, mut target: BufWriter<Box<dyn Write + Send>>) {
    while let Ok(mut message) = lines.recv() {
        loop {
            let written = match message {
                Message::Line(line) => target.write_all(line.as_bytes()),
                Message::Flush(done) => {
                    let flushed = target.flush();
                    let _ = done.try_send(());
                    flushed
                }
            };
            if written.is_err() {
                counter!(metric::ACCESS_LOG_DROPPED).increment(1);
            }
            match lines.try_recv() {
                Ok(next) => message = next,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        // Reported as dropped above at the next write if the target stays broken.
        let _ = target.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_written_before_a_flush_are_in_the_file_in_order() {
        let path = std::env::temp_dir().join(format!("ambit-access-log-{}", std::process::id()));
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
    fn a_log_that_cannot_be_opened_says_which_file() {
        let error = AccessLog::open(&Destination::File("/nonexistent/dir/log".into())).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/dir/log"), "{error}");
    }
}
