//! The `networking.istio.io` custom resources that name services and workloads which Kubernetes does not know.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Hosts that the mesh knows besides the services of Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct ServiceEntry {
    /// Object metadata.
    pub metadata: ObjectMeta,
    /// What is said of the hosts.
    pub spec: ServiceEntrySpec,
    /// What was made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ServiceEntryStatus>,
}

/// The wish of a [`ServiceEntry`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntrySpec {
    /// DNS names; one with the first label `*` stands for all below it.
    pub hosts: Vec<String>,
    /// Virtual addresses of all hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EntryPort>,
    /// Whether it is part of the mesh.
    pub location: Location,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Endpoints, given here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Pods and WorkloadEntries of the namespace as endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_selector: Option<EntrySelector>,
    /// Namespaces that see it: `*` (or nothing) for all, `.` for its own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub export_to: Vec<String>,
    /// Identities that endpoints may show besides their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
}

/// A port of a [`ServiceEntry`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EntryPort {
    /// The number clients dial.
    pub number: i32,
    /// What is spoken, such as `HTTP` or `TLS`.
    #[serde(default)]
    pub protocol: String,
    /// Its name.
    pub name: String,
    /// The number at the endpoints, when another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<i32>,
}

/// Whether a host is part of the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside.
    #[default]
    MeshExternal,
    /// Part of it.
    MeshInternal,
}

/// How the endpoints of a host are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// The address that the client dials is the endpoint.
    #[default]
    None,
    /// At the addresses given.
    Static,
    /// By the names given, or the host's own.
    Dns,
    /// As `DNS`; the difference is how Envoy keeps the answers.
    DnsRoundRobin,
    /// By the name that each request asks for.
    DynamicDns,
}

impl Resolution {
    /// Whether endpoints are looked up by their names.
    #[must_use]
    pub fn by_name(self) -> bool {
        matches!(self, Self::Dns | Self::DnsRoundRobin)
    }
}

/// Pods and WorkloadEntries by their labels.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct EntrySelector {
    /// Labels, all of which must be equal.
    pub labels: BTreeMap<String, String>,
}

/// Status of a [`ServiceEntry`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntryStatus {
    /// Conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<EntryCondition>,
    /// Virtual addresses that somebody allocated for hosts without any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<AllocatedAddress>,
    /// What Istio's analysis found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation_messages: Vec<Value>,
    /// Generation the status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<Value>,
}

/// A virtual address that was allocated for a host.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct AllocatedAddress {
    /// The address.
    pub value: String,
    /// The host; empty for all of the entry.
    pub host: String,
}

/// A condition of Istio's own kinds; other than those of Kubernetes, it may lack everything.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EntryCondition {
    /// Its type.
    pub r#type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// When it was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Value>,
    /// When it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Value>,
    /// Generation it speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<Value>,
}

/// A workload that is no pod, such as a virtual machine.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub struct WorkloadEntry {
    /// Object metadata; its labels are what services select by, together with those of the spec.
    pub metadata: ObjectMeta,
    /// What is said of it.
    pub spec: WorkloadEntrySpec,
    /// What was found of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<WorkloadEntryStatus>,
}

/// A workload as a [`WorkloadEntry`] or an endpoint of a [`ServiceEntry`] describes it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntrySpec {
    /// An IP address, or a host name where those are looked up.
    pub address: String,
    /// Numbers of the service's ports at this endpoint, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, i32>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its network.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub network: String,
    /// `region/zone/subzone`, the latter two optional.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub locality: String,
    /// Share of connections, in proportion to others; nothing counts as 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The account of its identity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account: String,
}

/// Status of a [`WorkloadEntry`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntryStatus {
    /// Conditions; `Healthy` is heeded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<EntryCondition>,
    /// What Istio's analysis found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation_messages: Vec<Value>,
    /// Generation the status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<Value>,
}
