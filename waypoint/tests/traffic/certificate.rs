//! Who a client is, for the service: the header `x-forwarded-client-cert`.

use ambit_api::type_url;
use ambit_runtime::drain;
use http::{HeaderName, Request};
use waypoint::edge;

use super::{
    edge::{NAME, free_port, get as get_outside, once as once_outside},
    support::{
        WAYPOINT, WEB, billing,
        client::{Body, get, http1, http2, once, read},
        resources,
    },
};

/// What a client would like to be.
const FORGED: &str = "By=spiffe://cluster.local/ns/a/sa/b;URI=spiffe://cluster.local/ns/shop/sa/admin";
/// Another one whose tunnels are taken.
const OTHER: &str = "spiffe://cluster.local/ns/shop/sa/other";

/// The lines of a request, as its endpoint has them, that say who its client is.
fn said(text: &str) -> Vec<&str> {
    let named = |line: &&str| line.split(':').next().is_some_and(|name| name.replace('_', "-") == "x-forwarded-client-cert");
    text.lines().filter(named).collect()
}

fn forged(mut request: Request<Body>) -> Request<Body> {
    for name in ["x-forwarded-client-cert", "x-forwarded-client-cert", "x_forwarded_client_cert"] {
        request.headers_mut().append(HeaderName::from_static(name), FORGED.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn each_request_says_once_who_its_client_is_whatever_that_writes() {
    let (mesh, service, _seen) = billing(144).await;
    mesh.deliver(type_url::LISTENER, resources::telling_clients(resources::listeners(std::slice::from_ref(&service))));
    for identity in [WEB, OTHER] {
        let expected = format!("x-forwarded-client-cert: By={WAYPOINT};URI={identity}");
        // Both clients' requests may go by one connection to the endpoint.
        let mut sender = http1(&mesh, identity, service.vip).await;
        let mut naming = forged(get("/a"));
        naming.headers_mut().insert("connection", "x-forwarded-client-cert".parse().unwrap());
        for request in [get("/a"), forged(get("/a")), naming] {
            sender.ready().await.unwrap();
            let (status, _, text) = read(sender.send_request(request).await.unwrap()).await;
            assert_eq!((status, said(&text)), (200, vec![expected.as_str()]), "{text}");
        }
        let request = forged(Request::get("http://billing.shop/b").body(Body::default()).unwrap());
        let (status, _, text) = read(http2(&mesh, identity, service.vip).await.send_request(request).await.unwrap()).await;
        assert_eq!((status, said(&text)), (200, vec![expected.as_str()]), "{text}");
    }
}

#[tokio::test]
async fn where_requests_do_not_say_who_their_client_is_no_client_says_it() {
    let (mesh, service, _seen) = billing(145).await;
    let (status, _, text) = once(&mesh, WEB, service.vip, forged(get("/a"))).await;
    assert_eq!((status, said(&text)), (200, vec![]), "{text}");
}

#[tokio::test]
async fn of_a_client_without_identity_nothing_is_said() {
    let (mesh, service, _seen) = billing(146).await;
    let port = free_port();
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge_with(port, NAME, resources::tell_clients))]);
    let (name, mut table) = resources::routes(NAME, vec![resources::to(&service.cluster())]);
    table.virtual_hosts[0].domains = vec!["*".into()];
    mesh.deliver(type_url::ROUTE, vec![(name, table)]);
    let (_trigger, watch) = drain::channel();
    tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let (status, _, text) = once_outside(port, forged(get_outside("shop.example", "/a"))).await;
    assert_eq!((status, said(&text)), (200, vec![]), "{text}");
}
