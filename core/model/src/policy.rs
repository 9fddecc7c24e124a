//! L4 authorization policies, in the form they are evaluated in.

use std::{fmt, str::FromStr, sync::Arc};

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::workload::Workload;

pub(crate) mod index;
mod reach;
pub(crate) mod table;

pub use reach::Reach;

/// The key of a policy: its namespace and name, `namespace/name` on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyKey {
    /// The namespace the policy is in; the root namespace for a policy of the whole mesh.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl PolicyKey {
    /// Puts a key together.
    #[must_use]
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of the policy with this resource name. A name of another form is a key too, one that no policy has, so that what came
    /// under it can be removed again.
    #[must_use]
    pub fn of_resource(name: &str) -> Self {
        name.parse().unwrap_or_else(|_| Self::new("", name))
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Serialize for PolicyKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form namespace/name")]
pub struct PolicyKeyError(pub String);

impl FromStr for PolicyKey {
    type Err = PolicyKeyError;
    fn from_str(text: &str) -> Result<Self, PolicyKeyError> {
        match text.split_once('/') {
            Some((namespace, name)) if !name.is_empty() && !name.contains('/') => Ok(Self::new(namespace, name)),
            _ => Err(PolicyKeyError(text.to_owned())),
        }
    }
}

/// Which workloads a policy holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// The workloads that name it.
    Selector,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Action {
    Allow,
    Deny,
}

/// A policy: groups are OR. Without groups it never matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Its key.
    pub key: PolicyKey,
    /// Which workloads it holds for.
    pub scope: Scope,
    /// What a match means.
    pub action: Action,
    /// Evaluated and reported, not enforced.
    pub dry_run: bool,
    /// Whether it says something that this version does not know, outside of its matches. An ALLOW that does never matches; a DENY
    /// matches as far as it is known, so that either way nothing gets through that it would stop.
    pub not_understood: bool,
    /// The rules as written, one group each.
    pub groups: Vec<Group>,
}

impl Policy {
    /// Whether it holds for `workload` by its scope, be it named or not.
    pub(crate) fn holds_by_scope(&self, workload: &Workload) -> bool {
        match self.scope {
            Scope::Global => true,
            Scope::Namespace => *self.key.namespace == *workload.namespace.as_str(),
            Scope::Selector => false,
        }
    }
}

/// One rule as written: its clauses are AND. Without clauses it always matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The clauses (from, to, when).
    pub clauses: Vec<Clause>,
}

/// One clause of a rule: its matches are OR. Without matches it always matches; empty matches are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clause {
    /// The alternatives.
    pub matches: Vec<Match>,
}

/// One alternative: its fields are AND, the values of a field OR. An empty field says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[allow(missing_docs, reason = "the names are the wire contract's")]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
    /// Whether it asks for something that this version does not know (an extension, a field of a later version): in an ALLOW it never
    /// holds, in a DENY what is known of it decides.
    pub not_understood: bool,
}

impl Match {
    /// Whether it asks for nothing; such a match is skipped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { namespaces, not_namespaces, service_accounts, not_service_accounts, principals, not_principals, .. } = self;
        let Self { source_ips, not_source_ips, destination_ips, not_destination_ips, destination_ports, .. } = self;
        !self.not_understood
            && [namespaces, not_namespaces, principals, not_principals].iter().all(|list| list.is_empty())
            && [service_accounts, not_service_accounts].iter().all(|list| list.is_empty())
            && [source_ips, not_source_ips, destination_ips, not_destination_ips].iter().all(|list| list.is_empty())
            && destination_ports.is_empty()
            && self.not_destination_ports.is_empty()
    }
}

/// How a text is compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StringMatch {
    /// It is this text.
    Exact(Box<str>),
    /// It begins so.
    Prefix(Box<str>),
    /// It ends so.
    Suffix(Box<str>),
    /// It is there at all.
    Presence,
}

impl StringMatch {
    /// Whether `text` is what is asked for.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == &**exact,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Presence => !text.is_empty(),
        }
    }
}

/// A service account of a namespace, in any trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct ServiceAccountMatch {
    pub namespace: Box<str>,
    pub service_account: Box<str>,
}
