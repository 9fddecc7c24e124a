//! Routes that others keep from having an effect, by the rules of `translate::waypoint::route::Attached`: of the kinds on one port of a
//! Service GRPCRoutes go before HTTPRoutes, these before TLSRoutes, and these before TCPRoutes (GEP-1294). Of several TLSRoutes each holds
//! for its names, of which one that two have is the older's; of several TCPRoutes the oldest holds.

use super::Parent;
use crate::index::{Index, ServicePort};
use crate::source::{NamespacedName, Object};

/// The route that holds for a port of a Service in the place of `route`, if there is one.
pub(super) fn rival(index: &Index, route: &Object, service: &NamespacedName, port: &ServicePort) -> Option<String> {
    let own = NamespacedName::of(route.metadata());
    let on_port = |other: &Object| is_for(other, service, port);
    let grpc = |namespace: &str| {
        let routes = index.grpc_routes_of_service(service).into_iter().cloned().map(Object::GrpcRoute);
        routes.filter(|route| in_namespace(route, namespace)).find(on_port)
    };
    let http = |namespace: &str| {
        let routes = index.http_routes_of_service(service).into_iter().cloned().map(Object::HttpRoute);
        routes.filter(|route| in_namespace(route, namespace)).find(on_port)
    };
    let tcp = || {
        let routes = index.tcp_routes_of_service(service).into_iter().cloned().map(Object::TcpRoute);
        routes.filter(|route| in_namespace(route, &service.namespace)).filter(on_port).min_by_key(age)
    };
    let of_names = || {
        let routes = index.tls_routes_of_service(service).into_iter().cloned().map(Object::TlsRoute);
        routes.filter(|route| in_namespace(route, &service.namespace)).filter(on_port).collect::<Vec<_>>()
    };
    let oldest_of_names = || of_names().into_iter().min_by_key(age);
    // One that has none of its names for itself.
    let with_its_names = || {
        let mut before = of_names();
        before.retain(|other| age(other) < age(route));
        let taken = |host: &String| before.iter().find(|other| hostnames(other).contains(host));
        let takers: Option<Vec<&Object>> = hostnames(route).iter().map(taken).collect();
        takers?.first().copied().cloned()
    };
    let for_requests = |namespace: &str| grpc(namespace).or_else(|| http(namespace));
    // Routes of another namespace for its own clients do not change how everybody's connections are read.
    let as_bytes = || {
        let foreign = own.namespace != service.namespace;
        (foreign && for_requests(&service.namespace).is_none()).then(|| oldest_of_names().or_else(tcp)).flatten()
    };
    let other = match route {
        Object::GrpcRoute(_) => as_bytes(),
        Object::HttpRoute(_) => grpc(&own.namespace).or_else(as_bytes),
        Object::TlsRoute(_) => for_requests(&service.namespace).or_else(with_its_names),
        Object::TcpRoute(_) => for_requests(&service.namespace).or_else(oldest_of_names).or_else(tcp),
        _ => None,
    };
    other.map(|other| other.key()).filter(|other| other.kind != route.kind() || other.name != own).map(|other| other.to_string())
}

fn in_namespace(route: &Object, namespace: &str) -> bool {
    route.metadata().namespace.as_deref() == Some(namespace)
}

/// Whether a route is attached to a port of a Service.
fn is_for(route: &Object, service: &NamespacedName, port: &ServicePort) -> bool {
    let own = NamespacedName::of(route.metadata());
    Parent::all_of(route).iter().any(|(parent, _)| {
        matches!(parent.kind(), ("" | "core", "Service")) && parent.target(&own) == *service && parent.means(port)
    })
}

fn hostnames(route: &Object) -> &[String] {
    match route {
        Object::TlsRoute(route) => &route.spec.hostnames,
        _ => &[],
    }
}

/// Sorts before another that holds in its place.
fn age(route: &Object) -> impl Ord + use<> {
    let created = route.metadata().creation_timestamp.as_ref().map(|time| time.0);
    (created.is_none(), created, NamespacedName::of(route.metadata()))
}
