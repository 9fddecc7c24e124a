//! A client's requests through a waypoint to endpoints, in one process.

#[path = "traffic/admitted.rs"]
mod admitted;
#[path = "traffic/again.rs"]
mod again;
#[path = "traffic/ahead.rs"]
mod ahead;
#[path = "traffic/balanced.rs"]
mod balanced;
#[path = "traffic/carried.rs"]
mod carried;
#[path = "traffic/certificate.rs"]
mod certificate;
#[path = "traffic/checks.rs"]
mod checks;
#[path = "traffic/deadlines.rs"]
mod deadlines;
#[path = "traffic/destination.rs"]
mod destination;
#[path = "traffic/dry_run.rs"]
mod dry_run;
#[path = "traffic/edge.rs"]
mod edge;
#[path = "traffic/empty_frames.rs"]
mod empty_frames;
#[path = "traffic/explained.rs"]
mod explained;
#[path = "traffic/filters.rs"]
mod filters;
#[path = "traffic/half_dead.rs"]
mod half_dead;
#[path = "traffic/hashes.rs"]
mod hashes;
#[path = "traffic/heads.rs"]
mod heads;
#[path = "traffic/http10.rs"]
mod http10;
#[path = "traffic/lasting.rs"]
mod lasting;
#[path = "traffic/limits.rs"]
mod limits;
#[path = "traffic/live.rs"]
mod live;
#[path = "traffic/logged.rs"]
mod logged;
#[path = "traffic/measured.rs"]
mod measured;
#[path = "traffic/pages.rs"]
mod pages;
#[path = "traffic/pressure.rs"]
mod pressure;
#[path = "traffic/processed.rs"]
mod processed;
#[path = "traffic/refused.rs"]
mod refused;
#[path = "traffic/resets.rs"]
mod resets;
#[path = "traffic/resilience.rs"]
mod resilience;
#[path = "traffic/secure.rs"]
mod secure;
#[path = "traffic/sessions.rs"]
mod sessions;
#[path = "traffic/sizes.rs"]
mod sizes;
mod support;
#[path = "traffic/traced.rs"]
mod traced;
#[path = "traffic/upgrades.rs"]
mod upgrades;
#[path = "traffic/workers.rs"]
mod workers;
#[path = "traffic/writes.rs"]
mod writes;

use std::{sync::Arc, time::Duration};

use ambit_api::{envoy::pb::envoy::config::rbac::v3 as rbac, type_url};
use ambit_runtime::telemetry::metrics_handle;
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use support::{
    BILLING, Limits, Mesh, WEB, billing,
    client::{Body, get, http1, http2, once, read, tunnel, tunnel_to},
    endpoint::{self, BANNER, CLOSED, ECHO, HTTP},
    resources::{self, Ep, Service},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn requests_of_one_connection_share_a_connection_to_the_endpoint() {
    let (mesh, service, seen) = billing(1).await;
    let dump = serde_json::to_string(&*mesh.store.snapshot()).unwrap();
    assert!(dump.contains(&service.chain()) && dump.contains(BILLING), "{dump}");
    let mut sender = http1(&mesh, WEB, service.vip).await;
    for n in 0..20 {
        sender.ready().await.unwrap();
        let (status, headers, text) = read(sender.send_request(get(&format!("/a?n={n}"))).await.unwrap()).await;
        assert_eq!(status, 200);
        assert!(text.starts_with(&format!("v1 GET /a?n={n} HTTP/1.1\n")), "{text}");
        assert!(text.contains("host: billing.shop\n"), "{text}");
        assert!(text.contains(&format!("peer {}\n", support::WAYPOINT)), "{text}");
        assert_eq!(headers["x-from"], "v1");
        assert!(!headers.contains_key("keep-alive"), "a header of one hop passed");
    }
    assert_eq!(seen.requests(), 20);
    assert!(seen.tunnels() <= 2, "{} tunnels for one client that waits for each answer", seen.tunnels());
    let line = mesh.logged(&["path=/a ", "status=200"]).await;
    for part in [
        "reason=ok",
        "src.identity=spiffe://cluster.local/ns/shop/sa/web",
        "src.workload=web",
        "dst.identity=spiffe://cluster.local/ns/shop/sa/billing",
        "dst.service=billing.shop.svc.cluster.local",
        "dst.workload=billing",
        "security=mutual_tls",
        "route=shop/billing//",
        "method=GET",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    // The log names the pod; counted it is as what made it, and under its service.
    let metrics = metrics_handle().unwrap().render();
    let counted: Vec<&str> = metrics.lines().filter(|line| line.starts_with("istio_requests_total{")).collect();
    let labels = ["destination_workload=\"billing-v1\"", "destination_canonical_service=\"payments\"", "response_code=\"200\""];
    assert!(counted.iter().any(|line| labels.iter().all(|label| line.contains(label))), "{counted:#?}");
    assert!(!metrics.contains("destination_workload=\"billing\""), "pods are counted one by one");
}

#[tokio::test]
async fn bodies_of_any_length_pass_both_ways_without_change() {
    let (mesh, service, _) = billing(2).await;
    let payload = bytes::Bytes::from((0..3_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>());
    for http2_client in [false, true] {
        let request = Request::post("http://billing.shop/echo").body(Body::new(payload.clone())).unwrap();
        let response = match http2_client {
            false => {
                let mut request = request;
                request.headers_mut().insert("host", "billing.shop".parse().unwrap());
                *request.uri_mut() = "/echo".parse().unwrap();
                http1(&mesh, WEB, service.vip).await.send_request(request).await.unwrap()
            }
            true => http2(&mesh, WEB, service.vip).await.send_request(request).await.unwrap(),
        };
        assert_eq!(response.status(), 200);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), payload);
    }
    let line = mesh.logged(&["path=/echo", "bytes_recv=3000000"]).await;
    assert!(line.contains("bytes_sent=3000000"), "{line}");
}

#[tokio::test]
async fn an_answer_to_head_keeps_its_length_and_the_connection_goes_on() {
    let (mesh, service, seen) = billing(23).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    for _ in 0..3 {
        sender.ready().await.unwrap();
        let head = Request::head("/x").header("host", "b").body(Body::default()).unwrap();
        let (status, headers, text) = read(sender.send_request(head).await.unwrap()).await;
        assert_eq!((status, text.as_str()), (200, ""));
        assert!(headers["content-length"].to_str().unwrap().parse::<u64>().unwrap() > 20, "{headers:?}");
        sender.ready().await.unwrap();
        assert_eq!(read(sender.send_request(get("/y")).await.unwrap()).await.0, 200);
    }
    assert_eq!(seen.requests(), 6);
    assert!(seen.tunnels() <= 2, "{}", seen.tunnels());
    mesh.logged(&["method=HEAD", "reason=ok"]).await;
}

#[tokio::test]
async fn a_client_does_not_notice_that_an_endpoint_closes_its_connection_after_each_answer() {
    let (mesh, service, _) = billing(24).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    for _ in 0..20 {
        sender.ready().await.unwrap();
        let (status, _, _) = read(sender.send_request(get("/close")).await.unwrap()).await;
        assert_eq!(status, 200);
    }
}

#[tokio::test]
async fn a_grpc_call_keeps_its_trailers() {
    let (mesh, service, _) = billing(3).await;
    let mut sender = http2(&mesh, WEB, service.vip).await;
    let request = Request::post("http://billing.shop/trailers")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::from("message"))
        .unwrap();
    let collected = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(collected.to_bytes(), "message");
    let (status, _, text) =
        read(sender.send_request(Request::get("http://billing.shop/v").body(Body::default()).unwrap()).await.unwrap()).await;
    assert_eq!(status, 200);
    assert!(text.starts_with("v1 GET http://billing.shop/v HTTP/2.0\n"), "{text}");
}

#[tokio::test]
async fn a_websocket_is_carried_after_its_upgrade() {
    let (mesh, service, _) = billing(4).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let upgrade = |name: &str| {
        let mut request = get("/ws");
        request.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        request.headers_mut().insert("upgrade", name.parse().unwrap());
        request
    };
    let response = sender.send_request(upgrade("websocket")).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    for text in ["one", "two", "three"] {
        io.write_all(text.as_bytes()).await.unwrap();
        let mut buffer = vec![0; text.len()];
        io.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, text.as_bytes());
    }
    drop(io);
    mesh.logged(&["path=/ws", "status=101", "reason=client_reset", "bytes_sent=11 bytes_recv=11"]).await;
    assert_eq!(once(&mesh, WEB, service.vip, upgrade("other")).await.0, 403);
}

#[tokio::test]
async fn a_server_that_speaks_first_and_half_closed_connections_work_over_tcp() {
    let mesh = Mesh::start(5).await;
    let banner = Service { protocol: "tcp", ..Service::http("banner", mesh.socket(100, 9000)) };
    let auto = Service { protocol: "auto", ..Service::http("auto", mesh.socket(101, 9001)) };
    mesh.serve(&[banner.clone(), auto.clone()]);
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&banner.cluster(), vec![Ep::Hbone(mesh.socket(1, BANNER), BILLING)]);
    mesh.endpoints(&auto.tcp_chain(), vec![Ep::Hbone(mesh.socket(1, ECHO), BILLING)]);
    mesh.endpoints(&auto.chain(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);

    let mut stream = tunnel(&mesh, WEB, banner.vip).await.unwrap();
    let mut greeting = [0; 14];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello from v1\n");
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "pingbye", "bytes after the half-close are lost");
    let line = mesh.logged(&["dst.service=banner.shop", "reason=ok"]).await;
    assert!(line.contains("bytes_sent=4 bytes_recv=21"), "{line}");

    let mut stream = tunnel(&mesh, WEB, auto.vip).await.unwrap();
    stream.write_all(b"\x00binary").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x00binarybye");
    let (status, _, text) = once(&mesh, WEB, auto.vip, get("/sniffed")).await;
    assert_eq!((status, text.starts_with("v1 GET /sniffed")), (200, true), "{text}");
    let client = Some(format!("By={};URI={WEB}", support::WAYPOINT));
    // A tunnel for requests may come to carry those of others.
    assert_eq!(*seen.clients.lock().unwrap(), [client.clone(), client, None]);
}

#[tokio::test]
async fn each_kind_of_failure_has_its_status_and_its_reason() {
    let (mesh, service, _) = billing(6).await;
    let none = Service::http("none", mesh.socket(101, 80));
    let refused = Service::http("refused", mesh.socket(102, 80));
    mesh.serve(&[service.clone(), none.clone(), refused.clone()]);
    mesh.endpoints(&none.cluster(), vec![]);
    mesh.endpoints(&refused.cluster(), vec![Ep::Hbone(mesh.socket(1, CLOSED), BILLING)]);
    mesh.route(
        &service,
        vec![resources::prefix_to("/known", &service.cluster()), resources::prefix_to("/invalid", "invalid-backend")],
    );
    for (to, path, status, reason) in [
        (service.vip, "/unknown", 404, "route_not_found"),
        (service.vip, "/invalid", 500, "backend_invalid"),
        (none.vip, "/", 503, "no_healthy_endpoint"),
        (refused.vip, "/", 503, "upstream_refused"),
        (service.vip, "/a%00b", 400, "request_invalid"),
    ] {
        let answer = once(&mesh, WEB, to, get(path)).await;
        assert_eq!(answer.0, status, "{path}");
        assert_eq!(answer.1["x-ambit-reason"], reason, "{path}");
        mesh.logged(&[&format!("reason={reason}"), &format!("status={status}")]).await;
    }
    let grpc = Request::post("http://b/").header("content-type", "application/grpc").body(Body::default()).unwrap();
    let response = http2(&mesh, WEB, none.vip).await.send_request(grpc).await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["grpc-status"]), (200, &"14".parse().unwrap()));
}

#[tokio::test]
async fn a_tunnel_for_something_else_is_refused_with_its_reason() {
    let (mesh, service, _) = billing(7).await;
    for (authority, status, reason) in [
        (mesh.socket(100, 81).to_string(), 404, "listener_not_found"),
        (mesh.socket(99, 80).to_string(), 404, "listener_not_found"),
        ("billing.shop:80".to_owned(), 400, "authority_invalid"),
    ] {
        match tunnel_to(&mesh, WEB, &authority).await {
            Err(ambit_hbone::ConnectError::Refused { status: got, headers }) => {
                assert_eq!(got.as_u16(), status, "{authority}");
                assert_eq!(headers["x-ambit-reason"], reason, "{authority}");
            }
            other => panic!("{authority}: {other:?}"),
        }
        mesh.logged(&[&format!("reason={reason}")]).await;
    }
    let other = "spiffe://other.mesh/ns/shop/sa/web";
    assert!(tunnel(&mesh, other, service.vip).await.is_err(), "a peer of another trust domain");
}

#[tokio::test]
async fn a_waypoint_without_configuration_refuses_everything() {
    let mesh = Mesh::start(8).await;
    match tunnel(&mesh, WEB, mesh.socket(100, 80)).await {
        Err(ambit_hbone::ConnectError::Refused { status, headers }) => {
            assert_eq!((status.as_u16(), &headers["x-ambit-reason"]), (503, &"configuration_invalid".parse().unwrap()));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn policies_deny_by_method_path_and_principal_and_are_named() {
    let (mesh, mut service, seen) = billing(9).await;
    let method = |name: &str| {
        let test = ambit_api::envoy::pb::envoy::r#type::matcher::v3::StringMatcher {
            match_pattern: Some(ambit_api::envoy::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact(
                name.into(),
            )),
            ..Default::default()
        };
        rbac::permission::Rule::Header(ambit_api::envoy::pb::envoy::config::route::v3::HeaderMatcher {
            name: ":method".into(),
            header_match_specifier: Some(
                ambit_api::envoy::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier::StringMatch(test),
            ),
            ..Default::default()
        })
    };
    service.rbac = vec![
        resources::rules(rbac::rbac::Action::Deny, "ns[shop]-policy[no-delete]-rule[0]", method("DELETE"), WEB),
        resources::rules(rbac::rbac::Action::Allow, "ns[shop]-policy[only-web]-rule[0]", rbac::permission::Rule::Any(true), WEB),
    ];
    // A connection that is open when the policy arrives must obey it from its next request on.
    let mut open = http1(&mesh, "spiffe://cluster.local/ns/shop/sa/other", service.vip).await;
    assert_eq!(read(open.send_request(get("/")).await.unwrap()).await.0, 200);
    mesh.deliver(type_url::LISTENER, resources::listeners(std::slice::from_ref(&service)));
    open.ready().await.unwrap();
    let before = seen.requests();
    let (status, headers, text) = read(open.send_request(get("/")).await.unwrap()).await;
    assert_eq!((status, text.as_str()), (403, "RBAC: access denied"));
    assert_eq!(headers["x-ambit-reason"], "policy_denied_no_allow_match");
    assert_eq!(seen.requests(), before, "a denied request reached the endpoint");

    assert_eq!(once(&mesh, WEB, service.vip, get("/")).await.0, 200);
    let delete = Request::delete("/").header("host", "b").body(Body::default()).unwrap();
    let (status, headers, _) = once(&mesh, WEB, service.vip, delete).await;
    assert_eq!(status, 403);
    assert_eq!(headers["x-ambit-reason"], "policy_denied_explicit");
    assert_eq!(headers["x-ambit-policy"], "shop/no-delete");
    let line = mesh.logged(&["reason=policy_denied_explicit"]).await;
    assert!(line.contains("policy=shop/no-delete") && line.contains("status=403"), "{line}");
}

#[tokio::test]
async fn a_tcp_policy_denies_before_the_server_speaks() {
    let mesh = Mesh::start(10).await;
    let deny =
        resources::rules(rbac::rbac::Action::Deny, "ns[shop]-policy[no-web]-rule[0]", rbac::permission::Rule::Any(true), WEB);
    let banner = Service { protocol: "tcp", rbac: vec![deny], ..Service::http("banner", mesh.socket(100, 9000)) };
    mesh.serve(std::slice::from_ref(&banner));
    let seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&banner.cluster(), vec![Ep::Hbone(mesh.socket(1, BANNER), BILLING)]);
    match tunnel(&mesh, WEB, banner.vip).await {
        Err(ambit_hbone::ConnectError::Refused { status, headers }) => {
            assert_eq!((status.as_u16(), &headers["x-ambit-policy"]), (403, &"shop/no-web".parse().unwrap()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(seen.tunnels(), 0);
    assert!(tunnel(&mesh, "spiffe://cluster.local/ns/shop/sa/api", banner.vip).await.is_ok());
}

#[tokio::test]
async fn weights_hold_and_a_new_weight_is_in_force_at_once() {
    let (mesh, service, _) = billing(11).await;
    let v2 = "inbound-vip|80|http|billing-v2.shop.svc.cluster.local";
    endpoint::start(&mesh, 2, "v2", BILLING).await;
    mesh.deliver(type_url::CLUSTER, vec![(v2.to_owned(), resources::cluster(v2, &service))]);
    mesh.endpoints(v2, vec![Ep::Hbone(mesh.socket(2, HTTP), BILLING)]);
    let mut sender = http1(&mesh, WEB, service.vip).await;
    for (weights, least, most) in [((95, 5), 40, 160), ((50, 50), 900, 1100), ((100, 0), 0, 0)] {
        mesh.route(&service, vec![resources::split(&[(&service.cluster(), weights.0), (v2, weights.1)])]);
        let mut second = 0;
        for _ in 0..2000 {
            sender.ready().await.unwrap();
            let response = sender.send_request(get("/")).await.unwrap();
            second += u32::from(response.headers()["x-from"] == "v2");
            read(response).await;
        }
        assert!((least..=most).contains(&second), "{second} of 2000 at {weights:?}");
    }
}

#[tokio::test]
async fn an_endpoint_with_another_identity_is_never_used() {
    let (mesh, service, _) = billing(12).await;
    let liar = endpoint::start(&mesh, 2, "liar", "spiffe://cluster.local/ns/shop/sa/liar").await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(2, HTTP), BILLING)]);
    let (status, headers, _) = once(&mesh, WEB, service.vip, get("/")).await;
    assert_eq!(status, 503);
    assert_eq!(headers["x-ambit-reason"], "peer_identity_mismatch");
    assert_eq!(liar.tunnels(), 0);
    mesh.logged(&["reason=peer_identity_mismatch", "status=503"]).await;
}

#[tokio::test]
async fn another_endpoint_is_tried_when_one_is_not_reached_and_requests_take_turns() {
    let (mesh, service, _) = billing(13).await;
    endpoint::start(&mesh, 2, "v2", BILLING).await;
    let dead = Ep::Hbone(mesh.socket(66, HTTP), BILLING);
    mesh.endpoints(
        &service.cluster(),
        vec![dead, Ep::Hbone(mesh.socket(1, HTTP), BILLING), Ep::Hbone(mesh.socket(2, HTTP), BILLING)],
    );
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let mut from = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..60 {
        sender.ready().await.unwrap();
        let response = sender.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), 200);
        *from.entry(response.headers()["x-from"].to_str().unwrap().to_owned()).or_default() += 1;
        read(response).await;
    }
    assert_eq!(from.values().sum::<u32>(), 60);
    assert!(from["v1"] >= 15 && from["v2"] >= 15, "{from:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_not_enrolled_is_reached_in_clear() {
    let (mesh, service, _) = billing(14).await;
    endpoint::start_clear(mesh.socket(3, 8081), "legacy").await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(3, 8081))]);
    let (status, _, text) = once(&mesh, WEB, service.vip, get("/x")).await;
    assert_eq!((status, text.starts_with("legacy GET /x")), (200, true), "{text}");
    assert!(mesh.logged(&["dst.workload=legacy"]).await.contains("dst.identity=- "));
}

#[tokio::test]
async fn a_resource_that_is_not_understood_is_rejected_by_name_and_changes_nothing() {
    let (mesh, service, _) = billing(15).await;
    let (name, mut config) = resources::routes(&service.chain(), vec![resources::to("elsewhere")]);
    if let Some(ambit_api::envoy::pb::envoy::config::route::v3::route::Action::Route(action)) =
        &mut config.virtual_hosts[0].routes[0].action
    {
        action.append_x_forwarded_host = true;
    }
    let rejected = mesh.offer(type_url::ROUTE, vec![(name.clone(), config)]);
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, name);
    assert!(rejected[0].reason.contains("append_x_forwarded_host is not implemented"), "{}", rejected[0].reason);
    assert_eq!(once(&mesh, WEB, service.vip, get("/")).await.0, 200);
}

#[tokio::test]
async fn requests_in_flight_finish_when_the_waypoint_drains_and_new_ones_are_not_taken() {
    let (mesh, service, _) = billing(16).await;
    let address = mesh.address;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let mut idle = http1(&mesh, WEB, service.vip).await;
    assert_eq!(read(idle.send_request(get("/")).await.unwrap()).await.0, 200);
    let request = tokio::spawn(async move { read(sender.send_request(get("/slow")).await.unwrap()).await.0 });
    tokio::time::sleep(Duration::from_millis(150)).await;
    let outcome = mesh.trigger.drain(Duration::from_secs(5)).await;
    assert_eq!(outcome, ambit_runtime::drain::Outcome::Finished);
    assert_eq!(request.await.unwrap(), 200);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_response_is_passed_on_as_it_comes_and_a_broken_one_is_broken_for_the_client() {
    let (mesh, service, _) = billing(18).await;
    let mut sender = http1(&mesh, WEB, service.vip).await;
    let start = std::time::Instant::now();
    let mut body = sender.send_request(get("/drip")).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "drop 0\n");
    // The last come 0.6 s later.
    assert!(start.elapsed() < Duration::from_millis(550), "the first bytes waited for the last");
    let mut rest = String::new();
    while let Some(frame) = body.frame().await {
        rest += std::str::from_utf8(&frame.unwrap().into_data().unwrap()).unwrap();
    }
    assert_eq!(rest, "drop 1\ndrop 2\n");
    sender.ready().await.unwrap();
    let response = sender.send_request(get("/break")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.into_body().collect().await.is_err(), "a response that broke off looks complete");
    mesh.logged(&["path=/break", "status=200", "reason=upstream_reset"]).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_recorded_and_its_request_is_cancelled() {
    let (mesh, service, _) = billing(19).await;
    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    mesh.logged(&["path=/slow", "reason=client_reset"]).await;

    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    stream.write_all(b"GET /slow?half HTTP/1.1\r\nhost: b\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "a client that only ended its own direction gets its answer: {answer}");

    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    stream.write_all(b"POST /echo HTTP/1.1\r\nhost: b\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
    stream.shutdown().await.unwrap();
    mesh.logged(&["path=/echo", "bytes_sent=4"]).await;
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused() {
    let (mesh, service, seen) = billing(20).await;
    let mut request = get("/");
    request.headers_mut().insert("x-large", "a".repeat(100 * 1024).parse().unwrap());
    let response = http1(&mesh, WEB, service.vip).await.send_request(request).await;
    assert_eq!(response.unwrap().status(), 431);
    assert_eq!(seen.requests(), 0);
}

#[tokio::test]
async fn a_request_with_more_than_a_hundred_header_fields_is_refused_in_each_version_of_http() {
    let (mesh, service, seen) = billing(63).await;
    let with = |uri: &str, fields: usize| {
        let mut request = Request::get(uri).body(Body::default()).unwrap();
        for field in 0..fields {
            let name: http::HeaderName = format!("x-{field}").parse().unwrap();
            request.headers_mut().insert(name, "1".parse().unwrap());
        }
        request
    };
    // Its client says the host in a field.
    let in_http1 = |fields: usize| {
        let mut request = with("/", fields - 1);
        request.headers_mut().insert("host", "billing.shop".parse().unwrap());
        request
    };
    assert_eq!(once(&mesh, WEB, service.vip, in_http1(90)).await.0, 200);
    assert_eq!(once(&mesh, WEB, service.vip, in_http1(101)).await.0, 431);
    let mut client = http2(&mesh, WEB, service.vip).await;
    // Method, scheme, host and path are four more.
    assert_eq!(read(client.send_request(with("http://billing.shop/", 96)).await.unwrap()).await.0, 200);
    let (status, headers, _) = read(client.send_request(with("http://billing.shop/", 97)).await.unwrap()).await;
    assert_eq!(status, 431);
    assert_eq!(headers["x-ambit-reason"], "request_too_large");
    mesh.logged(&["status=431", "reason=request_too_large"]).await;
    assert_eq!(read(client.send_request(with("http://billing.shop/", 1)).await.unwrap()).await.0, 200, "its connection goes on");
    assert_eq!(seen.requests(), 3, "what is refused was sent on");
}

#[tokio::test]
async fn a_tunnel_beyond_the_limit_is_refused_and_one_that_ends_makes_room() {
    let mesh = Mesh::start_with(29, Limits { open_tunnels: 2, ..Limits::default() }).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let first = tunnel(&mesh, WEB, service.vip).await.expect("a place");
    let _second = tunnel(&mesh, WEB, service.vip).await.expect("a place");
    let third = tunnel(&mesh, WEB, service.vip).await.expect_err("no place");
    assert!(third.to_string().contains("503"), "{third}");
    mesh.logged(&["reason=connection_limit"]).await;
    drop(first);
    while tunnel(&mesh, WEB, service.vip).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_pod_behind_the_waypoint_is_reached_at_its_own_address_and_must_prove_its_identity() {
    let mesh = Mesh::start(21).await;
    let seen = endpoint::start(&mesh, 1, "pod", BILLING).await;
    let pod = mesh.socket(1, HTTP);
    for (identity, status) in [(BILLING, 200), ("spiffe://cluster.local/ns/shop/sa/other", 503)] {
        let (listeners, table, cluster) = resources::direct(pod, identity);
        mesh.deliver(type_url::CLUSTER, vec![(cluster.name.clone(), cluster)]);
        mesh.deliver(type_url::LISTENER, listeners);
        mesh.deliver(type_url::ROUTE, vec![(table.name.clone(), table)]);
        assert_eq!(once(&mesh, WEB, pod, get("/")).await.0, status, "{identity}");
    }
    assert_eq!(seen.requests(), 1);
    mesh.logged(&["reason=peer_identity_mismatch"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_are_served() {
    const CLIENTS: usize = 300;
    let (mesh, service, seen) = billing(22).await;
    let mesh = Arc::new(mesh);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (mesh, vip) = (mesh.clone(), service.vip);
        tasks.spawn(async move {
            let mut sender = http1(&mesh, WEB, vip).await;
            for _ in 0..3 {
                sender.ready().await.unwrap();
                assert_eq!(read(sender.send_request(get("/")).await.unwrap()).await.0, 200);
            }
        });
    }
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    assert_eq!(seen.requests(), 3 * CLIENTS);
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_and_its_body_arrives() {
    let (mesh, service, _) = billing(17).await;
    let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nhost: b\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nhello"), "{rest}");
}
