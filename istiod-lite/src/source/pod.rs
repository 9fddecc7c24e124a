//! Pods as they are kept: a cluster has tens of thousands, and of the API's own type one takes some kilobytes even where nothing is set.

use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A pod, with the fields that are read; they are named as in the API. All others are read as well, so that what is wrong in them is said.
#[derive(Debug, Clone, Default, PartialEq, serde::Deserialize)]
#[serde(from = "v1::Pod")]
#[expect(missing_docs, reason = "the fields are those of the API")]
pub struct Pod {
    pub metadata: ObjectMeta,
    pub spec: Option<PodSpec>,
    pub status: Option<PodStatus>,
}

/// `spec` of a [`Pod`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the API")]
pub struct PodSpec {
    pub service_account_name: Option<String>,
    pub service_account: Option<String>,
    pub node_name: Option<String>,
    pub host_network: Option<bool>,
    pub containers: Vec<Container>,
    pub init_containers: Option<Vec<Container>>,
}

/// A container of a [`Pod`]. What it runs is there where pods come from a directory, and are run without a cluster.
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the API")]
pub struct Container {
    pub name: String,
    pub command: Option<Vec<String>>,
    pub args: Option<Vec<String>>,
    pub env: Option<Vec<v1::EnvVar>>,
    pub ports: Option<Vec<ContainerPort>>,
    pub readiness_probe: Option<Box<v1::Probe>>,
}

/// A port of a [`Container`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the API")]
pub struct ContainerPort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub container_port: i32,
}

/// `status` of a [`Pod`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the API")]
pub struct PodStatus {
    pub phase: Option<String>,
    pub pod_ip: Option<String>,
    pub pod_ips: Option<Vec<v1::PodIP>>,
    pub conditions: Option<Vec<PodCondition>>,
}

/// A condition of a [`Pod`].
#[derive(Debug, Clone, Default, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of the API")]
pub struct PodCondition {
    pub type_: String,
    pub status: String,
}

impl From<v1::Pod> for Pod {
    fn from(pod: v1::Pod) -> Self {
        Self { metadata: pod.metadata, spec: pod.spec.map(PodSpec::from), status: pod.status.map(PodStatus::from) }
    }
}

impl From<v1::PodSpec> for PodSpec {
    fn from(spec: v1::PodSpec) -> Self {
        let containers = |containers: Vec<v1::Container>| containers.into_iter().map(Container::from).collect::<Vec<_>>();
        Self {
            service_account_name: spec.service_account_name,
            service_account: spec.service_account,
            node_name: spec.node_name,
            host_network: spec.host_network,
            containers: containers(spec.containers),
            init_containers: spec.init_containers.map(containers),
        }
    }
}

impl From<v1::Container> for Container {
    fn from(container: v1::Container) -> Self {
        let port = |port: v1::ContainerPort| ContainerPort {
            name: port.name,
            protocol: port.protocol,
            container_port: port.container_port,
        };
        Self {
            name: container.name,
            command: container.command,
            args: container.args,
            env: container.env,
            ports: container.ports.map(|ports| ports.into_iter().map(port).collect()),
            readiness_probe: container.readiness_probe.map(Box::new),
        }
    }
}

impl From<v1::PodStatus> for PodStatus {
    fn from(status: v1::PodStatus) -> Self {
        let condition = |condition: v1::PodCondition| PodCondition { type_: condition.type_, status: condition.status };
        Self {
            phase: status.phase,
            pod_ip: status.pod_ip,
            pod_ips: status.pod_ips,
            conditions: status.conditions.map(|conditions| conditions.into_iter().map(condition).collect()),
        }
    }
}
