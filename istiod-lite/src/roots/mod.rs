//! Where the roots of a mesh on Kubernetes come from, how they change, and how they reach every namespace.
//!
//! | module | purpose |
//! |---|---|
//! | `issuer` | an issuer as Secrets hold one, read and checked |
//! | `rotation` | how roots change without a connection that fails: a pure state machine |
//! | `secret` | the Secret that keeps its state, and the Secret of a plug-in CA |
//! | `keeper` | reads both, has the authority follow, and (on the leader) writes the next state |
//! | `publish` | the ConfigMaps with the roots in every namespace (on the leader) |
//! | `pauses` | between the attempts of a watch that fails |
//! | `report` | what people are shown |
//! | [`remote`] | the same, and the wish for another root, without the control plane |

mod issuer;
mod keeper;
pub(crate) mod pauses;
mod publish;
pub mod remote;
mod report;
mod rotation;
mod secret;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ambit_identity::TrustDomain;

pub use keeper::{Roots, View};
pub use report::{IssuerReport, Report, RootReport};
pub use rotation::Phase;
pub use secret::{AT_ONCE, ROTATE};

/// The Secret that the control plane keeps its issuers in.
pub const STATE: &str = "ambit-ca";
/// The Secret of a plug-in CA (wire contract, section 3).
pub const CACERTS: &str = "cacerts";
/// The ConfigMap with the roots, in every namespace (wire contract, section 3).
pub const CONFIG_MAP: &str = "istio-ca-root-cert";
/// Its key.
pub const CONFIG_MAP_KEY: &str = "root-cert.pem";
/// The ConfigMap with revocation lists, in every namespace once there are any.
pub const CRL_CONFIG_MAP: &str = "istio-ca-crl";

/// Why the roots of a mesh cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A Secret does not hold what it must.
    #[error("Secret {secret}, key {key}: {what}")]
    Secret {
        /// Namespace and name.
        secret: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it, and the fix.
        what: String,
    },
    /// The API server refused or does not answer.
    #[error("{doing}: {cause}")]
    Api {
        /// What was tried.
        doing: String,
        /// Its answer.
        cause: String,
    },
    /// A new root cannot be made or written down.
    #[error("cannot make a root: {0}")]
    New(String),
    /// A key cannot be generated.
    #[error(transparent)]
    Tls(#[from] ambit_tls::TlsError),
}

/// What the roots depend on.
#[derive(Debug, Clone)]
pub struct RootsConfig {
    /// The root namespace: where the Secrets are.
    pub namespace: String,
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The longest life of a certificate.
    pub life: Duration,
    /// What is added to each wait of a rotation: for replicas that learn of a step late, and until a ConfigMap is a file in a pod.
    pub margin: Duration,
}

impl RootsConfig {
    /// With five minutes as the margin: kubelet refreshes files within two, and a replica without the API server lets nobody in after one.
    #[must_use]
    pub fn new(namespace: impl Into<String>, trust_domain: TrustDomain, life: Duration) -> Self {
        Self { namespace: namespace.into(), trust_domain, life, margin: Duration::from_mins(5) }
    }
}
