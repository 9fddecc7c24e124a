//! What is explained of a request is what becomes of it.

use std::collections::BTreeSet;

use ambit_api::{
    envoy::pb::envoy::{
        config::{
            rbac::v3 as rbac,
            route::v3::{
                DirectResponseAction, HeaderMatcher, RedirectAction, Route, RouteConfiguration, VirtualHost,
                header_matcher::HeaderMatchSpecifier, route::Action,
            },
        },
        r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
    },
    type_url,
};
use ambit_runtime::{admin::Server, drain};
use http::Request;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use waypoint::explain::{Explanation, Question, explain, page, request};

use super::{
    billing,
    support::{
        BILLING, Mesh, WEB,
        client::{Body, http1, read},
        endpoint::BANNER,
        id,
        resources::{self, Ep, Service},
    },
};

pub(super) const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";

fn header(name: &str, value: &str) -> HeaderMatcher {
    let text = StringMatcher { match_pattern: Some(MatchPattern::Exact(value.into())), ..Default::default() };
    let header_match_specifier = Some(HeaderMatchSpecifier::StringMatch(text));
    HeaderMatcher { name: name.into(), header_match_specifier, ..Default::default() }
}

fn does(path: &str, action: Action) -> Route {
    Route { action: Some(action), ..resources::prefix_to(path, "replaced") }
}

/// A service without endpoints.
pub(super) fn none(mesh: &Mesh) -> Service {
    Service::http("none", mesh.socket(101, 80))
}

/// `billing` with a route of every kind, who may not delete, and `none` without endpoints.
pub(super) async fn mesh(number: u8) -> (Mesh, Service) {
    let (mesh, mut service, _) = billing(number).await;
    let none = none(&mesh);
    let deny = rbac::permission::Rule::Header(header(":method", "DELETE"));
    service.rbac = vec![
        resources::rules(rbac::rbac::Action::Deny, "ns[shop]-policy[no-delete]-rule[0]", deny, WEB),
        resources::rules(rbac::rbac::Action::Allow, "ns[shop]-policy[only-web]-rule[1]", rbac::permission::Rule::Any(true), WEB),
    ];
    mesh.serve(&[service.clone(), none.clone()]);
    mesh.endpoints(&none.cluster(), vec![]);
    let mut versioned = resources::prefix_to("/known", &service.cluster());
    versioned.name = "versioned".into();
    versioned.r#match.get_or_insert_default().headers = vec![header("x-version", "2")];
    let elsewhere = RedirectAction { host_redirect: "elsewhere.example".into(), ..Default::default() };
    let routes = vec![
        versioned,
        resources::prefix_to("/known/old", &service.cluster()),
        resources::prefix_to("/invalid", "invalid-backend"),
        resources::prefix_to("/none", &none.cluster()),
        does("/go", Action::Redirect(elsewhere)),
        does("/busy", Action::DirectResponse(DirectResponseAction { status: 503, ..Default::default() })),
        does("/fine", Action::DirectResponse(DirectResponseAction { status: 204, ..Default::default() })),
    ];
    let host = |name: &str, domain: &str, routes: &[Route]| VirtualHost {
        name: name.into(),
        domains: vec![domain.into()],
        routes: routes.to_vec(),
        ..Default::default()
    };
    let virtual_hosts = vec![host("first", "first.shop", &routes[1..3]), host("billing", "*.shop", &routes)];
    let table = RouteConfiguration { virtual_hosts, ..resources::routes(&service.chain(), vec![]).1 };
    mesh.deliver(type_url::ROUTE, vec![(service.chain(), table)]);
    (mesh, service)
}

pub(super) fn explained(
    mesh: &Mesh,
    service: &Service,
    identity: &str,
    method: &str,
    host: &str,
    path: &str,
    version: &str,
) -> Explanation {
    let headers = vec![("x-version".to_owned(), version.to_owned())];
    let request = request(method, host, path, &headers, false).unwrap();
    let question = Question { identity: id(identity), address: [127, 0, 0, 1].into(), destination: service.vip, request };
    explain(&mesh.store.snapshot(), &question)
}

#[tokio::test]
async fn each_request_ends_as_it_is_explained() {
    let (mesh, service) = mesh(60).await;
    let mut ends = BTreeSet::new();
    for identity in [WEB, OTHER] {
        let mut sender = http1(&mesh, identity, service.vip).await;
        for method in ["GET", "DELETE"] {
            for host in ["billing.shop", "first.shop", "elsewhere"] {
                for path in ["/known", "/known/old/../x?a=1", "/known/old", "/invalid", "/none", "/go", "/busy", "/fine", "/"] {
                    for version in ["1", "2"] {
                        let told = explained(&mesh, &service, identity, method, host, path, version);
                        let request = Request::builder().method(method).uri(path).header("host", host);
                        let request = request.header("x-version", version).body(Body::default()).unwrap();
                        sender.ready().await.unwrap();
                        let (status, headers, _) = read(sender.send_request(request).await.unwrap()).await;
                        let what = format!("{identity} {method} {host} {path} {version}: {headers:?} {told:#?}");
                        assert_eq!(told.status.unwrap_or(200), status, "{what}");
                        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
                        if let Some(reason) = text("x-ambit-reason") {
                            assert_eq!(told.reason.map(|reason| reason.to_string()), Some(reason), "{what}");
                        }
                        assert_eq!(told.policy, text("x-ambit-policy"), "{what}");
                        if let Some(location) = text("location") {
                            assert!(told.steps.iter().any(|step| step.says.contains(&location)), "{what}");
                        }
                        // Who sent it on says so, and nobody else.
                        assert_eq!(text("x-from").is_some(), told.status.is_none(), "{what}");
                        ends.insert((status, told.reason.map(|reason| reason.to_string())));
                    }
                }
            }
        }
    }
    let statuses: BTreeSet<u16> = ends.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, BTreeSet::from([200, 204, 301, 403, 404, 500, 503]), "{ends:?}");
}

#[tokio::test]
async fn the_admin_page_answers_from_the_configuration_in_force() {
    let (mesh, service) = mesh(61).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = mesh.store.clone();
    let (_trigger, watch) = drain::channel();
    tokio::spawn(Server::new().get("/explain", move |query| page(&store.snapshot(), query)).run(listener, watch));
    let ask = |query: String| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /explain?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), serde_json::from_str::<Value>(body).unwrap())
    };
    let client = format!("identity={}&address=127.0.0.1&destination={}", WEB.replace(':', "%3A"), service.vip);
    let asked = |path: &str| format!("{client}&method=GET&host=billing.shop&path={path}&headers=x-version%3A%202%0Ax-b%3A1");
    let (status, answer) = ask(asked("/known%3Fa=1%26b")).await;
    let told = &answer["explanation"];
    assert_eq!((status.as_str(), &told["verdict"], &told["route"]), ("HTTP/1.1 200 OK", &"allowed".into(), &"versioned".into()));
    assert_eq!(told["clusters"][0]["endpoints"][0]["identity"], BILLING, "{answer:#}");
    // What a client names in `Connection` is no part of its request.
    let (_, answer) = ask(asked("/known").replace("x-b%3A1", "connection%3A%20x-version")).await;
    assert_eq!(answer["explanation"]["reason"], "route_not_found", "{answer:#}");
    mesh.route(&service, vec![resources::prefix_to("/other", &service.cluster())]);
    let (_, answer) = ask(asked("/known")).await;
    let told = &answer["explanation"];
    assert_eq!((&told["status"], &told["reason"]), (&404.into(), &"route_not_found".into()), "{answer:#}");
    let said = r#"the path begins with "/other", and it is "/known""#;
    assert!(told["steps"].to_string().replace('\\', "").contains(said), "{answer:#}");
    for wrong in [client.clone(), asked("%zz"), asked("/").replace("127.0.0.1", "nowhere")] {
        let (status, answer) = ask(wrong).await;
        assert!(status.starts_with("HTTP/1.1 400 ") && answer["error"].is_string(), "{status} {answer}");
    }
}

#[tokio::test]
async fn what_is_carried_byte_by_byte_is_told_to_have_no_rules_for_requests() {
    let mesh = Mesh::start(62).await;
    let service = Service { protocol: "tcp", ..Service::http("banner", mesh.socket(100, 9000)) };
    mesh.serve(std::slice::from_ref(&service));
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, BANNER), BILLING)]);
    let told = explained(&mesh, &service, WEB, "GET", "banner", "/", "1");
    let says: Vec<&str> = told.steps.iter().map(|step| step.says.as_str()).collect();
    assert!(says.iter().any(|says| says.ends_with("carries the connection byte by byte")), "{says:?}");
    assert_eq!((told.route, told.status, told.clusters.len()), (None, None, 1), "{says:?}");
    let unknown = Service::http("unknown", mesh.socket(99, 80));
    let told = explained(&mesh, &unknown, WEB, "GET", "unknown", "/", "1");
    assert_eq!(told.reason.map(|reason| reason.to_string()).as_deref(), Some("listener_not_found"));
}
