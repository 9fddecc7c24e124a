//! Keys of issuers of tokens that a RequestAuthentication does not have itself: by address (`jwksUri`), or by the issuer's discovery document.
//!
//! They are fetched here and sent to waypoints with everything else, so that a waypoint needs no way to the issuer and keys outlast it. What is
//! fetched when is decided in `course`, without I/O; `client` asks one address, `fetcher` does the asking, and what it learns goes the way of
//! every other change: through `push` into the index. Each replica fetches for itself.

mod address;
mod client;
mod course;
mod fetcher;
mod options;
mod trust;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::jwt::Keys;

pub(crate) use address::Address;
pub(crate) use fetcher::{Fetcher, View, first_round};
pub use options::Options;

/// Where the keys of an issuer are fetched from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySource {
    /// A set of keys is at this address.
    Set(String),
    /// The discovery document of this issuer says where they are (OpenID Connect Discovery 1.0, section 4).
    Issuer(String),
}

impl KeySource {
    /// The address that is asked first.
    #[must_use]
    pub fn address(&self) -> String {
        match self {
            Self::Set(address) => address.clone(),
            Self::Issuer(issuer) => format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer)),
        }
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

/// Who asks for a source of keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The longest time that a fetch may take by any of them.
    pub patience: Duration,
    /// Their namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
}

/// What is known of a source of keys, once it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// The last set that came, with nothing in it but public keys that can be used.
    Keys(Arc<str>),
    /// The same, where nobody has said for some time whether it still holds, and why not.
    Kept(Arc<str>, String),
    /// There are none, as none ever came or they were withdrawn, and why.
    Failed(String),
}

impl Fetched {
    /// The keys, if there are any.
    #[must_use]
    pub fn keys(&self) -> Option<&str> {
        match self {
            Self::Keys(keys) | Self::Kept(keys, _) => Some(keys),
            Self::Failed(_) => None,
        }
    }
}

/// Why no keys came of a fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoKeys {
    /// Nobody has said which keys there are: those that came before hold.
    Failed(String),
    /// The source says that there are none that can be used: whoever had some has withdrawn them.
    Withdrawn(String),
}

impl NoKeys {
    /// The reason.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Failed(why) | Self::Withdrawn(why) => why,
        }
    }

    /// The same, with its reason in other words.
    fn said(self, say: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Failed(why) => Self::Failed(say(why)),
            Self::Withdrawn(why) => Self::Withdrawn(say(why)),
        }
    }
}

impl From<String> for NoKeys {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// What was learned of a source; nothing, if nobody asks for it any more.
pub type News = (KeySource, Option<Fetched>);

/// All that was learned.
pub type Learned = BTreeMap<KeySource, Fetched>;

/// Reads a set of keys of which at least one can be used.
///
/// # Errors
/// Why there is none.
pub(crate) fn usable(jwks: &str) -> Result<Keys, String> {
    let keys = Keys::parse(jwks).map_err(|error| error.to_string())?;
    match without(&keys) {
        Some(why) => Err(why),
        None => Ok(keys),
    }
}

/// Why there is no key in a set that can be used, if there is none.
fn without(keys: &Keys) -> Option<String> {
    match keys.unusable() {
        _ if !keys.is_empty() => None,
        [(place, why), ..] => Some(format!("none of its keys can be used, as keys[{place}]: {why}")),
        [] => Some("it has no keys".into()),
    }
}
