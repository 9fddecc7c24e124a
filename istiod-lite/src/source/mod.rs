//! Where Kubernetes objects come from.
//!
//! A [`Source`] gives an ordered stream of [`Event`]s and the list of problems that it sees at present. The first
//! batch of a source is its full state at start; everything after is a change. [`Directory`] reads YAML files, [`Kubernetes`] watches an
//! API server.

pub mod check;
pub mod crd;
mod directory;
mod document;
mod examine;
pub mod kubernetes;
mod layer;
mod lines;
mod memory;
mod object;
mod pod;
#[cfg(test)]
pub(crate) mod testing;
mod typed;
mod validate;

use std::sync::Arc;

pub use directory::Directory;
pub(crate) use examine::{Examined, examine};
pub use kubernetes::Kubernetes;
pub use object::{Event, Kind, NamespacedName, Object, ObjectKey};
pub use pod::{Container, ContainerPort, Pod, PodCondition, PodSpec, PodStatus};
pub(crate) use typed::FieldError;
pub(crate) use validate::{
    NOT_BELIEVED, RetryOn, RuleKeys, TLS_INSTEAD, TLS_REFUSED, conditions_left_out, faults_of_rule, heedless, is_label,
    is_pattern, is_subdomain, key_sources, keys_of, not_routed, refused, source_field, unheeding_parents, unverified,
};

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
    /// The API server cannot be asked at all.
    #[error("cannot use the Kubernetes API server: {0}")]
    Client(String),
    /// A watch of the API server ended for good.
    #[error("the watch of {0} ended")]
    Ended(&'static str),
}

/// How bad a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object, or all objects of its file, are not in force as they are now; the last good ones are.
    Error,
    /// The object is in force or not ours; something in it deserves a look.
    Warning,
}

/// Where what is wrong is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(untagged)]
pub enum Origin {
    /// In a file.
    File {
        /// The file.
        file: std::path::PathBuf,
        /// Line in the file, from 1; 0 when the whole file is meant.
        line: usize,
    },
    /// In the cluster: in the problem's object, or in the answers of the API server when there is none.
    Cluster,
}

/// Something wrong in the input, and where.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Problem {
    /// The file, or the cluster.
    #[serde(flatten)]
    pub origin: Origin,
    /// The object, when it could be told.
    pub object: Option<ObjectKey>,
    /// Path of the field (`spec.rules[0].backendRefs[1].weight`), empty when the whole object is meant.
    pub field: String,
    /// What is wrong, as a phrase.
    pub reason: String,
    /// Whether it stops the file, or the object of the cluster, from being in force.
    pub severity: Severity,
}

impl Problem {
    /// Whether objects are not in force because of it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.origin {
            Origin::File { file, line: 0 } => write!(f, "{}", file.display())?,
            Origin::File { file, line } => write!(f, "{}:{line}", file.display())?,
            Origin::Cluster => f.write_str("cluster")?,
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
