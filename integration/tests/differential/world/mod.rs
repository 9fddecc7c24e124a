//! Services with routes and policies, and requests to them, out of few words, so that they meet often.

mod broken;
mod chance;
mod faults;
mod filters;
mod limited;
mod matches;
mod pairs;
pub mod picked;
mod policies;
mod protocols;
mod requests;
mod routes;
mod sized;
mod timed;
mod tokens;
mod virtual_services;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};

use crate::backend::{CLOSED, PORTS};
use crate::dice::Dice;
use crate::logs;
pub use chance::Chance;
pub use requests::{BODY, HTTP2, Request};

/// The accounts that call: of the services' namespace, of two others that have routes of their own, and one that policies name.
pub const ACCOUNTS: [&str; 4] = ["shop/web", "tests/web", "strangers/web", "shop/intruder"];
/// The address of a service without routes and policies.
pub const SENTINEL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The services that routes send to: each has a port of the pod, but the last two, of which one has no endpoint, and the port of the other
/// is closed.
const BACKENDS: [&str; 6] = ["b0", "b1", "b2", "b3", "empty", "closed"];
/// How many requests each service gets.
const REQUESTS: usize = 40;

/// A service, what holds for it, and what it is asked.
pub struct Service {
    pub name: String,
    pub address: Ipv4Addr,
    pub objects: Vec<Value>,
    pub requests: Vec<Request>,
    /// What it is answered depends on how often it was asked, so that nothing is asked again.
    pub once: bool,
    /// Its like is not generated, so that the command itself is run for it.
    pub seldom: bool,
}

impl Service {
    /// One that was thought of.
    fn picked(name: &str, octet: u8, objects: Vec<Value>, requests: Vec<Request>) -> Self {
        let address = picked_address(octet);
        Self { name: name.to_owned(), address, objects, requests, once: false, seldom: true }
    }

    /// What of its answers is a matter of chance.
    pub fn chance(&self) -> BTreeSet<Chance> {
        chance::of(&self.objects)
    }

    /// How many routes it has.
    pub fn routes(&self) -> usize {
        self.objects.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("Route"))).count()
    }

    /// Its objects, as a person would apply them.
    pub fn yaml(&self) -> String {
        let documents: Vec<String> =
            self.objects.iter().map(|object| serde_saphyr::to_string(object).unwrap_or_else(|_| object.to_string())).collect();
        documents.join("---\n")
    }
}

/// The services that a seed says. Each is another whatever the others are, so that one of them can be looked at alone.
pub fn generated(prefix: &str, seed: u64, count: usize, network: u8) -> Vec<Service> {
    let one = |number: usize| {
        let mut dice = Dice::new(seed, number as u64);
        let name = format!("{prefix}{number}");
        let octet = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        let address = Ipv4Addr::new(10, 96, network + octet(number / 200), 1 + octet(number % 200));
        let mut objects = vec![service(&name, address, PORTS[4])];
        let routes = routes::of_service(&mut dice, &name);
        objects.extend(routes.iter().map(|route| route.object.clone()));
        objects.extend(policies::of_service(&mut dice, &mut Dice::new(!seed, number as u64), &name));
        objects.extend(faults::of_service(&mut Dice::new(seed.rotate_left(17), number as u64), &name, &routes));
        let requests = (0..REQUESTS).map(|_| requests::one(&mut dice, &name, &routes)).collect();
        Service { name, address, objects, requests, once: false, seldom: false }
    };
    (0..count).map(one).collect()
}

/// The services that were thought of for one thing each.
///
/// # Errors
/// When tokens cannot be signed.
pub fn of_one_thing() -> anyhow::Result<Vec<Service>> {
    let mut services = vec![faults::picked(), sized::picked(), timed::picked(), limited::picked(), tokens::picked()?];
    services.extend(pairs::picked());
    services.extend([virtual_services::picked(), protocols::picked(), broken::picked()]);
    Ok(services)
}

/// Adds what can be asked only when it is known where the endpoints are.
pub fn complete(services: &mut [Service], pair: [IpAddr; 2]) {
    for service in services.iter_mut().filter(|service| service.name == pairs::SESSIONS) {
        service.requests.extend(pairs::of_sessions(pair));
    }
}

fn picked_address(octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 96, 250, octet)
}

fn service(name: &str, address: Ipv4Addr, port: u16) -> Value {
    let app = if name == "empty" { "nobody" } else { "app" };
    selecting(name, address, port, &json!({"app": app}))
}

fn selecting(name: &str, address: Ipv4Addr, port: u16, selector: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "clusterIP": address.to_string(), "selector": selector,
            "ports": [{"name": "http", "port": 80, "targetPort": port}],
        },
    })
}

/// The labels of a pod of this application.
pub fn labels(app: &str) -> Value {
    match app {
        "app" | "twin" => json!({"app": app, "pair": "yes"}),
        app => json!({"app": app}),
    }
}

/// An HTTPRoute of a service, with its name.
fn http_route(name: &str, rules: Vec<Value>) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": name, "port": 80}], "rules": rules},
    })
}

/// A rule of this name for the paths below it, that sends to this backend and says `more`.
fn rule(name: &str, backend: &str, more: &Value) -> Value {
    let path = json!([{"path": {"type": "PathPrefix", "value": format!("/{name}")}}]);
    let mut rule = json!({"name": name, "matches": path});
    if !backend.is_empty() {
        rule["backendRefs"] = json!([{"name": backend, "port": 80}]);
    }
    for (key, value) in more.as_object().into_iter().flatten() {
        rule[key.as_str()] = value.clone();
    }
    rule
}

/// A RequestPolicy for a rule of an HTTPRoute, which says this.
fn request_policy(route: &str, rule: &str, mut spec: Value) -> Value {
    spec["targetRefs"] = json!([{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": route, "sectionName": rule}]);
    let name = format!("{route}-{rule}");
    json!({
        "apiVersion": "ambit.dev/v1alpha1", "kind": "RequestPolicy", "metadata": {"name": name, "namespace": "shop"},
        "spec": spec,
    })
}

/// The objects that all services share.
pub fn shared() -> Vec<Value> {
    let from = ["HTTPRoute", "GRPCRoute"];
    let from = from.map(|kind| json!({"group": "gateway.networking.k8s.io", "kind": kind, "namespace": "tests"}));
    let mut objects = vec![
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": "shop", "labels": {"istio.io/dataplane-mode": "ambient", "istio.io/use-waypoint": "waypoint"}},
        }),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": "waypoint", "namespace": "shop", "labels": {"istio.io/waypoint-for": "service"}},
            "spec": {
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            },
        }),
        // Strangers may not.
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "ReferenceGrant",
            "metadata": {"name": "tests", "namespace": "shop"},
            "spec": {"from": from, "to": [{"group": "", "kind": "Service"}]},
        }),
        service("sentinel", SENTINEL, PORTS[4]),
    ];
    objects.extend(logs::objects());
    for (number, (name, port)) in (20_u8..).zip(BACKENDS.iter().zip([PORTS[0], PORTS[1], PORTS[2], PORTS[3], PORTS[0], CLOSED])) {
        objects.push(service(name, Ipv4Addr::new(10, 96, 0, number), port));
    }
    objects
}

/// The service whose endpoint has this port, for the name of its cluster: `None` for that of the service itself.
pub fn backend_of(port: &str) -> Option<&'static str> {
    let at = PORTS.iter().position(|of| of.to_string() == port)?;
    BACKENDS.get(at).copied().filter(|_| at < 4)
}

/// Words that headers and queries are made of.
const HEADERS: [&str; 5] = ["x-one", "X-Two", "version", "user-agent", "cookie"];
const VALUES: [&str; 7] = ["1", "v1", "v2", "V1", "v1,v2", "a b", "100%"];
const PARAMETERS: [&str; 4] = ["q", "page", "Q", "a.b"];
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"];
const SEGMENTS: [&str; 8] = ["a", "b", "ab", "A", "v1", "caf%C3%A9", "x.y", "~1"];

/// A path of the words.
fn path(dice: &mut Dice) -> String {
    let mut path = String::new();
    for _ in 0..dice.below(4) {
        path = format!("{path}/{}", dice.of(&SEGMENTS));
    }
    if path.is_empty() { "/".to_owned() } else { path }
}
