//! What an API server, a scheduler and kubelets would add to the user's YAML: addresses, nodes, readiness, capture, waypoints. Nothing is
//! added to an object that says it already, so that what was exported from a cluster is taken as it is.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ambit_testbed::Families;
use istiod_lite::index::pod_addresses;
use istiod_lite::source::{Event, NamespacedName};

use crate::error::Result;
use crate::local::cluster::{Cluster, PodPlan};
use crate::local::objects::{self, Capture, PodReport};
use crate::local::overlay::Overlay;
use crate::local::vips::Vips;

/// First addresses of the ranges that pods without an address get theirs of: 10.244.0.0/16 and fd44::/64.
const PODS: (u32, u128) = (u32::from_be_bytes([10, 244, 0, 0]), 0xfd44_u128 << 112);

/// Writes what is missing beside `events` into `directory`, to be read over them; says what it was.
///
/// # Errors
/// When it cannot be written.
pub(super) fn complete(events: Vec<Event>, directory: PathBuf) -> Result<Vec<String>> {
    let mut cluster = Cluster::default();
    events.into_iter().for_each(|event| cluster.apply(event));
    let mut overlay = Overlay::create(directory)?;
    let mut assumed = Assumed { next_pod: 0, said: Vec::new() };
    let mut vips = Vips::new(Families::Dual);
    let file = |kind: &str, name: &NamespacedName| format!("{kind}.{}.{}", name.namespace, name.name);
    let home = cluster.nodes().into_iter().next().unwrap_or_default();
    let mut pods = 0;
    for (name, pod) in cluster.pods() {
        if !pod_addresses(pod).is_empty() {
            continue;
        }
        let enrolled = cluster.is_enrolled(name);
        let node = PodPlan::of(pod).node.unwrap_or_else(|| home.clone());
        overlay.put(&file("pod", name), &objects::pod(name, &assumed.report(node, enrolled)))?;
        pods += 1;
    }
    let mut services = 0;
    for (name, service) in cluster.services() {
        let asked = service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.is_some() || spec.cluster_ips.is_some());
        let addresses = vips.of(name, service);
        if let (false, Some(object)) = (asked, objects::service(name, &addresses)) {
            overlay.put(&file("service", name), &object)?;
            services += 1;
        }
    }
    for name in cluster.waypoints_without_address() {
        let addresses = vips.take();
        overlay.put(&file("gateway", name), &objects::gateway(name, &addresses))?;
        if let Some(service) = objects::waypoint_service(name, &addresses).filter(|_| !cluster.services().contains_key(name)) {
            overlay.put(&file("service", name), &service)?;
            let report = assumed.report(home.clone(), false);
            let labels = objects::waypoint_labels(&name.name);
            overlay.put(&file("pod", name), &objects::system_pod(name, &labels, &name.name, "istio-proxy", &report))?;
        }
        assumed.said.push(format!("the waypoint {name} runs and is ready (its Gateway has no status)"));
    }
    if pods > 0 {
        assumed.said.push(format!("{pods} pods run, are ready, and are captured where labels say so (they have no status)"));
    }
    if services > 0 {
        assumed.said.push(format!("{services} services have an address (the files give none)"));
    }
    Ok(assumed.said)
}

struct Assumed {
    next_pod: u16,
    said: Vec<String>,
}

impl Assumed {
    fn report(&mut self, node: String, enrolled: bool) -> PodReport {
        self.next_pod += 1;
        let number = u32::from(self.next_pod) + 10;
        PodReport {
            uid: format!("assumed-{number}"),
            node,
            host_ips: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            pod_ips: vec![Ipv4Addr::from(PODS.0 + number).into(), Ipv6Addr::from(PODS.1 + u128::from(number)).into()],
            ready: true,
            capture: if enrolled { Capture::Enabled } else { Capture::Off },
        }
    }
}
