use ambit_api::envoy::pb::envoy::config::core::v3::{address, socket_address::PortSpecifier};
use ambit_api::envoy::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use ambit_api::envoy::pb::envoy::config::route::v3::{
    Route, RouteConfiguration, route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier,
    weighted_cluster::ClusterWeight,
};
use ambit_identity::TrustDomain;
use prost::Message;

use super::{Resources, fixed, service};
use crate::index::{Index, MeshConfig};
use crate::source::testing::objects;
use crate::source::{Event, NamespacedName};

const MESH: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo, namespace: shop}, spec: {selector: {app: echo}, clusterIP: 10.96.0.1, ports: [{name: grpc, port: 80, targetPort: 8080}, {name: other, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: echo-2, namespace: shop}, spec: {selector: {app: echo, version: '2'}, clusterIP: 10.96.0.2, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: shop, labels: {app: echo}}, spec: {containers: []}, status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: shop, labels: {app: echo, version: '2'}}, spec: {containers: []}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, namespace: shop, labels: {app: echo}}, spec: {containers: []}, status: {podIP: 10.1.0.3, conditions: [{type: Ready, status: 'False'}]}}
";

const WAYPOINT: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: gate}}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: gate, namespace: shop}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
";

fn echo(texts: &[&str]) -> Resources {
    let mut index = Index::new(MeshConfig::new("cluster.local".parse::<TrustDomain>().unwrap(), "Kubernetes"));
    for object in texts.iter().flat_map(|text| objects(text)) {
        index.apply(Event::Upsert(object));
    }
    service(&index, &NamespacedName::new("shop", "echo"))
}

fn grpc_route(rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: r, namespace: shop}}, \
         spec: {{parentRefs: [{{group: '', kind: Service, name: echo, port: 80}}], rules: {rules}}}}}"
    )
}

/// The addresses of the endpoints of the first port.
fn addresses(resources: &Resources) -> Vec<String> {
    let assignment = ClusterLoadAssignment::decode(&*resources.endpoints[0].1.value).unwrap();
    let mut found = Vec::new();
    for place in &assignment.endpoints {
        assert!(place.locality.is_some() && place.load_balancing_weight.is_some_and(|weight| weight.value > 0), "{place:?}");
        for endpoint in &place.lb_endpoints {
            let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!("{endpoint:?}") };
            let Some(address::Address::SocketAddress(socket)) = endpoint.address.as_ref().and_then(|a| a.address.as_ref()) else {
                panic!("{endpoint:?}")
            };
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else { panic!("{socket:?}") };
            found.push(format!("{}:{port}", socket.address));
        }
    }
    found
}

/// The routes of a port, in words.
fn routes(resources: &Resources, at: usize) -> Vec<String> {
    let configuration = RouteConfiguration::decode(&*resources.routes[at].1.value).unwrap();
    assert_eq!(configuration.virtual_hosts[0].domains, ["*"]);
    configuration.virtual_hosts[0].routes.iter().map(words).collect()
}

fn words(route: &Route) -> String {
    let condition = route.r#match.as_ref().unwrap();
    let path = match condition.path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(prefix) => format!("{prefix}*"),
        PathSpecifier::Path(path) => path.clone(),
        other => format!("{other:?}"),
    };
    let headers: Vec<&str> = condition.headers.iter().map(|header| header.name.as_str()).collect();
    let to = match route.action.as_ref().unwrap() {
        Action::Route(action) => match action.cluster_specifier.as_ref().unwrap() {
            ClusterSpecifier::Cluster(name) => name.clone(),
            ClusterSpecifier::WeightedClusters(weighted) => {
                let weight = |one: &ClusterWeight| format!("{} {}", one.weight.map_or(0, |weight| weight.value), one.name);
                weighted.clusters.iter().map(weight).collect::<Vec<_>>().join(", ")
            }
            other => format!("{other:?}"),
        },
        Action::DirectResponse(answer) => answer.status.to_string(),
        other => format!("{other:?}"),
    };
    format!("{path}{} -> {to}", headers.concat())
}

#[test]
fn each_port_of_a_service_is_a_listener_of_its_name_with_the_ready_pods_by_their_addresses() {
    let echo = echo(&[MESH]);
    let host = "echo.shop.svc.cluster.local";
    let names: Vec<&str> = echo.listeners.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [format!("{host}:80"), format!("{host}:81")]);
    assert_eq!(addresses(&echo), ["10.1.0.1:8080", "10.1.0.2:8080"]);
    assert_eq!(routes(&echo, 0), [format!("/* -> inbound-vip|80|http|{host}")]);
    assert_eq!(echo.clusters[0].0, format!("inbound-vip|80|http|{host}"));
    assert_eq!(echo.clusters[0].0, echo.endpoints[0].0);
}

#[test]
fn a_route_of_the_service_spreads_calls_by_weight_and_by_method() {
    let rules = "[{matches: [{method: {service: a.Echo}}], backendRefs: [{name: echo, port: 80, weight: 3}, {name: echo-2, port: 80}, {name: none, port: 80}]}, \
                  {matches: [{method: {service: a.Echo, method: Say}, headers: [{name: k, value: v}]}], backendRefs: [{name: echo-2, port: 80}]}]";
    let echo = echo(&[MESH, &grpc_route(rules)]);
    let cluster = |name: &str| format!("inbound-vip|80|http|{name}.shop.svc.cluster.local");
    let first = format!("/a.Echo/Sayk -> {}", cluster("echo-2"));
    let second = format!("/a.Echo/* -> 3 {}, 1 {}, 1 invalid-backend", cluster("echo"), cluster("echo-2"));
    assert_eq!(routes(&echo, 0), [first, second]);
    assert_eq!(routes(&echo, 1).len(), 1, "the route is for the other port");
    assert!(fixed().endpoints[0].0 == "invalid-backend" && fixed().clusters[0].0 == "invalid-backend");
}

#[test]
fn what_clients_would_leave_out_fails_instead() {
    let filter = "[{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}]}}], backendRefs: [{name: echo, port: 80}]}]";
    assert_eq!(routes(&echo(&[MESH, &grpc_route(filter)]), 0), ["/* -> 503"]);
    let http = |condition: &str| {
        let rules = format!("[{{matches: [{condition}], backendRefs: [{{name: echo-2, port: 80}}]}}]");
        routes(&echo(&[MESH, &grpc_route(&rules).replace("GRPCRoute", "HTTPRoute")]), 0)
    };
    let to = "inbound-vip|80|http|echo-2.shop.svc.cluster.local";
    assert_eq!(http("{path: {type: PathPrefix, value: /a.Echo}, method: POST}"), [format!("/a.Echo/* -> {to}")]);
    assert_eq!(http("{headers: [{name: Host, value: elsewhere}]}"), ["/* -> 503"]);
    // Clients retry by themselves what no server has seen, and know no pages.
    let more = "[{retry: {attempts: 2}, filters: [{type: CORS, cors: {}}], backendRefs: [{name: echo-2, port: 80}]}]";
    assert_eq!(routes(&echo(&[MESH, &grpc_route(more).replace("GRPCRoute", "HTTPRoute")]), 0), [format!("/* -> {to}")]);
    // And no more than that, whatever a policy lets waypoints do.
    let again = "[{retry: {attempts: 2, codes: [503]}, backendRefs: [{name: echo-2, port: 80}]}]";
    let policy = "{apiVersion: ambit.dev/v1alpha1, kind: RequestPolicy, metadata: {name: twice, namespace: shop}, \
                  spec: {targetRefs: [{group: '', kind: Service, name: echo}], retries: {writes: Allowed}}}";
    assert_eq!(routes(&echo(&[MESH, &grpc_route(again).replace("GRPCRoute", "HTTPRoute"), policy]), 0), [format!("/* -> {to}")]);
    // They tell the server themselves how much time there is.
    let timed = "[{timeouts: {request: 5s}, backendRefs: [{name: echo-2, port: 80}]}]";
    assert_eq!(routes(&echo(&[MESH, &grpc_route(timed).replace("GRPCRoute", "HTTPRoute")]), 0), [format!("/* -> {to}")]);
    // No call is a GET, or has a query.
    assert_eq!(http("{method: GET}"), [""; 0]);
    assert_eq!(http("{queryParams: [{name: a, value: b}]}"), [""; 0]);
    let of_method = |test: &str| {
        let rule = format!("{{match: [{{method: {{{test}}}}}], route: [{{destination: {{host: echo-2}}}}]}}");
        let spec = format!("{{hosts: [echo], http: [{rule}]}}");
        let object = "apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop}";
        routes(&echo(&[MESH, &format!("{{{object}, spec: {spec}}}")]), 0)
    };
    for test in ["exact: POST", "prefix: P", "regex: 'GET|POST'"] {
        assert_eq!(of_method(test), [format!("/* -> {to}"), "/* -> 503".to_owned()], "{test}");
    }
    for test in ["exact: GET", "prefix: PU", "regex: 'P'"] {
        assert_eq!(of_method(test), ["/* -> 503"], "{test}");
    }
}

#[test]
fn a_time_limit_holds_and_a_subset_is_a_cluster_of_its_own_with_its_endpoints() {
    let to = "inbound-vip|80|http|echo-2.shop.svc.cluster.local";
    let limited = "[{timeouts: {request: 1s}, backendRefs: [{name: echo-2, port: 80}]}]";
    assert_eq!(routes(&echo(&[MESH, &grpc_route(limited).replace("GRPCRoute", "HTTPRoute")]), 0), [format!("/* -> {to}")]);
    let meta = |kind: &str| format!("apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: v, namespace: shop}}");
    let leads = format!(
        "{{{}, spec: {{hosts: [echo], http: [{{timeout: 2s, route: [{{destination: {{host: echo, subset: two}}}}]}}]}}}}",
        meta("VirtualService")
    );
    let rule =
        format!("{{{}, spec: {{host: echo, subsets: [{{name: two, labels: {{version: '2'}}}}]}}}}", meta("DestinationRule"));
    let with = echo(&[MESH, &leads, &rule]);
    let cluster = "inbound-vip|80|http/two|echo.shop.svc.cluster.local";
    assert_eq!(routes(&with, 0), [format!("/* -> {cluster}"), "/* -> 503".to_owned()]);
    assert!(with.clusters.iter().any(|(name, _)| name == cluster));
    let endpoints = with.endpoints.into_iter().filter(|(name, _)| name == cluster).collect();
    assert_eq!(addresses(&Resources { endpoints, ..Resources::default() }), ["10.1.0.2:8080"]);
    assert_eq!(routes(&echo(&[MESH, &leads]), 0)[0], "/* -> invalid-backend");
    // Of a service with a waypoint it is there, for routes of others that lead to it, and has none.
    let through = echo(&[MESH, WAYPOINT, &leads, &rule]);
    assert!(through.clusters.iter().any(|(name, _)| name == cluster));
    let endpoints: Vec<_> = through.endpoints.into_iter().filter(|(name, _)| name == cluster).collect();
    assert_eq!(endpoints.len(), 1);
    assert_eq!(addresses(&Resources { endpoints, ..Resources::default() }), [""; 0]);
}

#[test]
fn a_service_with_a_waypoint_is_reached_at_its_own_address_even_while_the_waypoint_is_away() {
    let rules = "[{backendRefs: [{name: echo-2, port: 80}]}]";
    let echo = echo(&[MESH, WAYPOINT, &grpc_route(rules)]);
    assert_eq!(addresses(&echo), ["10.96.0.1:80"]);
    assert_eq!(
        routes(&echo, 0),
        ["/* -> inbound-vip|80|http|echo.shop.svc.cluster.local"],
        "the route is the waypoint's to carry out"
    );
}
