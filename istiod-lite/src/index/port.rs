//! Ports of services: the application protocol they speak and where they end in a pod.

use ambit_api::workload::AppProtocol;
use k8s_openapi::api::core::v1::{Service, ServicePort as KubernetesPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::source::Pod;

/// Where a service port ends in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// That number.
    Number(u16),
    /// The container port of that name, which each pod may number otherwise.
    Name(String),
}

/// A TCP port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; `None` on a service with a single unnamed port.
    pub name: Option<String>,
    /// The number clients dial.
    pub port: u16,
    /// The number in the pod.
    pub target: TargetPort,
    /// What is spoken, from `appProtocol` or the port's name; `Unknown` when neither tells.
    pub protocol: AppProtocol,
}

impl ServicePort {
    /// The TCP ports of a service, in the order written. UDP and SCTP ports are none of the mesh's concern.
    #[must_use]
    pub fn all_of(service: &Service) -> Vec<Self> {
        let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
        ports.iter().filter_map(Self::read).collect()
    }

    fn read(port: &KubernetesPort) -> Option<Self> {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            return None;
        }
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0)?;
        let target = match &port.target_port {
            None | Some(IntOrString::Int(0)) => TargetPort::Number(number),
            Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok()?),
            Some(IntOrString::String(name)) => name.parse().map_or_else(|_| TargetPort::Name(name.clone()), TargetPort::Number),
        };
        Some(Self { name: port.name.clone(), port: number, target, protocol: app_protocol(port) })
    }

    /// The number of this port in a pod; `None` when the pod has no container port of the name.
    #[must_use]
    pub fn target_in(&self, pod: &Pod) -> Option<u16> {
        match &self.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => {
                let spec = pod.spec.as_ref()?;
                // Native sidecars are init containers that keep running, and may serve ports too.
                let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
                let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
                let port = ports.find(|port| {
                    port.name.as_deref() == Some(name) && port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
                })?;
                u16::try_from(port.container_port).ok()
            }
        }
    }
}

/// `appProtocol` decides, else the first word of the port's name (Istio's protocol selection rules).
fn app_protocol(port: &KubernetesPort) -> AppProtocol {
    if let Some(explicit) = port.app_protocol.as_deref() {
        return protocol_named(&explicit.to_ascii_lowercase());
    }
    let name = port.name.as_deref().unwrap_or_default();
    // `grpc-web` is the one protocol name with a dash in it; it is carried as HTTP.
    if name == "grpc-web" || name.starts_with("grpc-web-") {
        return AppProtocol::Http11;
    }
    protocol_named(name.split('-').next().unwrap_or_default())
}

pub(super) fn protocol_named(word: &str) -> AppProtocol {
    match word {
        "http" | "grpc-web" | "kubernetes.io/ws" => AppProtocol::Http11,
        "http2" | "kubernetes.io/h2c" => AppProtocol::Http2,
        "grpc" => AppProtocol::Grpc,
        "tcp" | "mongo" | "mysql" | "redis" => AppProtocol::Tcp,
        "tls" | "https" | "kubernetes.io/wss" => AppProtocol::Tls,
        _ => AppProtocol::Unknown,
    }
}
