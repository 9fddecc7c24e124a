//! What a proxy decides about a pod of its own before and beside the plan: who the pod is, whether enough is known to decide, whether the
//! proxy was dialled itself, and what a tunnel may reach.

use std::{net::SocketAddr, sync::Arc};

use ambit_identity::SpiffeId;
use serde::Serialize;

use crate::{
    address::port,
    admit::{Admitted, Target, admit},
    reason::{Reason, Refusal},
    state::MeshState,
    workload::Workload,
};

/// How much of what the control plane knows has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Knowledge {
    /// Whether every workload and service has arrived once.
    pub addresses: bool,
    /// Whether every policy has arrived once.
    pub policies: bool,
}

impl Knowledge {
    /// Everything has arrived.
    pub const COMPLETE: Self = Self { addresses: true, policies: true };

    /// Whether it is enough to plan what a pod opens: before every address is known a service, which may ask for a waypoint, would be
    /// taken for the world outside and passed through in clear.
    #[must_use]
    pub const fn can_plan(self) -> bool {
        self.addresses
    }

    /// Whether it is enough to decide who may connect to a pod.
    #[must_use]
    pub const fn can_authorize(self) -> bool {
        self.policies
    }
}

/// A pod as the node agent tells of it.
#[derive(Debug, Clone, Copy)]
pub struct Captured<'a> {
    /// The cluster of the node.
    pub cluster: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// Who it is.
    pub identity: &'a SpiffeId,
}

impl Captured<'_> {
    /// What the control plane tells of this pod. The identity must be the one that the node agent told: a workload of the same name with
    /// another account is an earlier pod.
    #[must_use]
    pub fn workload<'a>(&self, state: &'a MeshState) -> Option<&'a Arc<Workload>> {
        let namespace = self.identity.namespace().as_str();
        let uid = format!("{}//Pod/{namespace}/{}", self.cluster, self.name);
        let by_uid = state.workload(&uid).filter(|workload| workload.identity == *self.identity);
        by_uid.or_else(|| state.pod(namespace, self.name, self.identity))
    }

    /// As a refusal names it.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{}/{}", self.identity.namespace(), self.name)
    }
}

/// The refusal of a connection of a pod that is not known well enough to plan it.
#[must_use]
pub fn source_unknown(pod: &Captured<'_>) -> Refusal {
    Refusal::new(Reason::SourceUnknown, pod.describe())
}

/// The refusal of a connection to a pod that is not known well enough to authorize it.
#[must_use]
pub fn destination_unknown(pod: &Captured<'_>) -> Refusal {
    Refusal::new(Reason::DestinationUnknown, pod.describe())
}

/// Refuses a connection whose original destination is the listener for outbound connections at which it was accepted: by an address that
/// the control plane does not know to be the pod's, it would be passed through to that port for ever.
///
/// # Errors
/// `loop_guard`.
pub fn not_itself(destination: SocketAddr, accepted_at: Option<SocketAddr>) -> Result<(), Refusal> {
    if destination.port() == port::OUTBOUND && accepted_at == Some(destination) { Err(itself(port::OUTBOUND)) } else { Ok(()) }
}

/// The refusal of a connection that dialled a listener of the proxy and was not redirected to it.
#[must_use]
pub fn itself(port: u16) -> Refusal {
    Refusal::new(Reason::LoopGuard, format!("port {port} was dialled itself"))
}

/// Decides whether a tunnel to `workload` may reach `target`, as far as this proxy can carry it there.
///
/// # Errors
/// As [`admit`]; `internal` for what cannot be done yet.
pub fn tunnelled(workload: &Workload, target: &Target) -> Result<Admitted, Refusal> {
    let admitted = admit(workload, target)?;
    if admitted.proxy_protocol {
        // The application waits for a header that we cannot write yet, and would take the first bytes for it.
        return Err(Refusal::new(Reason::Internal, "the PROXY protocol is not supported yet"));
    }
    Ok(admitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::workload;

    #[test]
    fn a_pod_is_known_by_its_name_and_its_identity_together() {
        let mut state = MeshState::new();
        state.insert_workload(workload("web", "10.0.0.1"));
        let [same, other] =
            ["web", "batch"].map(|account| format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap());
        let known = |cluster, identity| Captured { cluster, name: "web", identity }.workload(&state).is_some();
        assert!(known("Kubernetes", &same) && known("elsewhere", &same));
        assert!(!known("Kubernetes", &other));
    }

    #[test]
    fn only_the_listener_itself_is_a_loop() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert_eq!(not_itself(at("10.0.0.1:15001"), Some(at("10.0.0.1:15001"))).unwrap_err().reason, Reason::LoopGuard);
        assert!(not_itself(at("10.0.0.2:15001"), Some(at("10.0.0.1:15001"))).is_ok());
        assert!(not_itself(at("10.0.0.1:15001"), None).is_ok());
    }
}
