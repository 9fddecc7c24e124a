//! Where Kubernetes objects come from.
//!
//! A [`Source`] gives an ordered stream of [`Event`]s and the list of problems that it sees at present. The first
//! batch of a source is its full state at start; everything after is a change. [`Directory`] reads YAML files.

pub mod crd;
mod directory;
mod document;
mod layer;
mod lines;
mod memory;
mod object;
#[cfg(test)]
pub(crate) mod testing;
mod typed;
mod validate;

use std::sync::Arc;

pub use directory::Directory;
pub use object::{Event, Kind, NamespacedName, Object, ObjectKey};

/// A source that cannot go on. Errors in single objects are [`Problem`]s, not this.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A source directory cannot be watched.
    #[error("cannot watch {path}: {cause}")]
    Watch {
        /// The directory.
        path: std::path::PathBuf,
        /// What the kernel answered.
        cause: notify::Error,
    },
    /// The directory for the last good state of files cannot be used.
    #[error("cannot keep the last good state of files in {path}: {cause}")]
    Memory {
        /// The directory.
        path: std::path::PathBuf,
        /// What the kernel answered.
        cause: std::io::Error,
    },
    /// A source directory cannot be listed.
    #[error("cannot read the directory {path}: {cause}")]
    List {
        /// The directory.
        path: std::path::PathBuf,
        /// What the kernel answered.
        cause: std::io::Error,
    },
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The objects of the file as they are now are not in force; the last good ones are.
    Error,
    /// The object is in force or not ours; something in it deserves a look.
    Warning,
}

/// Something wrong in the input, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// The file.
    pub file: std::path::PathBuf,
    /// Line in the file, from 1; 0 when the whole file is meant.
    pub line: usize,
    /// The object, when it could be told.
    pub object: Option<ObjectKey>,
    /// Path of the field (`spec.rules[0].backendRefs[1].weight`), empty when the whole object is meant.
    pub field: String,
    /// What is wrong, as a phrase.
    pub reason: String,
    /// Whether it stops the file from being in force.
    pub severity: Severity,
}

impl Problem {
    /// Whether objects of the file are not in force because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// An ordered stream of changes to Kubernetes objects.
#[async_trait::async_trait]
pub trait Source: Send + 'static {
    /// Waits for the next batch of changes. The first batch is everything there is, and may be empty.
    ///
    /// # Errors
    ///
    /// When the source is lost for good.
    async fn next(&mut self) -> Result<Vec<Event>, SourceError>;

    /// What is wrong with the input at present; changes only when [`Source::next`] returns (perhaps with no events).
    fn problems(&self) -> Arc<Vec<Problem>>;
}
