//! Who calls: what a verified token says.

use ambit_tls::{
    TlsError,
    token::{Claims, ObjectReference},
};

use crate::config::Account;

/// A verified caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The service account it speaks for.
    pub account: Account,
    /// The pod its token was given to.
    pub pod: Option<ObjectReference>,
    /// The node its token says that the pod runs on.
    pub node: Option<String>,
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.account)?;
        match &self.pod {
            Some(pod) => write!(f, " in pod {}", pod.name)?,
            None => f.write_str(" without a pod")?,
        }
        match &self.node {
            Some(node) => write!(f, " on node {node}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<Claims> for Caller {
    type Error = TlsError;

    fn try_from(claims: Claims) -> Result<Self, TlsError> {
        let (namespace, name) = claims.service_account()?;
        let Claims { kubernetes, .. } = claims;
        Ok(Self { account: Account { namespace, name }, pod: kubernetes.pod, node: kubernetes.node.map(|node| node.name) })
    }
}
