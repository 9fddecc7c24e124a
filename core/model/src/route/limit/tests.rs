use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use super::*;
use crate::route::{
    Action, Conditions, DirectResponse, DomainMatch, PathMatch, PathTest, Route, RouteFilters, RouteMatch, RouteTable,
    VirtualHost,
};

fn filling(most: u32) -> Filling {
    Filling { most, tokens: 1, every: Duration::from_secs(3600) }
}

fn settings() -> LimitSettings {
    LimitSettings {
        enabled: Share::ALL,
        enforced: Share::ALL,
        filling: Filling::UNLIMITED,
        always: false,
        parts: Vec::new(),
        descriptors: Vec::new(),
        most_values: 4,
        status: 429,
        exhausted: false,
        tells: false,
        tells_when: false,
        refused: HeaderMutations::default(),
        passed: HeaderMutations::default(),
    }
}

fn part(key: &str, source: Source) -> Part {
    Part { key: key.into(), source, may_miss: false }
}

/// The policy that the route names under this key.
fn of_policy(key: &str) -> Part {
    part(key, Source::Route("ambit.dev".into(), vec![key.into()]))
}

fn descriptor(entries: &[(&str, &str)], most: u32) -> Descriptor {
    let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Descriptor { entries, filling: filling(most) }
}

/// How many of nine requests pass whose route names the policy `p` under a key, each with the header `x-who` if there is one.
fn passing(limit: &LocalLimit, key: &str, peer: &str, who: Option<&'static str>) -> usize {
    let mut headers = HeaderMap::new();
    if let Some(who) = who {
        headers.insert("x-who", HeaderValue::from_static(who));
    }
    let request = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/", headers: &headers };
    let metadata: Value = json!({"ambit.dev": {key: "p"}});
    let counted = Counted { request, peer: Some(peer), metadata: &metadata, remote: None };
    let now = Instant::now();
    (0..9).filter(|_| limit.take(&counted, now).allowed).count()
}

#[test]
fn without_descriptors_all_requests_take_from_one_bucket() {
    let limit = LocalLimit::new(LimitSettings { filling: filling(3), ..settings() }, Instant::now());
    assert_eq!((passing(&limit, "", "a", None), passing(&limit, "", "b", None)), (3, 0));
}

/// As the control plane says it of three policies.
fn three() -> LimitSettings {
    let who = Part { may_miss: true, ..part("who", Source::Header("x-who".into())) };
    LimitSettings {
        parts: vec![
            vec![of_policy("total")],
            vec![of_policy("client"), part("peer", Source::Peer)],
            vec![of_policy("header"), who],
        ],
        descriptors: vec![
            descriptor(&[("total", "p")], 2),
            descriptor(&[("client", "p"), ("peer", "")], 3),
            descriptor(&[("header", "p"), ("who", "")], 4),
            descriptor(&[("header", "p"), ("who", "vip")], 8),
        ],
        ..settings()
    }
}

#[test]
fn a_request_is_counted_by_the_descriptor_that_fits_what_is_found_of_it() {
    let limit = LocalLimit::new(three(), Instant::now());
    assert_eq!([passing(&limit, "total", "a", None), passing(&limit, "total", "b", Some("x"))], [2, 0]);
    assert_eq!([passing(&limit, "client", "a", None), passing(&limit, "client", "b", None)], [3, 3]);
    assert_eq!(passing(&limit, "client", "a", None), 0);
    assert_eq!([passing(&limit, "header", "a", Some("x")), passing(&limit, "header", "b", Some("x"))], [4, 0]);
    assert_eq!(passing(&limit, "header", "a", Some("vip")), 8, "what is named has its own");
    assert_eq!(passing(&limit, "other", "a", Some("x")), 9, "the default bucket is never empty");
}

#[test]
fn what_is_missing_is_left_out_where_it_may_be() {
    assert_eq!(passing(&LocalLimit::new(three(), Instant::now()), "header", "a", None), 9);
    let mut settings = three();
    settings.descriptors.push(descriptor(&[("header", "p")], 1));
    assert_eq!(passing(&LocalLimit::new(settings, Instant::now()), "header", "a", None), 1);
}

#[test]
fn the_default_bucket_counts_as_well_if_it_is_to() {
    let settings = LimitSettings { always: true, filling: filling(1), ..three() };
    let limit = LocalLimit::new(settings, Instant::now());
    assert_eq!(passing(&limit, "total", "a", None), 1);
}

#[test]
fn what_the_strictest_refuses_takes_no_tokens_of_others() {
    let parts = vec![vec![part("a", Source::Text("1".into()))], vec![part("b", Source::Text("1".into()))]];
    let mut fast = descriptor(&[("a", "1")], 9);
    fast.filling.tokens = 100;
    let descriptors = vec![fast, descriptor(&[("b", "1")], 2)];
    let limit = LocalLimit::new(LimitSettings { parts, descriptors, ..settings() }, Instant::now());
    assert_eq!(passing(&limit, "", "a", None), 2);
    let Some(Cell::One(bucket)) = limit.of.first() else { panic!("no bucket") };
    assert_eq!(bucket.remaining(Instant::now()), 7);
}

#[test]
fn a_limit_that_is_said_anew_goes_on_where_nothing_changed() {
    let now = Instant::now();
    let before = LocalLimit::new(three(), now);
    assert_eq!([passing(&before, "total", "a", None), passing(&before, "client", "a", None)], [2, 3]);
    let mut settings = three();
    settings.descriptors.remove(3);
    settings.descriptors.push(descriptor(&[("new", "p")], 5));
    settings.descriptors.swap(0, 1);
    settings.parts.push(vec![of_policy("new")]);
    let after = LocalLimit::new(settings.clone(), now).after(&before);
    assert_eq!([passing(&after, "total", "a", None), passing(&after, "client", "a", None)], [0, 0]);
    assert_eq!(passing(&after, "new", "a", None), 5);
    settings.descriptors.iter_mut().for_each(|descriptor| descriptor.filling.most += 1);
    let other = LocalLimit::new(settings, now).after(&before);
    assert_eq!([passing(&other, "total", "a", None), passing(&other, "client", "a", None)], [3, 4]);
}

/// A route that says this limit.
fn route(name: &str, limit: &Arc<LocalLimit>) -> Arc<Route> {
    let path = PathMatch { test: PathTest::Prefix("/".into()), case_sensitive: true };
    let said = RouteFilters { limit: Some(limit.clone()), ..Default::default() };
    Arc::new(Route {
        name: name.into(),
        when: RouteMatch::new(path, Conditions::default()),
        action: Action::Direct(DirectResponse { status: 200, body: String::new() }.into()),
        said: said.held(),
        request_headers: [].into(),
        response_headers: [].into(),
    })
}

#[test]
fn limits_of_a_table_go_on_by_the_names_of_its_routes_and_those_that_share_one_share_it_still() {
    let table = |routes: &[(&str, &Arc<LocalLimit>)]| {
        let routes = routes.iter().map(|(name, limit)| route(name, limit)).collect();
        RouteTable::new("t", vec![VirtualHost::new("h", vec![DomainMatch::Any], routes)], false)
    };
    let limit = |most| Arc::new(LocalLimit::new(LimitSettings { filling: filling(most), ..settings() }, Instant::now()));
    let (own, shared) = (limit(3), limit(12));
    let before = table(&[("own", &own), ("a", &shared), ("b", &shared)]);
    assert_eq!([&own, &shared].map(|limit| passing(limit, "", "a", None)), [3, 9]);
    let shared = limit(12);
    let routes = [("new", &limit(3)), ("c", &shared), ("b", &shared), ("a", &shared), ("own", &limit(3))];
    let after = table(&routes).after(&before);
    let of = |at: usize| after.hosts[0].routes[at].filters().limit.clone().unwrap();
    assert!(Arc::ptr_eq(&of(1), &of(2)) && Arc::ptr_eq(&of(2), &of(3)));
    assert_eq!([0, 1, 3, 4].map(|at| passing(&of(at), "", "a", None)), [3, 3, 0, 0]);
}

#[test]
fn it_is_told_by_what_a_request_is_counted() {
    let limit = LocalLimit::new(three(), Instant::now());
    let headers = HeaderMap::new();
    let request = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/", headers: &headers };
    let metadata: Value = json!({"ambit.dev": {"client": "p"}});
    let words = limit.in_words(&Counted { request, peer: Some("web"), metadata: &metadata, remote: None });
    assert_eq!(words, ["1 in 3600s, 3 at once for client p, peer web"]);
    assert!(limit.in_words(&Counted { request, peer: None, metadata: &Value::Null, remote: None }).is_empty());
}

#[test]
fn a_server_is_asked_for_the_descriptors_that_a_request_has_whole_and_of_several_values_by_the_first() {
    let optional = |key: &str, source| Part { may_miss: true, ..part(key, source) };
    let limit = GlobalLimit {
        domain: None,
        descriptors: vec![
            vec![part("plan", Source::Text("gold".into())), part("user", Source::Header("x-user".into()))],
            vec![part("remote_address", Source::Remote)],
            vec![part("plan", Source::Text("gold".into())), optional("identity", Source::Peer)],
            vec![optional("identity", Source::Peer)],
            vec![part("host", Source::Header("host".into())), part("method", Source::Header(":method".into()))],
        ],
    };
    let mut headers = HeaderMap::new();
    let asked = |headers: &HeaderMap, peer: Option<&str>| {
        let request = RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/", headers };
        let counted = Counted { request, peer, metadata: &Value::Null, remote: Some([192, 0, 2, 1].into()) };
        limit.in_words(&counted, "shop")
    };
    let in_domain = |texts: &[&str]| texts.iter().map(|text| format!("{text} in the domain shop")).collect::<Vec<_>>();
    let without = ["remote_address 192.0.2.1", "plan gold", "host shop, method GET"];
    assert_eq!(asked(&headers, None), in_domain(&without));
    for value in ["ann", "bob"] {
        headers.append("x-user", HeaderValue::from_static(value));
    }
    let whole =
        ["plan gold, user ann", "remote_address 192.0.2.1", "plan gold, identity web", "identity web", "host shop, method GET"];
    assert_eq!(asked(&headers, Some("web")), in_domain(&whole));
}
