use ambit_api::envoy::pb::{
    envoy::config::{
        core::v3::{HeaderValue, HeaderValueOption},
        route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier},
    },
    google::protobuf::BoolValue,
};
use ambit_model::route::{Action as Does, HeaderMutations, RequestView, Upstream};
use http::HeaderMap;

use super::*;

fn route(name: &str, status: u32) -> pb::Route {
    let path = Some(PathSpecifier::Prefix(format!("/{name}")));
    pb::Route {
        name: name.into(),
        r#match: Some(pb::RouteMatch { path_specifier: path, ..Default::default() }),
        action: Some(Action::DirectResponse(pb::DirectResponseAction { status, ..Default::default() })),
        ..Default::default()
    }
}

fn config(routes: Vec<pb::Route>) -> RouteConfiguration {
    let domains = vec!["*".into()];
    let host = pb::VirtualHost { name: "v".into(), domains, routes, ..Default::default() };
    let other =
        pb::VirtualHost { name: "w".into(), domains: vec!["w".into()], routes: vec![route("w", 200)], ..Default::default() };
    RouteConfiguration { name: "t".into(), virtual_hosts: vec![host, other], ..Default::default() }
}

/// The table after `before`, and which routes of the first virtual host are those that there were.
fn after(before: &RouteConfiguration, now: &RouteConfiguration) -> (RouteTable, Vec<bool>) {
    let message = before.encode_to_vec();
    let before = table(&message, None).unwrap();
    let fresh = table(&now.encode_to_vec(), Some((&message, &before))).unwrap();
    let same = |one: &Arc<Route>| before.hosts.iter().flat_map(|host| &host.routes).any(|other| Arc::ptr_eq(one, other));
    let kept = fresh.hosts[0].routes.iter().map(same).collect();
    (fresh, kept)
}

/// The routes that some requests take.
fn taken(table: &RouteTable) -> Vec<Option<String>> {
    let headers = HeaderMap::new();
    let take = |path| {
        let request = RequestView { method: "GET", scheme: "http", authority: "any", path_and_query: path, headers: &headers };
        table.select(&request, None).map(|route| route.name.to_string())
    };
    ["/", "/a", "/a/b", "/b", "/c/x", "/d", "/e", "/x", "/other"].map(take).into()
}

fn assert_as_if_read_whole(table: &RouteTable, config: RouteConfiguration) {
    let whole = super::super::table(config).unwrap();
    assert_eq!(serde_json::to_value(table).unwrap(), serde_json::to_value(&whole).unwrap());
    assert_eq!(taken(table), taken(&whole));
}

#[test]
fn only_what_has_changed_is_compiled_wherever_it_moved() {
    let before = config(["a", "b", "c", "d"].map(|name| route(name, 200)).into());
    for (now, kept) in [
        (vec![route("a", 200), route("b", 404), route("c", 200), route("d", 200)], [true, false, true, true].as_slice()),
        (
            vec![route("x", 200), route("a", 200), route("b", 200), route("c", 200), route("d", 200)],
            &[false, true, true, true, true],
        ),
        (vec![route("d", 200), route("a", 200)], &[true, true]),
        (Vec::new(), &[]),
    ] {
        let now = config(now);
        let (table, found) = after(&before, &now);
        assert_eq!(found, kept);
        assert_as_if_read_whole(&table, now);
    }
}

#[test]
fn what_is_said_around_a_route_is_part_of_it() {
    let before = config(vec![route("a", 200)]);
    let header = HeaderValue { key: "x-a".into(), value: "1".into(), ..Default::default() };
    let added = vec![HeaderValueOption { header: Some(header), ..Default::default() }];
    let mut of_table = before.clone();
    of_table.response_headers_to_add = added.clone();
    let mut of_host = before.clone();
    of_host.virtual_hosts[0].response_headers_to_add = added;
    for now in [of_table, of_host] {
        let (table, kept) = after(&before, &now);
        assert_eq!(kept, [false]);
        assert_as_if_read_whole(&table, now);
    }
}

#[test]
fn what_cannot_be_taken_is_left_to_whoever_says_why() {
    let good = config(vec![route("a", 200)]);
    let message = good.encode_to_vec();
    let compiled = table(&message, None).unwrap();
    let mut bad = good.clone();
    bad.virtual_hosts[0].routes[0].r#match = None;
    let mut unknown = good;
    unknown.virtual_hosts[0].include_is_timeout_retry_header = true;
    unknown.validate_clusters = Some(BoolValue { value: true });
    for config in [bad, unknown] {
        assert!(table(&config.encode_to_vec(), Some((&message, &compiled))).is_none());
    }
    for cut in 1..message.len() {
        let _no_panic = table(&message[..cut], Some((&message, &compiled)));
    }
}

/// A route that forwards, and says which revision of it did.
fn to(name: &str, cluster: &str, revision: &str) -> pb::Route {
    let header = HeaderValue { key: "x-revision".into(), value: revision.into(), ..Default::default() };
    let cluster_specifier = Some(ClusterSpecifier::Cluster(cluster.into()));
    pb::Route {
        action: Some(Action::Route(pb::RouteAction { cluster_specifier, ..Default::default() })),
        response_headers_to_add: vec![HeaderValueOption { header: Some(header), ..Default::default() }],
        ..route(name, 200)
    }
}

#[test]
fn whatever_changes_a_table_that_comes_again_is_as_if_it_was_read_whole() {
    let names = ["a", "b", "c", "d", "e"];
    let all: Vec<pb::Route> = names.map(|name| to(name, "one", "1")).into();
    let before = config(all.clone());
    let check = |change: &dyn Fn(&mut Vec<pb::Route>), fresh: usize| {
        let mut routes = all.clone();
        change(&mut routes);
        let now = config(routes);
        let (table, kept) = after(&before, &now);
        assert_eq!(kept.iter().filter(|kept| !**kept).count(), fresh, "{kept:?}");
        assert_as_if_read_whole(&table, now);
    };
    check(&|_| {}, 0);
    for (at, name) in names.into_iter().enumerate() {
        // What it does, which requests it takes, and that it takes them in any case.
        check(&|routes| routes[at] = to(name, "one", "2"), 1);
        check(&|routes| routes[at] = to("x", "one", "1"), 1);
        check(&|routes| routes[at].r#match.as_mut().unwrap().case_sensitive = Some(BoolValue { value: false }), 1);
        check(&|routes| routes.insert(at, to("x", "two", "1")), 1);
        check(&|routes| drop(routes.remove(at)), 0);
        check(&|routes| routes.rotate_left(at), 0);
        check(&|routes| routes.swap(at, 2), 0);
        for (other, changed) in names.into_iter().enumerate().filter(|(other, _)| *other != at) {
            let two = |routes: &mut Vec<pb::Route>| {
                routes[at] = to(name, "two", "2");
                routes[other] = to(changed, "two", "2");
            };
            check(&two, 2);
            let one_and_moved = |routes: &mut Vec<pb::Route>| {
                routes[at] = to("x", "one", "1");
                let moved = routes.remove(other);
                routes.push(moved);
            };
            check(&one_and_moved, 1);
        }
    }
    check(&|routes| routes.push(to("x", "one", "1")), 1);
    check(&|routes| routes.clear(), 0);
    // The same twice.
    check(&|routes| routes.push(routes[0].clone()), 1);
}

/// Where a route of the first virtual host forwards to, and what it changes of responses.
fn said(table: &RouteTable, at: usize) -> (&Arc<Upstream>, &Arc<[HeaderMutations]>) {
    let route = &table.hosts[0].routes[at];
    let Does::Forward(upstream) = &route.action else { panic!("{route:?} forwards nothing") };
    (upstream, &route.response_headers)
}

#[test]
fn what_routes_say_alike_is_held_once_and_by_those_that_change_as_well() {
    let routes = vec![to("a", "one", "1"), to("b", "one", "1"), to("c", "two", "1"), to("d", "two", "2")];
    let now = config([routes.as_slice(), &[to("e", "two", "1")]].concat());
    let mut before = now.clone();
    before.virtual_hosts[0].routes[1] = to("b", "one", "0");
    for table in [table(&now.encode_to_vec(), None).unwrap(), after(&before, &now).0] {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| said(&table, at));
        assert!(Arc::ptr_eq(a.0, b.0) && Arc::ptr_eq(c.0, d.0) && !Arc::ptr_eq(b.0, c.0));
        assert!(Arc::ptr_eq(a.1, c.1) && !Arc::ptr_eq(c.1, d.1));
        assert_eq!(&*a.0.clusters[0].cluster, "one");
        assert_eq!(&*c.0.clusters[0].cluster, "two");
        assert_as_if_read_whole(&table, now.clone());
    }
}
