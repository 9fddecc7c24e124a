//! A mesh out of nothing: the objects that an API server would list, and one changed pod after the other.

use std::sync::Arc;

use anyhow::Context;
use istiod_lite::source::{Event, Object};
use serde_json::{Value, json};

use super::Size;

/// Pods of one namespace share its name; each has its services, its waypoint if there are enough, and its part of the pods.
#[derive(Debug, Clone)]
pub struct World {
    size: Size,
}

impl World {
    /// So many of each.
    pub fn new(size: Size) -> Self {
        Self { size }
    }

    /// A namespace for each waypoint.
    fn namespaces(&self) -> usize {
        self.size.waypoints.max(1)
    }

    /// The namespace that a waypoint is in.
    pub fn namespace(of: usize) -> String {
        format!("team-{of}")
    }

    /// Everything there is.
    ///
    /// # Errors
    /// When an object cannot be made, which would be a mistake here.
    pub fn objects(&self) -> anyhow::Result<Vec<Event>> {
        let mut events = Vec::new();
        for number in 0..self.namespaces() {
            let name = Self::namespace(number);
            let metadata =
                json!({"name": name, "labels": {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}});
            events.push(upsert(Object::Namespace, json!({"metadata": metadata}))?);
            if number < self.size.waypoints {
                events.push(gateway(&name, number)?);
            }
        }
        for number in 0..self.size.ztunnels {
            let labels = json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": format!("z{}", number % 3)});
            events.push(upsert(Object::Node, json!({"metadata": {"name": node(number), "labels": labels}}))?);
        }
        for number in 0..self.size.services {
            let spec = json!({
                "selector": {"app": app(number)},
                "clusterIP": address(10, number),
                "ports": [{"name": "http", "port": 80, "targetPort": 8080}],
            });
            let metadata = json!({"name": app(number), "namespace": Self::namespace(number % self.namespaces())});
            events.push(upsert(Object::Service, json!({"metadata": metadata, "spec": spec}))?);
        }
        for number in 0..self.size.pods {
            events.push(self.pod(number, true)?);
        }
        Ok(events)
    }

    /// A pod, ready or not.
    ///
    /// # Errors
    /// When it cannot be made, which would be a mistake here.
    pub fn pod(&self, number: usize, ready: bool) -> anyhow::Result<Event> {
        let service = number % self.size.services.max(1);
        let name = format!("{}-7d4b9c6f5-{number:05x}", app(service));
        let metadata = json!({
            "name": name,
            "namespace": Self::namespace(service % self.namespaces()),
            "uid": format!("00000000-0000-0000-0000-{number:012x}"),
            "labels": {"app": app(service), "pod-template-hash": "7d4b9c6f5", "version": "v1"},
            "annotations": {"ambient.istio.io/redirection": "enabled"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{}-7d4b9c6f5", app(service)), "uid": "u", "controller": true,
            }],
        });
        let spec = json!({
            "nodeName": node(number % self.size.ztunnels.max(1)),
            "serviceAccountName": app(service),
            "containers": [{"name": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
        });
        let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        let ip = address(100, number);
        let status = json!({"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions});
        upsert(Object::Pod, json!({"metadata": metadata, "spec": spec, "status": status}))
    }
}

fn gateway(namespace: &str, number: usize) -> anyhow::Result<Event> {
    let spec = json!({
        "gatewayClassName": "istio-waypoint",
        "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
    });
    let status = json!({"addresses": [{"type": "IPAddress", "value": address(11, number)}]});
    upsert(Object::Gateway, json!({"metadata": {"name": "waypoint", "namespace": namespace}, "spec": spec, "status": status}))
}

fn app(service: usize) -> String {
    format!("app-{service}")
}

fn node(number: usize) -> String {
    format!("node-{number}")
}

/// The address of this number below a first byte.
fn address(first: usize, number: usize) -> String {
    format!("{first}.{}.{}.{}", (number >> 16) & 0xff, (number >> 8) & 0xff, number & 0xff)
}

fn upsert<T: serde::de::DeserializeOwned>(wrap: fn(Arc<T>) -> Object, value: Value) -> anyhow::Result<Event> {
    Ok(Event::Upsert(wrap(Arc::new(serde_json::from_value(value).context("an object of the synthetic mesh")?))))
}
