//! All routes for requests, and whose requests they are for.

use std::collections::{BTreeMap, BTreeSet};

use ambit_api::workload::AppProtocol;

use super::policies::Policies;
use super::rule::{Rule, Target, service_of_host};
use crate::deploy::WAYPOINT_CLASS;
use crate::index::{ParentRef, ServicePort, parent_refs};
use crate::source::{Kind, NamespacedName, Object, ObjectKey};
use crate::validation::AtEdge;

/// A route for requests.
#[derive(Debug)]
pub(super) struct Route {
    /// The position of its object.
    pub(super) at: usize,
    pub(super) key: ObjectKey,
    /// Whether the mesh carries it out, for any of its parents.
    pub(super) ours: bool,
    /// The Services, or single ports of them, whose requests it is for.
    pub(super) services: Vec<Target>,
    /// Gateways of other controllers whose requests it is for.
    pub(super) gateways: Vec<NamespacedName>,
    pub(super) rules: Vec<Rule>,
}

impl Route {
    /// Whether it is the route of a Service's own namespace for requests to it.
    fn is_producer_of(&self, target: &Target) -> bool {
        self.key.name.namespace == target.service.namespace && self.services.iter().any(|own| own.meets(target))
    }
}

/// What all objects say together.
pub(super) struct Scene {
    pub(super) routes: Vec<Route>,
    /// Services that GRPCRoutes of their own namespaces are for, which come before HTTPRoutes (GEP-1294).
    calls: Vec<Target>,
    services: BTreeMap<NamespacedName, Vec<ServicePort>>,
}

impl Scene {
    /// The scene of all objects.
    pub(super) fn of(objects: &[Object], at_edge: AtEdge<'_>) -> Self {
        let (mut waypoints, mut others) = (BTreeSet::new(), BTreeSet::new());
        let mut scene = Self { routes: Vec::new(), calls: Vec::new(), services: BTreeMap::new() };
        for object in objects {
            let name = object.key().name;
            match object {
                Object::Service(service) => _ = scene.services.insert(name, ServicePort::all_of(service)),
                Object::Gateway(gateway) if gateway.spec.gateway_class_name == WAYPOINT_CLASS => _ = waypoints.insert(name),
                Object::Gateway(_) if !at_edge(&name) => _ = others.insert(name),
                _ => {}
            }
        }
        let policies = Policies::of(objects);
        for (at, object) in objects.iter().enumerate() {
            let key = object.key();
            let namespace = key.name.namespace.clone();
            match object {
                Object::HttpRoute(route) => {
                    let (services, gateways) = scene.parents(object);
                    let ours = |name: &NamespacedName| at_edge(name) || waypoints.contains(name);
                    let rules = route.spec.rules.iter().flatten().enumerate().map(|(at, rule)| {
                        let twice = policies.allowed_by(&key, rule.name.as_deref(), &services);
                        Rule::http(rule, format!("spec.rules[{at}]"), &namespace).with_writes(twice)
                    });
                    scene.routes.push(Route {
                        at,
                        ours: parent_refs(object).iter().any(is_service) || gateways.iter().any(ours),
                        rules: rules.collect(),
                        services,
                        gateways: gateways.into_iter().filter(|name| others.contains(name)).collect(),
                        key,
                    });
                }
                Object::GrpcRoute(_) => {
                    let (services, _) = scene.parents(object);
                    scene.calls.extend(services.into_iter().filter(|target| target.service.namespace == namespace));
                }
                Object::VirtualService(route) if route.spec.is_for_mesh() => {
                    let hosts = route.spec.hosts.iter().filter_map(|host| service_of_host(&namespace, host));
                    let services: Vec<_> = hosts.map(|service| Target { service, port: None }).collect();
                    let twice = policies.allowed_by(&key, None, &services);
                    let rules = route.spec.http.iter().enumerate().map(|(at, rule)| {
                        Rule::of_virtual_service(rule, format!("spec.http[{at}]"), &namespace).with_writes(twice.clone())
                    });
                    scene.routes.push(Route { at, ours: true, rules: rules.collect(), services, gateways: Vec::new(), key });
                }
                _ => {}
            }
        }
        scene
    }

    /// The Services and the Gateways that a route is attached to. A port whose number cannot be told is none.
    fn parents(&self, route: &Object) -> (Vec<Target>, Vec<NamespacedName>) {
        let own = route.metadata().namespace.as_deref().unwrap_or_default();
        let (mut services, mut gateways) = (Vec::new(), Vec::new());
        for parent in parent_refs(route) {
            let name = NamespacedName::new(parent.namespace.unwrap_or(own), parent.name);
            match (parent.group, parent.kind, parent.section_name) {
                ("gateway.networking.k8s.io", "Gateway", _) => gateways.push(name),
                _ if !is_service(&parent) => {}
                (.., None) => {
                    services.push(Target { service: name, port: parent.port.map(i64::from) });
                }
                (.., Some(section)) => {
                    let mut ports = self.services.get(&name).into_iter().flatten();
                    if let Some(port) = ports.find(|port| port.name.as_deref() == Some(section)) {
                        services.push(Target { service: name, port: Some(port.port.into()) });
                    }
                }
            }
        }
        (services, gateways)
    }

    /// The rules that hold for requests to a Service in its waypoint, whoever asks: of HTTPRoutes of its namespace, or else of its
    /// VirtualServices.
    pub(super) fn rules_of(&self, target: &Target) -> Vec<(&Route, &Rule)> {
        if self.calls.iter().any(|own| own.meets(target)) {
            return Vec::new();
        }
        let of_kind = |kind: Kind| {
            let routes = self.routes.iter().filter(move |route| route.key.kind == kind && route.is_producer_of(target));
            routes.flat_map(|route| route.rules.iter().map(move |rule| (route, rule))).collect::<Vec<_>>()
        };
        let rules = of_kind(Kind::HttpRoute);
        if rules.is_empty() { of_kind(Kind::VirtualService) } else { rules }
    }

    /// A port that is declared to carry gRPC, among those that may be meant.
    pub(super) fn grpc_port(&self, target: &Target) -> Option<&ServicePort> {
        let ports = self.services.get(&target.service)?;
        let meant = |port: &&ServicePort| match target.port {
            Some(number) => i64::from(port.port) == number,
            None => ports.len() == 1,
        };
        ports.iter().filter(meant).find(|port| port.protocol == AppProtocol::Grpc)
    }
}

fn is_service(parent: &ParentRef<'_>) -> bool {
    matches!(parent.group, "" | "core") && parent.kind == "Service"
}
