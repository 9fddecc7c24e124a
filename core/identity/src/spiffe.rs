//! The identity of a workload.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{IdentityError, Namespace, ServiceAccount, TrustDomain};

/// A workload's identity, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Namespace,
    service_account: ServiceAccount,
}

impl SpiffeId {
    /// Puts an identity together from its parts.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, namespace: Namespace, service_account: ServiceAccount) -> Self {
        Self { trust_domain, namespace, service_account }
    }

    /// The root of trust.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The namespace of the workload.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The service account of the workload.
    #[must_use]
    pub fn service_account(&self) -> &ServiceAccount {
        &self.service_account
    }

    /// Whether there is a clone of it, or of its service account, somewhere.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.service_account.is_shared()
    }

    /// The identity as policies write it: without `spiffe://`.
    #[must_use]
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let rest = text.strip_prefix("spiffe://").ok_or(IdentityError::Form)?;
        let mut parts = rest.split('/');
        let mut next = || parts.next().ok_or(IdentityError::Form);
        let (trust_domain, ns, namespace, sa, service_account) = (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || parts.next().is_some() {
            return Err(IdentityError::Form);
        }
        Ok(Self::new(trust_domain.parse()?, namespace.parse()?, service_account.parse()?))
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = IdentityError;
    fn try_from(text: String) -> Result<Self, IdentityError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_it_is_written() {
        let text = "spiffe://cluster.local/ns/shop/sa/web";
        let id: SpiffeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web");
        assert_eq!(id.namespace().as_str(), "shop");
    }

    #[test]
    fn a_text_that_is_nearly_an_identity_is_refused() {
        for text in [
            "",
            "cluster.local/ns/shop/sa/web",
            "SPIFFE://cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web/",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/web",
            "spiffe:///ns/shop/sa/web",
            "spiffe://cluster.local/sa/web/ns/shop",
            "spiffe://Cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local:80/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/web?x=1",
            "spiffe://cluster.local/ns/shop/sa/w%65b",
            "spiffe://cluster.local/ns/shop/sa/web\u{0}",
            "spiffe://user@cluster.local/ns/shop/sa/web",
            "spiffe://cluster.local/ns/shop/sa/..",
            "spiffe://./ns/shop/sa/web",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was taken for an identity");
        }
    }
}
