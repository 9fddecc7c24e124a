//! Who may have waypoints tell what becomes of requests of theirs: `ambitExplain`, of which Istio knows nothing.

use ambit_identity::{Namespace, ServiceAccount, SpiffeId, TrustDomain};
use serde::Deserialize;
use serde_json::Value;

/// The key in the configuration of the mesh.
pub(super) const KEY: &str = "ambitExplain";

/// An administrator of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Administrator {
    /// A service account, in the trust domain of the mesh.
    Account(Namespace, ServiceAccount),
    /// An identity of any trust domain.
    Identity(SpiffeId),
}

impl Administrator {
    /// The identity that it proves in a mesh of this trust domain.
    #[must_use]
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        match self {
            Self::Account(namespace, account) => SpiffeId::new(trust_domain.clone(), namespace.clone(), account.clone()),
            Self::Identity(identity) => identity.clone(),
        }
    }
}

/// What is read of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Administrators {
    /// All of them.
    pub named: Vec<Administrator>,
    /// Why there are none, where something else is written.
    pub wrong: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Settings {
    #[serde(default)]
    administrators: Vec<String>,
}

/// Reads the value of the key. One who cannot be read leaves nobody: who has made the list has to look at it.
pub(super) fn read(settings: Option<Value>) -> Administrators {
    match settings {
        None | Some(Value::Null) => Administrators::default(),
        Some(settings) => match all(settings) {
            Ok(named) => Administrators { named, wrong: None },
            Err(why) => Administrators { named: Vec::new(), wrong: Some(format!("{KEY}{why}")) },
        },
    }
}

/// The error begins behind the key.
fn all(settings: Value) -> Result<Vec<Administrator>, String> {
    let settings: Settings = serde_json::from_value(settings).map_err(|error| format!(": {error}"))?;
    let each = settings.administrators.iter().enumerate();
    each.map(|(index, text)| one(text).ok_or_else(|| refused(index, text))).collect()
}

fn refused(index: usize, text: &str) -> String {
    format!(
        ".administrators[{index}]: {text:?} is neither NAMESPACE/SERVICEACCOUNT nor spiffe://DOMAIN/ns/NAMESPACE/sa/SERVICEACCOUNT"
    )
}

fn one(text: &str) -> Option<Administrator> {
    if text.starts_with("spiffe:") {
        return text.parse().ok().map(Administrator::Identity);
    }
    let (namespace, account) = text.split_once('/')?;
    Some(Administrator::Account(namespace.parse().ok()?, account.parse().ok()?))
}
