//! Policies in dry run: nothing is refused by them, and what they would decide is told.

use std::time::{Duration, Instant};

use ambit_api::{
    envoy::pb::envoy::config::rbac::v3::{permission::Rule, rbac::Action},
    type_url,
};
use ambit_runtime::telemetry::metrics_handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    billing,
    explained::{OTHER, explained},
    support::{
        BILLING, Mesh, WEB,
        client::{get, once, tunnel},
        endpoint::{self, BANNER, CLOSED, DENIED},
        resources::{self, Ep, Service},
    },
};

const INTRUDER: &str = "spiffe://cluster.local/ns/shop/sa/intruder";

/// Waits until each of these labels, of policies in dry run, was counted so often.
async fn counted(expected: &[(&str, &str, u32)]) {
    let metrics = metrics_handle().unwrap();
    let began = Instant::now();
    loop {
        let text = metrics.render();
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("ambit_policy_dry_run_total{")).collect();
        let is = |(reason, policy, times): &(&str, &str, u32)| {
            let labels = [format!("reason=\"{reason}\""), format!("policy=\"{policy}\""), "reporter=\"waypoint\"".to_owned()];
            let of = |line: &&&str| labels.iter().all(|label| line.contains(label));
            lines.iter().filter(of).any(|line| line.ends_with(&format!(" {times}")))
        };
        if expected.iter().all(is) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{expected:?} in {lines:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_policies_in_dry_run_would_decide_of_requests_is_told_and_refuses_nothing() {
    let (mesh, mut service, seen) = billing(240).await;
    let any = || Rule::Any(true);
    service.rbac = vec![resources::rules(Action::Deny, "ns[shop]-policy[no-intruder]-rule[0]", any(), INTRUDER)];
    service.dry_run = vec![
        resources::rules(Action::Deny, "ns[shop]-policy[tried-deny]-rule[0]", any(), OTHER),
        resources::rules(Action::Allow, "ns[shop]-policy[tried-allow]-rule[1]", any(), WEB),
    ];
    mesh.deliver(type_url::LISTENER, resources::listeners(std::slice::from_ref(&service)));
    let of_other = "shop/tried-deny:policy_denied_explicit,shop/tried-allow:policy_denied_no_allow_match";
    for (identity, path, decided) in [(WEB, "/of-web", "shop/tried-allow:ok"), (OTHER, "/of-other", of_other)] {
        assert_eq!(once(&mesh, identity, service.vip, get(path)).await.0, 200, "{identity}");
        let line = mesh.logged(&[&format!("path={path} ")]).await;
        let told = format!(" dry_run={decided} ");
        assert!(line.contains(&told) && line.contains(" policy=- ") && line.contains(" reason=ok "), "{told}: {line}");
    }
    assert_eq!(seen.requests(), 2);
    // Of what is refused nothing is told.
    assert_eq!(once(&mesh, INTRUDER, service.vip, get("/of-intruder")).await.0, 403);
    let line = mesh.logged(&["path=/of-intruder "]).await;
    assert!(line.contains("policy=shop/no-intruder") && !line.contains("dry_run="), "{line}");
    counted(&[
        ("ok", "shop/tried-allow", 1),
        ("policy_denied_no_allow_match", "shop/tried-allow", 1),
        ("policy_denied_explicit", "shop/tried-deny", 1),
    ])
    .await;

    let told = explained(&mesh, &service, OTHER, "GET", "billing.shop", "/of-other", "1");
    let rule = |policy: &str| told.policies.iter().find(|said| said.rule.starts_with(policy)).unwrap();
    assert!(rule("shop/tried-deny").dry_run && rule("shop/tried-deny").matches, "{told:#?}");
    assert!(rule("shop/tried-allow").dry_run && !rule("shop/tried-allow").matches, "{told:#?}");
    assert!(!rule("shop/no-intruder").dry_run && told.status.is_none(), "{told:#?}");
}

#[tokio::test]
async fn what_a_policy_in_dry_run_would_decide_of_a_connection_is_told_once() {
    let mesh = Mesh::start(241).await;
    let deny = resources::rules(Action::Deny, "ns[shop]-policy[tried-bytes]-rule[0]", Rule::Any(true), WEB);
    let of = |name, host, port, protocol| Service {
        protocol,
        dry_run: vec![deny.clone()],
        ..Service::http(name, mesh.socket(host, port))
    };
    // One whose first bytes are not waited for, and one whose first bytes are looked at.
    let (banner, auto) = (of("banner", 100, 9000, "tcp"), of("auto", 101, 9001, "auto"));
    mesh.serve(&[banner.clone(), auto.clone()]);
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    for cluster in [banner.cluster(), auto.tcp_chain()] {
        mesh.endpoints(&cluster, vec![Ep::Hbone(mesh.socket(1, BANNER), BILLING)]);
    }
    for (service, times) in [(&banner, 1), (&auto, 2)] {
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        stream.write_all(b"\x00binary").await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let service = format!("dst.service={}.shop", service.name);
        let line = mesh.logged(&[&service, "reason=ok"]).await;
        assert!(line.contains(" dry_run=shop/tried-bytes:policy_denied_explicit"), "{line}");
        counted(&[("policy_denied_explicit", "shop/tried-bytes", times)]).await;
    }
}

#[tokio::test]
async fn of_what_the_endpoint_s_node_refuses_by_a_policy_no_dry_run_is_told() {
    let mesh = Mesh::start(183).await;
    let deny = resources::rules(Action::Deny, "ns[shop]-policy[tried-before]-rule[0]", Rule::Any(true), WEB);
    let of = |name, host, port, protocol| Service {
        protocol,
        dry_run: vec![deny.clone()],
        ..Service::http(name, mesh.socket(host, port))
    };
    let (banner, auto, shop) = (of("banner", 100, 9000, "tcp"), of("auto", 101, 9001, "auto"), of("shop", 102, 80, "http"));
    mesh.serve(&[banner.clone(), auto.clone(), shop.clone()]);
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    // What reaches no application for another cause is told of, as by node proxies. It comes last, so that the counts say that of what came before
    // it nothing was counted.
    for (port, reason, told) in [(DENIED, "policy_denied_explicit", false), (CLOSED, "upstream_refused", true)] {
        for cluster in [banner.cluster(), auto.tcp_chain(), shop.cluster()] {
            mesh.endpoints(&cluster, vec![Ep::Hbone(mesh.socket(1, port), BILLING)]);
        }
        assert!(tunnel(&mesh, WEB, banner.vip).await.is_err(), "{reason}");
        let mut stream = tunnel(&mesh, WEB, auto.vip).await.unwrap();
        // It may have been ended by then.
        let _ = stream.write_all(b"\x00binary").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(once(&mesh, WEB, shop.vip, get("/")).await.0, 503, "{reason}");
        for service in [&banner, &auto, &shop] {
            let line = mesh.logged(&[&format!("dst.service={}.shop", service.name), &format!("reason={reason}")]).await;
            let is_told = line.contains(" dry_run=shop/tried-before:policy_denied_explicit");
            assert!(is_told == told && line.contains("dry_run=") == told, "{line}");
            assert_eq!(line.contains(" policy=shop/of-the-node "), !told, "{line}");
        }
    }
    counted(&[("policy_denied_explicit", "shop/tried-before", 3)]).await;
}
