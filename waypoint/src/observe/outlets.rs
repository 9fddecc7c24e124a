//! Where lines go that are in a format which was asked for: files, each opened once and written by a thread of its own, and collectors.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use ambit_model::access_log::Format;
use ambit_runtime::telemetry::{AccessLog, Destination, metric};
use metrics::counter;

use super::{Line, Logged, Record, otlp::Queue};
use crate::compiled::LogTo;

/// What is open.
#[derive(Debug, Default)]
pub struct Outlets {
    /// By path; nothing where a file cannot be opened.
    files: RwLock<HashMap<Arc<str>, Option<AccessLog>>>,
    /// Of records for collectors.
    pub queue: Queue,
}

impl Outlets {
    /// Has every log of a record that it is one for write its line.
    pub fn write(&self, record: &Record, logged: &Logged) {
        let line = Line::new(record, logged);
        for logger in &logged.logs.loggers {
            if logger.only.is_some_and(|only| !only.holds(record.status)) {
                continue;
            }
            match &logger.to {
                LogTo::File { path, format } => self.write_to(path, format, &line),
                LogTo::Collector(collector) => self.queue.add(collector, &line),
            }
        }
    }

    fn write_to(&self, path: &Arc<str>, format: &Format, line: &Line<'_>) {
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        match known.unwrap_or_else(|| self.open(path)) {
            Some(file) => file.put(|lines| format.write(line, lines)),
            None => counter!(metric::ACCESS_LOG_DROPPED).increment(1),
        }
    }

    /// Opens a file that no line has gone to yet. Whoever writes to another one does not wait for that; of several who do it at once all but the
    /// first close theirs again.
    fn open(&self, path: &Arc<str>) -> Option<AccessLog> {
        // It may be what nobody can open by its path, as a socket.
        let destination = match &**path {
            "/dev/stdout" => Destination::Stdout,
            path => Destination::from(Some(PathBuf::from(path))),
        };
        let opened = AccessLog::open(&destination);
        let opened = opened.inspect_err(|error| tracing::error!(%error, "lines that a Telemetry asks for are lost")).ok();
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.entry(path.clone()).or_insert(opened).clone()
    }

    /// Has all files opened anew, also those that could not be opened before: the next line tries it.
    pub fn reopen(&self) {
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.retain(|_, file| file.is_some());
        files.values().flatten().for_each(AccessLog::reopen);
    }

    /// Waits until all lines are with the operating system.
    pub fn flush(&self) {
        let files: Vec<AccessLog> =
            self.files.read().unwrap_or_else(PoisonError::into_inner).values().flatten().cloned().collect();
        files.iter().for_each(AccessLog::flush);
    }
}
