use std::time::Instant;

use super::*;
use crate::{
    address::{GatewayAddress, GatewayDestination, Network, NetworkAddress},
    plan,
    policy::{Action, Clause, Group, Match, Policy, PolicyKey, Scope, StringMatch},
    service::{Service, WeightedWaypoint},
    test_support::{endpoint_of, service, workload},
    workload::{Tunnel, Uid},
};

/// `web` and `batch` in the mesh, `legacy` outside; `api` with the endpoints `api-1` and `api-2`.
fn mesh() -> MeshState {
    let mut state = MeshState::new();
    state.insert_workload(workload("web", "10.0.0.1"));
    state.insert_workload(endpoint_of(workload("api-1", "10.0.0.2"), "api"));
    state.insert_workload(endpoint_of(workload("api-2", "10.0.0.3"), "api"));
    let outside = |name, ip| Workload { tunnel: Tunnel::None, ..workload(name, ip) };
    state.insert_workload(outside("legacy", "10.0.0.9"));
    state.insert_service(service("api", &["10.96.0.1"]));
    state
}

fn ask(state: &MeshState, from: &str, to: &str) -> Explanation {
    connection(state, &StateAlone, &Question::new(from, to).unwrap()).unwrap()
}

#[track_caller]
fn check(state: &MeshState, from: &str, to: &str, verdict: Verdict, reason: Option<Reason>) -> Explanation {
    let explained = ask(state, from, to);
    assert_eq!((explained.verdict, explained.reason), (verdict, reason), "{explained}");
    explained
}

fn policy(name: &str, action: Action, m: Match) -> Policy {
    let groups = vec![Group { clauses: vec![Clause { matches: vec![m] }] }];
    let key = PolicyKey::new("shop", name);
    Policy { key, scope: Scope::Namespace, action, dry_run: false, not_understood: false, groups }
}

fn principal(name: &str) -> Match {
    let text = StringMatch::Exact(format!("cluster.local/ns/shop/sa/{name}").into());
    Match { principals: vec![text], ..Match::default() }
}

fn waypoint() -> GatewayAddress {
    let destination = GatewayDestination::Address(NetworkAddress::new(Network::default(), "10.96.0.7".parse().unwrap()));
    GatewayAddress { destination, port: 15008 }
}

#[test]
fn a_service_is_explained_by_each_of_its_endpoints() {
    let explained = check(&mesh(), "shop/web", "api:80", Verdict::Allowed, Some(Reason::Ok));
    let to: Vec<_> = explained.ways.iter().map(|way| (way.to.as_deref(), way.carriage)).collect();
    assert_eq!(to, [(Some("shop/api-1"), Carriage::Hbone), (Some("shop/api-2"), Carriage::Hbone)]);
    let text = explained.to_string();
    assert!(text.starts_with("shop/web -> api:80\nALLOWED\n"), "{text}");
    assert!(text.contains("because api.shop.svc.cluster.local has 2 endpoints: 2 usable"), "{text}");
    assert!(text.contains("one of 1 more with the same end: shop/api-2"), "{text}");
}

#[test]
fn a_service_is_found_by_every_name_that_a_pod_may_use() {
    let state = mesh();
    for host in ["api", "api.shop", "api.shop.svc", "api.shop.svc.cluster.local", "API.shop.svc.cluster.local.", "10.96.0.1"] {
        check(&state, "web", &format!("{host}:80"), Verdict::Allowed, Some(Reason::Ok));
    }
    check(&state, "web", "shop/api-1:8080", Verdict::Allowed, Some(Reason::Ok));
    check(&state, "web", "api:81", Verdict::Refused, Some(Reason::ServicePortUnknown));
    check(&state, "web", "api-1:15008", Verdict::Refused, Some(Reason::LoopGuard));
}

#[test]
fn a_pod_without_ipv4_dials_the_ipv6_address_of_a_name() {
    let mut state = mesh();
    state.insert_workload(workload("new", "fd00::1"));
    state.insert_workload(endpoint_of(workload("api-3", "10.0.0.4,fd00::4"), "api"));
    state.insert_service(service("api", &["10.96.0.1", "fd96::1"]));
    for (to, dialled) in [("api:80", "fd96::1 its address"), ("api-3:8080", "[fd00::4]:8080")] {
        let explained = check(&state, "new", to, Verdict::Allowed, Some(Reason::Ok)).to_string();
        assert!(explained.contains(dialled), "{explained}");
    }
}

#[test]
fn a_client_that_lacks_the_family_of_the_address_it_dials_is_told_so() {
    let mut state = mesh();
    state.insert_workload(workload("new", "fd00::1"));
    state.insert_workload(workload("both", "10.0.0.5,fd00::5"));
    for to in ["10.0.0.2:8080", "10.96.0.1:80", "192.0.2.1:443"] {
        let explained = check(&state, "new", to, Verdict::Unknown, None).to_string();
        assert!(
            explained.contains("shop/new has no IPv4 address") && explained.contains("dial a name, or an IPv6"),
            "{explained}"
        );
        check(&state, "both", to, Verdict::Allowed, Some(Reason::Ok));
    }
    let explained = check(&state, "web", "[fd00::5]:8080", Verdict::Unknown, None).to_string();
    assert!(explained.contains("shop/web has no IPv6 address"), "{explained}");
    check(&state, "new", "127.0.0.1:80", Verdict::Allowed, Some(Reason::Ok));
}

#[test]
fn the_policy_and_the_rule_that_decide_are_named() {
    let mut state = mesh();
    state.insert_policy(policy("no-web", Action::Deny, principal("web")));
    let explained = check(&state, "web", "api:80", Verdict::Refused, Some(Reason::PolicyDeniedExplicit));
    assert_eq!(explained.ways[0].policy.as_deref(), Some("shop/no-web"));
    assert!(explained.to_string().contains("because A DENY policy matched (shop/no-web, rules[0])"), "{explained}");
    state.remove_policy(&PolicyKey::new("shop", "no-web"));
    state.insert_policy(policy("only-batch", Action::Allow, principal("batch")));
    let explained = check(&state, "web", "api:80", Verdict::Refused, Some(Reason::PolicyDeniedNoAllowMatch));
    assert!(explained.to_string().contains("closest was shop/only-batch, rules[0]"), "{explained}");
    state.insert_policy(policy("only-web", Action::Allow, principal("web")));
    let explained = check(&state, "web", "api:80", Verdict::Allowed, Some(Reason::Ok));
    assert!(explained.to_string().contains("because the ALLOW policy shop/only-web matches, rules[0]"), "{explained}");
}

#[test]
fn what_dry_run_policies_would_do_is_told_and_not_done() {
    let mut state = mesh();
    for (action, name, says) in [
        (Action::Deny, "web", "it would be refused: A DENY policy matched (shop/tried, rules[0])"),
        (
            Action::Allow,
            "batch",
            "it would be refused: ALLOW policies apply and none of their rules matched (closest was shop/tried, rules[0])",
        ),
        (Action::Allow, "web", "the ALLOW policy shop/tried would let it pass"),
    ] {
        state.insert_policy(Policy { dry_run: true, ..policy("tried", action, principal(name)) });
        let explained = check(&state, "web", "api:80", Verdict::Allowed, Some(Reason::Ok));
        assert!(explained.to_string().contains(&format!("because if dry-run policies were enforced, {says}")), "{explained}");
    }
}

#[test]
fn plain_text_into_the_mesh_is_decided_without_an_identity_and_out_of_it_by_nobody() {
    let mut state = mesh();
    check(&state, "legacy", "api-1:8080", Verdict::Allowed, Some(Reason::Ok));
    let anyone = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    state.insert_policy(policy("strict", Action::Deny, anyone));
    check(&state, "legacy", "api-1:8080", Verdict::Refused, Some(Reason::StrictMtlsRequired));
    check(&state, "legacy", "api:80", Verdict::Refused, Some(Reason::StrictMtlsRequired));
    check(&state, "web", "api:80", Verdict::Allowed, Some(Reason::Ok));
    let explained = check(&state, "web", "legacy:8080", Verdict::Allowed, Some(Reason::Ok));
    assert!(explained.to_string().contains("ALLOWED, in plain text"), "{explained}");
    check(&state, "web", "192.0.2.1:443", Verdict::Allowed, Some(Reason::Ok));
}

#[test]
fn what_is_decided_beyond_a_waypoint_is_part_of_the_answer() {
    let mut state = mesh();
    state.insert_service(Service {
        waypoints: vec![WeightedWaypoint { waypoint: waypoint(), weight: 1 }],
        ..service("api", &["10.96.0.1"])
    });
    check(&state, "web", "api:80", Verdict::Refused, Some(Reason::WaypointMissing));
    state.insert_service(service("gw", &["10.96.0.7"]));
    check(&state, "web", "api:80", Verdict::Refused, Some(Reason::WaypointUnreachable));
    let gateway = Workload { native_tunnel: true, ..endpoint_of(workload("gw", "10.0.0.7"), "gw") };
    state.insert_workload(gateway);
    let explained = check(&state, "web", "api:80", Verdict::Allowed, Some(Reason::Ok));
    assert_eq!(explained.ways[0].carriage, Carriage::Waypoint);
    // The endpoints see the waypoint, not the client.
    state.insert_policy(policy("only-web", Action::Allow, principal("web")));
    let explained = check(&state, "web", "api:80", Verdict::Refused, Some(Reason::PolicyDeniedNoAllowMatch));
    assert_eq!(explained.ways[0].logged(), Some(Reason::Ok));
}

#[test]
fn endpoints_that_answer_differently_are_told_apart() {
    let mut state = mesh();
    let mut picky = endpoint_of(workload("api-2", "10.0.0.3"), "api");
    picky.policies = vec![PolicyKey::new("shop", "never-sent")];
    state.insert_workload(picky);
    let explained = check(&state, "web", "api:80", Verdict::Unknown, None);
    let reasons: Vec<_> = explained.ways.iter().map(|way| way.reason).collect();
    assert_eq!(reasons, [Some(Reason::Ok), Some(Reason::PolicyUnknown)]);
    assert!(explained.to_string().contains("if it goes to shop/api-2: REFUSED (policy_unknown)"), "{explained}");
}

#[test]
fn an_endpoint_with_a_small_share_is_one_of_the_ways_and_one_that_is_rested_is_not() {
    let mut state = mesh();
    state.insert_workload(Workload { capacity: u32::MAX, ..endpoint_of(workload("api-2", "10.0.0.3"), "api") });
    assert_eq!(ask(&state, "web", "api:80").ways.len(), 2);
    let proxy = Proxy(Knowledge::COMPLETE, Capture::AsTold, Certificate::Held, Rests("/api-2"));
    let explained = connection(&state, &proxy, &Question::new("web", "api:80").unwrap()).unwrap();
    let to: Vec<_> = explained.ways.iter().filter_map(|way| way.to.as_deref()).collect();
    assert_eq!(to, ["shop/api-1"]);
    assert!(explained.to_string().contains("has 2 endpoints: 1 usable, 1 rested after failures"), "{explained}");
}

#[test]
fn what_a_host_name_stands_for_is_left_open() {
    let mut state = mesh();
    let outside = Workload { addresses: Vec::new(), hostname: "db.example.com".into(), ..workload("db", "10.0.0.8") };
    state.insert_workload(endpoint_of(Workload { tunnel: Tunnel::None, ..outside.clone() }, "db"));
    state.insert_service(service("db", &["10.96.0.2"]));
    let explained = check(&state, "web", "db:80", Verdict::Allowed, Some(Reason::Ok));
    assert!(explained.to_string().contains("at what its host name db.example.com stands for"), "{explained}");
    state.insert_workload(endpoint_of(outside, "db"));
    check(&state, "web", "db:80", Verdict::Unknown, None);
}

#[test]
fn a_headless_service_stands_for_its_pods() {
    let mut state = mesh();
    state.insert_service(service("api", &[]));
    let explained = check(&state, "web", "api:8080", Verdict::Allowed, Some(Reason::Ok));
    assert_eq!(explained.ways.len(), 2);
}

#[test]
fn names_that_are_not_known_come_with_those_that_are_near() {
    let error = |from: &str, to: &str| {
        let question = Question::new(from, to);
        question.and_then(|question| connection(&mesh(), &StateAlone, &question)).unwrap_err().to_string()
    };
    assert_eq!(error("shop/wbe", "api:80"), "there is no pod shop/wbe; near are shop/web");
    assert_eq!(
        error("web", "apis:80"),
        "apis is no service or pod of the mesh; near are api.shop, shop/api-1, shop/api-2; give the address if it is a host outside"
    );
    for wrong in ["api", "api:", "api:0", "api:http", "fd00::1:80", ":80", "[api]:80"] {
        assert!(error("web", wrong).ends_with("is not HOST:PORT, as api.shop:8080, 10.0.0.1:80 or [fd00::1]:80"), "{wrong}");
    }
}

/// A proxy that knows less, or other, than the control plane tells.
struct Proxy(Knowledge, Capture, Certificate, Rests);

/// Leaves the endpoint of this name alone.
#[derive(Debug, Clone, Copy)]
struct Rests(&'static str);

impl Observed for Rests {
    fn open(&self, _: &Uid) -> u32 {
        0
    }
    fn rested(&self, endpoint: &Uid, _: u16) -> Option<Instant> {
        endpoint.as_str().ends_with(self.0).then(Instant::now)
    }
    fn resolved(&self, _: &str) -> plan::Name {
        plan::Name::Unknown
    }
}

impl Surroundings for Proxy {
    fn observed<'a>(&'a self, _: &Workload) -> Box<dyn Observed + 'a> {
        Box::new(self.3)
    }
    fn knowledge(&self) -> Knowledge {
        self.0
    }
    fn capture(&self, _: &Workload) -> Capture {
        self.1.clone()
    }
    fn certificate(&self, _: &SpiffeId) -> Certificate {
        self.2.clone()
    }
}

#[test]
fn what_a_running_proxy_lacks_is_part_of_the_answer() {
    const NONE: Rests = Rests("no endpoint");
    let state = mesh();
    let none = |addresses, policies| Knowledge { addresses, policies };
    let other = || Capture::Served("spiffe://cluster.local/ns/shop/sa/earlier".parse().unwrap());
    let failed = || Certificate::Failed("no such account".to_owned());
    for (proxy, reason) in [
        (Proxy(Knowledge::COMPLETE, Capture::AsTold, Certificate::Held, NONE), Some(Reason::Ok)),
        (Proxy(none(false, true), Capture::AsTold, Certificate::Held, NONE), Some(Reason::SourceUnknown)),
        (Proxy(none(true, false), Capture::AsTold, Certificate::Held, NONE), Some(Reason::DestinationUnknown)),
        (Proxy(Knowledge::COMPLETE, other(), Certificate::Held, NONE), Some(Reason::SourceUnknown)),
        (Proxy(Knowledge::COMPLETE, Capture::Missing, Certificate::Held, NONE), None),
        (Proxy(Knowledge::COMPLETE, Capture::AsTold, failed(), NONE), Some(Reason::CertificateUnavailable)),
    ] {
        let explained = connection(&state, &proxy, &Question::new("web", "api:80").unwrap()).unwrap();
        assert_eq!(explained.reason, reason, "{explained}");
    }
}

#[test]
fn a_pod_that_the_proxy_serves_is_captured_though_the_control_plane_has_not_heard_of_it() {
    let mut state = mesh();
    let api = state.workload("Kubernetes//Pod/shop/api-1").unwrap();
    let served = Capture::Served(api.identity.clone());
    let unheard = Workload { tunnel: Tunnel::None, ..(**api).clone() };
    state.insert_workload(unheard);
    let asked = |capture| {
        let proxy = Proxy(Knowledge::COMPLETE, capture, Certificate::Held, Rests("no endpoint"));
        connection(&state, &proxy, &Question::new("shop/api-1", "web:80").unwrap()).unwrap().to_string()
    };
    assert!(asked(served).contains("is captured, as"), "{}", asked(Capture::AsTold));
    assert!(asked(Capture::AsTold).contains("is not captured"), "{}", asked(Capture::AsTold));
}

#[test]
fn a_pod_that_dials_itself_is_not_captured() {
    let explained = check(&mesh(), "web", "10.0.0.1:8080", Verdict::Allowed, Some(Reason::Ok));
    assert!(explained.to_string().contains("which is not captured"), "{explained}");
}
