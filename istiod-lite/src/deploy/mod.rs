//! Waypoints as resources: a Gateway of a waypoint class, or at the edge of the mesh, becomes a ServiceAccount, a Service and a Deployment, and on request a
//! PodDisruptionBudget and a HorizontalPodAutoscaler.
//!
//! [`desired`] is a pure function of the Gateway, its parameters and the [`Options`]. The [`Deployer`] holds what it gives against
//! what `owned` shows to be there, and writes the difference by server-side apply.

mod apply;
#[cfg(test)]
pub(crate) mod bed;
mod class;
#[cfg(test)]
mod cluster_tests;
mod compare;
mod desired;
mod options;
mod owned;
mod parameters;
mod pod;
mod reports;
mod role;
#[cfg(test)]
mod tests;
mod writer;

use kube::core::discovery::ApiResource;
use serde_json::Value;

pub use compare::covers;
pub use desired::{desired, made};
pub use options::{Options, PullPolicy};
pub use parameters::Parameters;
pub use reports::{Deployed, Reports};
pub use role::{Role, SERVICE_TYPE};
pub use writer::Deployer;

use std::sync::Arc;

use crate::mesh::Mesh;
use crate::source::NamespacedName;
use crate::status::Writer;

/// Deploys waypoints and writes status until it is dropped; for the leader.
pub async fn write(client: kube::Client, mesh: Arc<Mesh>, options: Options) {
    let (deployer, reports) = Deployer::new(client.clone(), Arc::clone(&mesh), options);
    tokio::join!(deployer.run(), Writer::new(client, mesh, reports).run());
}

/// The field manager of all that is applied, and the value of the label that marks it.
pub const MANAGER: &str = "istiod-lite";
/// Label on everything that is made for Gateways.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The Gateway's class, as a label of what is made for it.
pub const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
/// Annotation: a hash of what was applied, by which what is no longer wished for is noticed.
pub const APPLIED: &str = "ambit.dev/applied";
/// The class of waypoints.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";

/// What a waypoint is made of, in the order in which it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The identity it runs as.
    ServiceAccount,
    /// The address it is reached at.
    Service,
    /// Its pods.
    Deployment,
    /// How many of them may be away for maintenance.
    PodDisruptionBudget,
    /// How many of them there are, by load.
    HorizontalPodAutoscaler,
}

impl Part {
    /// All parts, in the order in which they are made.
    pub const ALL: [Self; 5] =
        [Self::ServiceAccount, Self::Service, Self::Deployment, Self::PodDisruptionBudget, Self::HorizontalPodAutoscaler];

    /// API group, version, kind and plural.
    fn api(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::ServiceAccount => ("", "v1", "ServiceAccount", "serviceaccounts"),
            Self::Service => ("", "v1", "Service", "services"),
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::PodDisruptionBudget => ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
            Self::HorizontalPodAutoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
        }
    }

    /// Its kind, as written in YAML.
    #[must_use]
    pub fn kind(self) -> &'static str {
        self.api().2
    }

    /// Its `apiVersion`.
    #[must_use]
    pub fn api_version(self) -> String {
        let (group, version, ..) = self.api();
        if group.is_empty() { version.into() } else { format!("{group}/{version}") }
    }

    /// Where the API server has it.
    fn resource(self) -> ApiResource {
        let (group, version, kind, plural) = self.api();
        ApiResource {
            group: group.into(),
            version: version.into(),
            api_version: self.api_version(),
            kind: kind.into(),
            plural: plural.into(),
        }
    }
}

/// An object as it should be: exactly the fields that are applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Which part of the waypoint it is.
    pub part: Part,
    /// Its namespace and name, those of the Gateway.
    pub name: NamespacedName,
    /// The whole object.
    pub value: Value,
}
