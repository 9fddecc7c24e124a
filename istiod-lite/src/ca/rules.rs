//! For which identity a caller may have a certificate (ambient wire contract, section 3). A pure decision over the index.

use std::collections::BTreeSet;

use ambit_identity::{SpiffeId, TrustDomain};

use super::Caller;
use crate::source::Pod;
use crate::{
    config::Account,
    index::{self, Index},
    source::NamespacedName,
};

/// Why a caller gets no certificate. Each is a sentence for the log of the control plane.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token names no pod, so nothing says where the caller runs.
    #[error("the token of {0} is not bound to a pod")]
    NoPod(Account),
    /// The pod of the token does not exist (any more).
    #[error("the token's pod {0} does not exist")]
    UnknownPod(NamespacedName),
    /// There is a pod of that name, but another one.
    #[error("the token is for pod {pod} with uid {token:?}, the pod of that name has uid {actual:?}")]
    OtherPod {
        /// The pod.
        pod: NamespacedName,
        /// What the token says.
        token: String,
        /// What is so.
        actual: String,
    },
    /// The pod does not run under the token's service account.
    #[error("the token is for service account {account}, its pod {pod} runs under {actual:?}")]
    OtherAccount {
        /// The pod.
        pod: NamespacedName,
        /// What the token says.
        account: Account,
        /// What is so.
        actual: String,
    },
    /// The pod of the token has ended.
    #[error("the token's pod {0} has ended")]
    EndedPod(NamespacedName),
    /// The pod of the token runs elsewhere than the token says.
    #[error("the token is for node {token:?}, its pod {pod} runs on {actual:?}")]
    OtherNode {
        /// The pod.
        pod: NamespacedName,
        /// What the token says.
        token: String,
        /// What is so.
        actual: String,
    },
    /// The caller may ask for its own identity only.
    #[error("{0} is not a node account, so it may not ask for {1}")]
    NotANode(Account, SpiffeId),
    /// The identity is of another trust domain.
    #[error("{0} is not in the trust domain {1}")]
    OtherTrustDomain(SpiffeId, TrustDomain),
    /// The caller's pod is not scheduled, so it has no node.
    #[error("the caller's pod {0} has no node")]
    Unscheduled(NamespacedName),
    /// Nothing on the caller's node runs under the identity.
    #[error("no running pod on node {node:?} has the identity {id}")]
    NotOnNode {
        /// The identity.
        id: SpiffeId,
        /// The caller's node.
        node: String,
    },
}

impl Denied {
    /// Whether the next change of the mesh may turn this into consent: the caller may know of a pod before we do.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::UnknownPod(_) | Self::NotOnNode { .. } | Self::Unscheduled(_) | Self::OtherPod { .. })
    }
}

/// The rules with their configuration.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The trust domain of every identity signed for.
    pub trust_domain: TrustDomain,
    /// Accounts that may ask in the name of the workloads on their node.
    pub node_accounts: BTreeSet<Account>,
}

impl Rules {
    /// The identity that the certificate is for: the caller's own, or `impersonated` if the caller may have it.
    ///
    /// # Errors
    /// The first rule that says no.
    pub fn decide(&self, index: &Index, caller: &Caller, impersonated: Option<&SpiffeId>) -> Result<SpiffeId, Denied> {
        let (name, pod) = real_pod(index, caller)?;
        let own = SpiffeId::new(self.trust_domain.clone(), caller.account.namespace.clone(), caller.account.name.clone());
        let Some(id) = impersonated.filter(|id| **id != own) else { return Ok(own) };
        if *id.trust_domain() != self.trust_domain {
            return Err(Denied::OtherTrustDomain(id.clone(), self.trust_domain.clone()));
        }
        if !self.node_accounts.contains(&caller.account) {
            return Err(Denied::NotANode(caller.account.clone(), id.clone()));
        }
        let node = node_of(pod).ok_or(Denied::Unscheduled(name))?;
        let first = NamespacedName::new(id.namespace().as_str(), "");
        let mut pods = index.objects().pods.range(first..).take_while(|(key, _)| *key.namespace == *id.namespace().as_str());
        let runs_here = pods.any(|(_, pod)| {
            node_of(pod) == Some(node) && index::service_account(pod) == id.service_account().as_str() && !index::has_ended(pod)
        });
        if runs_here { Ok(id.clone()) } else { Err(Denied::NotOnNode { id: id.clone(), node: node.to_owned() }) }
    }
}

/// The pod of the caller's token, if everything the token says of it is true.
fn real_pod<'a>(index: &'a Index, caller: &Caller) -> Result<(NamespacedName, &'a Pod), Denied> {
    let token = caller.pod.as_ref().ok_or_else(|| Denied::NoPod(caller.account.clone()))?;
    let name = NamespacedName::new(caller.account.namespace.as_str(), token.name.as_str());
    let Some(pod) = index.objects().pods.get(&name) else { return Err(Denied::UnknownPod(name)) };
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if uid != token.uid {
        return Err(Denied::OtherPod { pod: name, token: token.uid.clone(), actual: uid.to_owned() });
    }
    let account = index::service_account(pod);
    if account != caller.account.name.as_str() {
        return Err(Denied::OtherAccount { pod: name, account: caller.account.clone(), actual: account.to_owned() });
    }
    if index::has_ended(pod) {
        return Err(Denied::EndedPod(name));
    }
    match (&caller.node, node_of(pod)) {
        (Some(token), Some(actual)) if token != actual => {
            Err(Denied::OtherNode { pod: name, token: token.clone(), actual: actual.to_owned() })
        }
        _ => Ok((name, pod)),
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}
