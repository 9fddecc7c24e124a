//! What the user asks for: the Kubernetes objects of the watched directory, as a kubelet and its scheduler look at them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::gateways::Gateway;
use istiod_lite::deploy::WAYPOINT_CLASS;
use istiod_lite::index::INGRESS_CLASS;
use istiod_lite::index::label::DATAPLANE_MODE;
use istiod_lite::source::{self, Event, NamespacedName, Object, ObjectKey, Pod};
use k8s_openapi::api::core::v1::{Namespace, Probe, Service};

/// Annotation of pods: programs that must be installed on the machine, separated by commas.
const PROGRAMS: &str = "local.ambit.dev/programs";

/// The objects of the watched directory that matter to a node.
#[derive(Debug, Default)]
pub struct Cluster {
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    pods: BTreeMap<NamespacedName, Arc<Pod>>,
    services: BTreeMap<NamespacedName, Arc<Service>>,
    gateways: BTreeMap<NamespacedName, Arc<Gateway>>,
    others: BTreeMap<ObjectKey, Object>,
}

impl Cluster {
    /// Takes one change in.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Upsert(object) => {
                let name = object.key().name;
                match object {
                    Object::Namespace(namespace) => _ = self.namespaces.insert(name.name, namespace),
                    Object::Pod(pod) => _ = self.pods.insert(name, pod),
                    Object::Service(service) => _ = self.services.insert(name, service),
                    Object::Gateway(gateway) => _ = self.gateways.insert(name, gateway),
                    other => _ = self.others.insert(other.key(), other),
                }
            }
            Event::Delete(key) => {
                use istiod_lite::source::Kind;
                match key.kind {
                    Kind::Namespace => _ = self.namespaces.remove(&key.name.name),
                    Kind::Pod => _ = self.pods.remove(&key.name),
                    Kind::Service => _ = self.services.remove(&key.name),
                    Kind::Gateway => _ = self.gateways.remove(&key.name),
                    _ => _ = self.others.remove(&key),
                }
            }
        }
    }

    /// All pods, in the order of their names.
    pub fn pods(&self) -> &BTreeMap<NamespacedName, Arc<Pod>> {
        &self.pods
    }

    /// All services, in the order of their names.
    pub fn services(&self) -> &BTreeMap<NamespacedName, Arc<Service>> {
        &self.services
    }

    /// The Gateways that a proxy serves which runs for them: waypoints, and those at the edge of the mesh.
    pub fn served(&self) -> impl Iterator<Item = &NamespacedName> {
        self.of_class(|class| class == WAYPOINT_CLASS || class == INGRESS_CLASS)
    }

    /// The Gateways that ask for a waypoint.
    pub fn waypoints(&self) -> impl Iterator<Item = &NamespacedName> {
        self.of_class(|class| class == WAYPOINT_CLASS)
    }

    /// Whether a Gateway is at the edge of the mesh.
    pub fn is_edge(&self, name: &NamespacedName) -> bool {
        self.gateways.get(name).is_some_and(|gateway| gateway.spec.gateway_class_name == INGRESS_CLASS)
    }

    fn of_class(&self, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = &NamespacedName> {
        self.gateways.iter().filter(move |(_, gateway)| is_wanted(&gateway.spec.gateway_class_name)).map(|(name, _)| name)
    }

    /// Those of them that nobody has told yet where they are reached.
    pub fn waypoints_without_address(&self) -> impl Iterator<Item = &NamespacedName> {
        let addressed = |gateway: &Gateway| gateway.status.as_ref().is_some_and(|status| status.addresses.is_some());
        self.waypoints().filter(move |name| self.gateways.get(*name).is_some_and(|gateway| !addressed(gateway)))
    }

    /// Whether the mesh is to carry the pod's traffic: its own label, else its namespace's.
    pub fn is_enrolled(&self, name: &NamespacedName) -> bool {
        let Some(pod) = self.pods.get(name) else { return false };
        if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
            return false;
        }
        let own = pod.metadata.labels.as_ref().and_then(|labels| labels.get(DATAPLANE_MODE));
        let namespace = self.namespaces.get(&name.namespace);
        let inherited = namespace.and_then(|namespace| namespace.metadata.labels.as_ref()?.get(DATAPLANE_MODE));
        own.or(inherited).is_some_and(|mode| mode == "ambient")
    }

    /// The nodes that pods name, or one if none is named.
    pub fn nodes(&self) -> BTreeSet<String> {
        let mut nodes: BTreeSet<String> = self.pods.values().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect();
        if nodes.is_empty() {
            nodes.insert("node-1".to_owned());
        }
        nodes
    }
}

/// What a pod runs, and how it is known that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// One entry for each container: its name, command line and environment.
    pub containers: Vec<Container>,
    /// Node asked for.
    pub node: Option<String>,
    /// Service account.
    pub service_account: String,
    /// Ports that must accept connections before the pod is ready (from readiness probes).
    pub probes: Vec<u16>,
    /// Programs that the machine must have, as there are no images: the annotation `local.ambit.dev/programs`, else the commands.
    pub needs: Vec<String>,
}

/// One program of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Name in the pod.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment with given values.
    pub env: Vec<(String, String)>,
}

impl PodPlan {
    /// What the pod's specification asks for; containers without a command have nothing that could be run without images.
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut probes = Vec::new();
        let mut containers = Vec::new();
        for container in spec.containers {
            if let Some(port) = container.readiness_probe.as_deref().and_then(|probe| probe_port(probe, &container)) {
                probes.push(port);
            }
            let command: Vec<String> =
                container.command.into_iter().flatten().chain(container.args.into_iter().flatten()).collect();
            let env = container.env.into_iter().flatten().filter_map(|variable| Some((variable.name, variable.value?)));
            if !command.is_empty() {
                containers.push(Container { name: container.name, command, env: env.collect() });
            }
        }
        let service_account = spec.service_account_name.or(spec.service_account).filter(|name| !name.is_empty());
        let service_account = service_account.unwrap_or_else(|| "default".to_owned());
        let annotated = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PROGRAMS));
        let commands = containers.iter().filter_map(|container: &Container| container.command.first().cloned());
        let needs = match annotated {
            Some(programs) => programs.split(',').map(|program| program.trim().to_owned()).collect(),
            None => commands.collect(),
        };
        Self { containers, node: spec.node_name, service_account, probes, needs }
    }
}

fn probe_port(probe: &Probe, container: &source::Container) -> Option<u16> {
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    let tcp = probe.tcp_socket.as_ref().map(|action| &action.port);
    let port = tcp.or(probe.http_get.as_ref().map(|action| &action.port))?;
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: &str) -> Arc<Pod> {
        Arc::new(serde_saphyr::from_str(text).unwrap())
    }

    fn cluster(namespace_mode: &str, pod_mode: &str) -> Cluster {
        let mut cluster = Cluster::default();
        let namespace = format!("{{metadata: {{name: shop, labels: {{istio.io/dataplane-mode: {namespace_mode}}}}}}}");
        cluster.apply(Event::Upsert(Object::Namespace(Arc::new(serde_saphyr::from_str(&namespace).unwrap()))));
        let labels = if pod_mode.is_empty() { "{}".into() } else { format!("{{istio.io/dataplane-mode: {pod_mode}}}") };
        let pod = pod(&format!("{{metadata: {{name: web, namespace: shop, labels: {labels}}}}}"));
        cluster.apply(Event::Upsert(Object::Pod(pod)));
        cluster
    }

    #[test]
    fn a_pods_own_label_goes_before_its_namespaces() {
        let name = NamespacedName::new("shop", "web");
        for (namespace, pod, enrolled) in
            [("ambient", "", true), ("ambient", "none", false), ("none", "", false), ("none", "ambient", true)]
        {
            assert_eq!(cluster(namespace, pod).is_enrolled(&name), enrolled, "{namespace}/{pod}");
        }
    }

    #[test]
    fn a_plan_has_the_commands_and_the_probed_ports() {
        let plan =
            PodPlan::of(&pod("{metadata: {name: a}, spec: {nodeName: n2, containers: [{name: c, command: [sh, -c], args: [x], \
             env: [{name: A, value: b}], ports: [{name: http, containerPort: 80}], \
             readinessProbe: {tcpSocket: {port: http}}}, {name: image-only}]}}"));
        assert_eq!(plan.containers.len(), 1);
        assert_eq!(plan.containers[0].command, ["sh", "-c", "x"]);
        assert_eq!(plan.containers[0].env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!((plan.node.as_deref(), plan.probes.as_slice()), (Some("n2"), &[80][..]));
        assert_eq!(plan.service_account, "default");
    }
}
