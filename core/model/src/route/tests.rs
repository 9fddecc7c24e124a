use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::*;

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap());
    }
    map
}

fn view<'a>(method: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView { method, scheme: "http", authority: "shop.example:8080", path_and_query: path, headers }
}

fn path(test: PathTest) -> PathMatch {
    PathMatch { test, case_sensitive: true }
}

fn when(test: PathTest) -> RouteMatch {
    RouteMatch::new(path(test), Conditions::default())
}

fn header(name: &str, test: HeaderTest) -> HeaderMatch {
    HeaderMatch { name: name.into(), test, invert: false, missing_is_empty: false }
}

fn text(test: StringTest) -> StringMatch {
    StringMatch::new(test, false)
}

/// The cases of one path test: what it takes and what it leaves.
fn check(test: PathTest, takes: &[&str], leaves: &[&str]) {
    let test = path(test);
    for p in takes {
        assert!(test.matches(p), "{test:?} left {p}");
    }
    for p in leaves {
        assert!(!test.matches(p), "{test:?} took {p}");
    }
}

#[test]
fn paths_match_by_text_by_element_and_by_expression() {
    check(PathTest::Exact("/a".into()), &["/a"], &["/a/", "/ab", "/A", "/"]);
    check(PathTest::Prefix("/a".into()), &["/a", "/ab", "/a/b"], &["/", "/A"]);
    check(PathTest::PathSeparatedPrefix("/a".into()), &["/a", "/a/", "/a/b"], &["/ab", "/", "/A/b"]);
    check(PathTest::Regex(Pattern::new("/v[0-9]+/.*").unwrap()), &["/v1/x", "/v22/"], &["/v/x", "/x/v1/x"]);
    let loose = PathMatch { test: PathTest::PathSeparatedPrefix("/Abc".into()), case_sensitive: false };
    assert!(loose.matches("/aBC/x") && !loose.matches("/abcd") && !loose.matches("/é"));
}

#[test]
fn a_query_is_no_part_of_the_path() {
    let none = HeaderMap::new();
    assert_eq!(view("GET", "/a?b=/c#d", &none).path(), "/a");
    assert_eq!(view("GET", "/a?b=/c#d", &none).query(), Some("b=/c"));
    assert!(when(PathTest::Exact("/a".into())).matches(&view("GET", "/a?x=1", &none), None));
}

#[test]
fn header_tests_look_at_each_line_and_know_absence() {
    let agent = [("user-agent", "one"), ("user-agent", "two")];
    let map = headers(&[("x-a", "one"), ("x-a", "two"), ("x-n", "-3"), agent[0], agent[1]]);
    let request = view("POST", "/", &map);
    let exact = |v: &str| HeaderTest::Value(StringMatch::exact(v));
    assert!(header("x-a", exact("one")).matches(&request) && header("x-a", exact("two")).matches(&request));
    assert!(!header("x-a", exact("one,two")).matches(&request));
    assert!(header("user-agent", exact("one,two")).matches(&request), "there is one line of it in any case");
    assert!(!header("user-agent", exact("one")).matches(&request));
    assert!(header(":method", exact("POST")).matches(&request));
    assert!(header(":authority", exact("shop.example:8080")).matches(&request));
    assert!(header("x-n", HeaderTest::Range(-10, 0)).matches(&request));
    assert!(!header("x-n", HeaderTest::Range(-10, -3)).matches(&request));
    assert!(header("x-a", HeaderTest::Present(true)).matches(&request));
    assert!(header("x-b", HeaderTest::Present(false)).matches(&request));
    assert!(!header("x-b", HeaderTest::Present(true)).matches(&request));
    let inverted = |value| HeaderMatch { invert: true, ..header("x-a", exact(value)) };
    assert!(inverted("three").matches(&request));
    assert!(!inverted("one").matches(&request) && !inverted("two").matches(&request));
    let absent = HeaderMatch { invert: true, ..header("x-b", exact("one")) };
    assert!(!absent.matches(&request), "a missing header does not match a test on its value, inverted or not");
    let empty = HeaderMatch { invert: true, missing_is_empty: true, ..header("x-b", exact("one")) };
    assert!(empty.matches(&request));
}

#[test]
fn string_tests_do_what_they_are_called() {
    assert!(text(StringTest::Prefix("ab".into())).matches("abc") && !text(StringTest::Prefix("ab".into())).matches("cab"));
    assert!(text(StringTest::Suffix("bc".into())).matches("abc") && !text(StringTest::Suffix("bc".into())).matches("bcd"));
    assert!(text(StringTest::Contains("b".into())).matches("abc") && !text(StringTest::Contains("d".into())).matches("abc"));
    assert!(!text(StringTest::Regex(Pattern::new("b").unwrap())).matches("abc"), "an expression matches the whole text");
    assert!(StringMatch::new(StringTest::Exact("ABC".into()), true).matches("abC"));
    assert!(!StringMatch::new(StringTest::Exact("ABC".into()), false).matches("abC"));
}

#[test]
fn query_tests_take_the_first_value() {
    let none = HeaderMap::new();
    let request = view("GET", "/?a=1&a=2&b", &none);
    let value = |name: &str, v: &str| QueryMatch { name: name.into(), test: QueryTest::Value(StringMatch::exact(v)) };
    assert!(value("a", "1").matches(&request));
    assert!(!value("a", "2").matches(&request));
    assert!(!value("A", "1").matches(&request), "names are compared exactly");
    assert!(value("b", "").matches(&request));
    assert!(QueryMatch { name: "b".into(), test: QueryTest::Present(true) }.matches(&request));
    assert!(QueryMatch { name: "c".into(), test: QueryTest::Present(false) }.matches(&request));
}

#[test]
fn a_grpc_match_wants_the_content_type() {
    let grpc = RouteMatch::new(path(PathTest::Prefix("/".into())), Conditions { grpc: true, ..Default::default() });
    for (content_type, taken) in [("application/grpc", true), ("application/grpc+proto", true), ("application/grpc-web", false)] {
        let map = headers(&[(CONTENT_TYPE.as_str(), content_type)]);
        assert_eq!(grpc.matches(&view("POST", "/s/m", &map), None), taken, "{content_type}");
    }
}

#[test]
fn a_route_for_some_clients_looks_at_the_proven_identity() {
    let none = HeaderMap::new();
    let peer = [(text(StringTest::Prefix("spiffe://cluster.local/ns/shop/".into())), false)].into();
    let from_shop = RouteMatch::new(path(PathTest::Prefix("/".into())), Conditions { peer, ..Default::default() });
    let request = view("GET", "/", &none);
    assert!(from_shop.matches(&request, Some("spiffe://cluster.local/ns/shop/sa/web")));
    assert!(!from_shop.matches(&request, Some("spiffe://cluster.local/ns/shopping/sa/web")));
    assert!(!from_shop.matches(&request, None));
}

fn upstream(clusters: &[(&str, u32)]) -> Upstream {
    Upstream {
        clusters: clusters
            .iter()
            .map(|(name, weight)| {
                ClusterWeight {
                    cluster: (*name).into(),
                    weight: *weight,
                    request_headers: HeaderMutations::default(),
                    response_headers: HeaderMutations::default(),
                    host: None,
                }
                .into()
            })
            .collect(),
        cluster_not_found: 503,
        path: None,
        host: None,
        timeout: None,
        mirrors: vec![],
        retry: None,
        calls: None,
        stream: None,
        hash: vec![],
        upgrades: vec![],
    }
}

#[test]
fn a_route_decides_about_the_upgrades_that_it_names_and_leaves_others_to_its_chain() {
    let rule = |name: &str, enabled| UpgradeRule { name: name.into(), enabled };
    let upstream = Upstream { upgrades: vec![rule("irc/6.9", true), rule("websocket", false)], ..upstream(&[("a", 1)]) };
    for otherwise in [true, false] {
        assert!(upstream.passes_upgrade("irc/6.9", otherwise));
        assert!(!upstream.passes_upgrade("websocket", otherwise));
        assert_eq!(upstream.passes_upgrade("irc", otherwise), otherwise);
    }
}

fn route(name: &str, when: RouteMatch) -> std::sync::Arc<Route> {
    let action = Action::Forward(upstream(&[(name, 1)]).into());
    Route { name: name.into(), when, action, said: None, request_headers: [].into(), response_headers: [].into() }.into()
}

#[test]
fn the_best_virtual_host_and_then_the_first_route_win() {
    let host = |name: &str, domains: &[&str]| {
        let routes = vec![
            route(&format!("{name}-a"), when(PathTest::Exact("/a".into()))),
            route(&format!("{name}-any"), when(PathTest::Prefix("/".into()))),
        ];
        VirtualHost::new(name, domains.iter().map(|d| DomainMatch::parse(d)).collect(), routes)
    };
    let hosts =
        vec![host("any", &["*"]), host("suffix", &["*.example"]), host("exact", &["shop.example"]), host("prefix", &["shop.*"])];
    let table = RouteTable::new("t", hosts, true);
    let none = HeaderMap::new();
    let select = |authority: &'static str, path: &'static str| {
        let request = RequestView { authority, ..view("GET", path, &none) };
        table.select(&request, None).map(|r| r.name.to_string())
    };
    assert_eq!(select("Shop.Example:8080", "/a").as_deref(), Some("exact-a"));
    assert_eq!(select("shop.example", "/b").as_deref(), Some("exact-any"));
    assert_eq!(select("x.example", "/a").as_deref(), Some("suffix-a"));
    assert_eq!(select("shop.test", "/a").as_deref(), Some("prefix-a"));
    assert_eq!(select("[::1]:80", "/a").as_deref(), Some("any-a"));
    let nothing = RouteTable::new("t", vec![host("exact", &["shop.example"])], false);
    assert!(nothing.select(&view("GET", "/a", &none), None).is_none(), "the port counts unless it is ignored");
}

#[test]
fn of_many_routes_a_request_looks_at_those_alone_that_its_path_may_take() {
    let begins = (0..1000).map(|number| PathTest::PathSeparatedPrefix(format!("/r/{number}").into()));
    let nested = ["/r", "/r/5/x"].map(|path| PathTest::Prefix(path.into()));
    let whole = (0..1000).map(|number| PathTest::Exact(format!("/r/{number}/x").into()));
    let tests = begins.chain(nested).chain(whole);
    let routes: Vec<_> = tests.enumerate().map(|(number, test)| route(&number.to_string(), when(test))).collect();
    let paths = paths::Paths::new(&routes);
    for (path, name, tested) in [
        ("/r/5/x/y", Some("5"), 1),
        ("/r/7/x", Some("7"), 2),
        ("/r/x", Some("1000"), 1),
        ("/q", None, 0),
        ("/r/70/x", Some("70"), 3),
    ] {
        let looked = std::cell::Cell::new(0);
        let found = paths.first(&routes, path, |route| {
            looked.set(looked.get() + 1);
            route.when.path.matches(path)
        });
        assert_eq!(found.map(|route| &*route.name), name, "{path}");
        assert!(looked.get() <= tested + 2, "{path}: {} were looked at", looked.get());
    }
}

#[test]
fn a_virtual_host_that_comes_again_takes_what_a_new_one_would() {
    let host = |routes: &[std::sync::Arc<Route>]| VirtualHost::new("h", vec![DomainMatch::Any], routes.to_vec());
    let before = vec![
        route("a", when(PathTest::Exact("/a".into()))),
        route("b", when(PathTest::Prefix("/b".into()))),
        route("c", when(PathTest::Regex(Pattern::new("/c.*").unwrap()))),
        route("any", when(PathTest::Prefix("/".into()))),
    ];
    let in_any_case = |test| RouteMatch::new(PathMatch { test, case_sensitive: false }, Conditions::default());
    let tests = [
        when(PathTest::Prefix("/b".into())),
        when(PathTest::PathSeparatedPrefix("/b".into())),
        when(PathTest::Exact("/b".into())),
        when(PathTest::Exact("/a".into())),
        when(PathTest::Prefix("/a/b".into())),
        in_any_case(PathTest::Prefix("/b".into())),
        in_any_case(PathTest::Exact("/a".into())),
        when(PathTest::Regex(Pattern::new("/[ab].").unwrap())),
        when(PathTest::Text(StringMatch::exact("/b").into())),
    ];
    let none = HeaderMap::new();
    for test in tests {
        for at in 0..before.len() {
            let mut routes = before.clone();
            routes[at] = route("new", test.clone());
            let again = VirtualHost::after(&host(&before), "h", vec![DomainMatch::Any], routes.clone());
            let tables = [again, host(&routes)].map(|host| RouteTable::new("t", vec![host], false));
            for path in ["/", "/a", "/A", "/a/b", "/ab", "/b", "/B/x", "/b/x", "/bx", "/c", "/cx"] {
                let [again, fresh] = tables
                    .each_ref()
                    .map(|table| table.select(&view("GET", path, &none), None).map(|route| route.name.to_string()));
                assert_eq!(again, fresh, "{path}, with {test:?} at {at}");
            }
        }
    }
}

#[test]
fn what_a_route_does_not_say_is_written_all_the_same() {
    let written = serde_json::to_value(&*route("r", when(PathTest::Prefix("/".into())))).unwrap();
    let of_filters = ["cors", "session", "fault", "limit", "metadata", "global_limits", "processing"];
    assert!(of_filters.iter().all(|name| written.get(name).is_some()), "{written}");
    let none = serde_json::json!([]);
    assert!(["request_headers", "response_headers"].iter().all(|name| written[name] == none), "{written}");
    let path = serde_json::json!({"test": {"prefix": "/"}, "case_sensitive": true});
    let asked = serde_json::json!({"path": path, "headers": [], "query": [], "grpc": false, "peer": []});
    assert_eq!(written["when"], asked);
}

#[test]
fn weights_share_requests_and_zero_gets_none() {
    let split = upstream(&[("v1", 95), ("off", 0), ("v2", 5)]);
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for n in 0..1000 {
        *counts.entry(split.choose(n).unwrap().cluster.to_string()).or_default() += 1;
    }
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), [("v1".to_owned(), 950), ("v2".to_owned(), 50)]);
    assert!(upstream(&[("off", 0)]).choose(7).is_none());
    assert!(upstream(&[]).choose(7).is_none());
}

#[test]
fn a_prefix_rewrite_replaces_the_prefix_and_keeps_the_query() {
    let none = HeaderMap::new();
    let prefix = path(PathTest::PathSeparatedPrefix("/foo".into()));
    let rewrite = PathRewrite::Prefix("/xyz".into());
    for (from, to) in [("/foo/bar?q=1", "/xyz/bar?q=1"), ("/foo", "/xyz"), ("/foo/", "/xyz/")] {
        assert_eq!(rewrite.apply(&view("GET", from, &none), &prefix), to);
    }
    let root = PathRewrite::Regex(Pattern::new("^/foo(/?)(.*)").unwrap(), "/\\2".into());
    for (from, to) in [("/foo/bar", "/bar"), ("/foo", "/"), ("/foo/?a=b", "/?a=b")] {
        assert_eq!(root.apply(&view("GET", from, &none), &prefix), to);
    }
    assert_eq!(PathRewrite::Full("/all".into()).apply(&view("GET", "/foo?x", &none), &prefix), "/all?x");
    let dollar = PathRewrite::Regex(Pattern::new("o+").unwrap(), "$1".into());
    assert_eq!(dollar.apply(&view("GET", "/foo", &none), &prefix), "/f$1");
}

#[test]
fn a_redirect_builds_its_location_from_what_it_changes() {
    let none = HeaderMap::new();
    let base = Redirect { status: 302, scheme: None, host: None, port: None, path: None, strip_query: false };
    let matched = path(PathTest::PathSeparatedPrefix("/foo".into()));
    let check = |redirect: &Redirect, authority: &'static str, expected: &str| {
        let request = RequestView { authority, ..view("GET", "/foo/bar?q=1", &none) };
        assert_eq!(redirect.location(&request, &matched), expected);
    };
    check(&base, "shop.example:8080", "http://shop.example:8080/foo/bar?q=1");
    check(&Redirect { scheme: Some("https".into()), ..base.clone() }, "shop.example:80", "https://shop.example/foo/bar?q=1");
    check(
        &Redirect { scheme: Some("https".into()), ..base.clone() },
        "shop.example:8080",
        "https://shop.example:8080/foo/bar?q=1",
    );
    check(&Redirect { port: Some(9000), ..base.clone() }, "[::1]:80", "http://[::1]:9000/foo/bar?q=1");
    check(
        &Redirect { host: Some("o.example".into()), port: Some(9000), ..base.clone() },
        "x",
        "http://o.example:9000/foo/bar?q=1",
    );
    check(&Redirect { strip_query: true, ..base.clone() }, "x", "http://x/foo/bar");
    check(&Redirect { path: Some(PathRewrite::Full("/new".into())), ..base.clone() }, "x", "http://x/new?q=1");
    check(&Redirect { path: Some(PathRewrite::Prefix("/p".into())), ..base }, "x", "http://x/p/bar?q=1");
}

#[test]
fn headers_are_removed_before_they_are_set() {
    let mut map = headers(&[("x-a", "1"), ("x-b", "1"), ("x-c", "1")]);
    let option = |name: &str, value: &str, action| HeaderOption {
        name: name.parse().unwrap(),
        value: HeaderValueTemplate::parse(value).unwrap(),
        action,
        keep_empty: false,
    };
    let mutations = HeaderMutations {
        remove: vec!["x-a".parse().unwrap()],
        set: vec![
            option("x-a", "2", AppendAction::AddIfAbsent),
            option("x-b", "2", AppendAction::AppendOrAdd),
            option("x-c", "100%%", AppendAction::OverwriteOrAdd),
            option("x-d", "%DOWNSTREAM_PEER_URI_SAN%", AppendAction::AppendOrAdd),
            option("x-e", "2", AppendAction::OverwriteIfExists),
            option("x-b", "3", AppendAction::AddIfAbsent),
            option("x-f", "%REQ(:path)%!", AppendAction::AppendOrAdd),
        ],
    };
    let none = HeaderMap::new();
    mutations.apply(&mut map, &view("GET", "/p", &none), Some("spiffe://td/ns/a/sa/b"));
    assert_eq!(
        map,
        headers(&[("x-a", "2"), ("x-b", "1"), ("x-b", "2"), ("x-c", "100%"), ("x-d", "spiffe://td/ns/a/sa/b"), ("x-f", "/p!")])
    );
    assert!(HeaderValueTemplate::parse("%START_TIME%").unwrap_err().contains("START_TIME"));
    assert!(HeaderValueTemplate::parse("50%").is_err());
}

#[test]
fn a_path_is_brought_to_its_normal_form_before_rules_see_it() {
    let check = |from: &str, merged: Option<&str>| assert_eq!(normalize_path(from, true).as_deref(), merged, "{from}");
    check("/", Some("/"));
    check("/a/./b/../c", Some("/a/c"));
    check("/a//b///c/", Some("/a/b/c/"));
    check("/a/..", Some("/"));
    check("/a/b/..", Some("/a/"));
    check("/a/%2e%2E/admin", Some("/admin"));
    check("/a\\..\\admin", Some("/admin"));
    check("/%61dmin", Some("/admin"));
    check("/a%2Fb%20c", Some("/a%2Fb%20c"));
    check("relative", None);
    assert_eq!(normalize_path("/a//b/", false).as_deref(), Some("/a//b/"));
}

/// Each of these is what an unmodified Envoy (1.40) with `normalize_path` gives, 400 for `None`.
#[test]
fn a_path_has_the_normal_form_that_envoy_gives_it() {
    for (from, normal) in [
        ("/../a", Some("/a")),
        ("/..", Some("/")),
        ("/a/../../..", Some("/")),
        ("//..", Some("/")),
        ("//a//b/..", Some("//a//")),
        ("/..a/...//.", Some("/..a/...//")),
        ("/a%2e%2e/b", Some("/a../b")),
        ("/a/.%2e/b", Some("/b")),
        ("/a;b/../c", Some("/c")),
        ("/a\\b", Some("/a/b")),
        ("/%41%7e%2F%5c", Some("/A~%2F%5c")),
        ("/%252e%252e/a", Some("/%252e%252e/a")),
        ("/%25361dmin", Some("/%25361dmin")),
        ("/%%361dmin", Some("/%2561dmin")),
        ("/100%", Some("/100%")),
        ("/%zz/a", Some("/%zz/a")),
        ("/%zz%2e%2e/a", Some("/%zz../a")),
        ("/%+0/a", Some("/%+0/a")),
        ("/%4", Some("/%4")),
        ("/a|b\"", Some("/a%7Cb%22")),
        ("/<>`{}^[]", Some("/%3C%3E%60%7B%7D%5E[]")),
        ("/%00", None),
        ("/\u{7f}", None),
        ("/ä", None),
    ] {
        assert_eq!(normalize_path(from, false).as_deref(), normal, "{from}");
    }
}

fn subject<'a>(principal: Option<&'a str>, request: Option<RequestView<'a>>) -> Subject<'a> {
    Subject {
        principal,
        remote_ip: "10.244.1.5".parse().ok(),
        direct_remote_ip: "10.244.1.9".parse().ok(),
        destination_ip: "10.96.0.7".parse().ok(),
        destination_port: 8080,
        request,
        metadata: None,
    }
}

fn policy(name: &str, permissions: Vec<Permission>, principals: Vec<Principal>) -> RbacPolicy {
    RbacPolicy { name: name.into(), permissions, principals }
}

fn not_allowed(rule: &str, misfit: Misfit) -> Verdict<'_> {
    Verdict::NotAllowed(Some(Closest { rule, misfit }))
}

#[test]
fn each_permission_looks_at_its_own_field_and_can_be_turned_around() {
    let map = headers(&[("x-a", "1")]);
    let request = view("GET", "/admin?x=1", &map);
    let net = |n: &str| n.parse().unwrap();
    let cases = [
        (Permission::Any, true),
        (Permission::Header(header(":method", HeaderTest::Value(StringMatch::exact("GET")))), true),
        (Permission::Header(header(":method", HeaderTest::Value(StringMatch::exact("POST")))), false),
        (Permission::Path(path(PathTest::Text(StringMatch::exact("/admin").into()))), true),
        (Permission::Path(path(PathTest::Prefix("/public".into()))), false),
        (Permission::DestinationIp(net("10.96.0.0/16")), true),
        (Permission::DestinationIp(net("fd96::/108")), false),
        (Permission::DestinationPort(8080), true),
        (Permission::DestinationPort(80), false),
        (Permission::DestinationPortRange(8000, 8081), true),
        (Permission::DestinationPortRange(8000, 8080), false),
        (Permission::ServerName(StringMatch::exact("shop.example")), false),
        (Permission::And(vec![Permission::Any, Permission::DestinationPort(80)]), false),
        (Permission::Or(vec![Permission::DestinationPort(80), Permission::Any]), true),
        (Permission::Or(vec![]), false),
    ];
    for (permission, expected) in cases {
        for (permission, expected) in [(Permission::Not(Box::new(permission.clone())), !expected), (permission, expected)] {
            let rules =
                Rbac { action: RbacAction::Deny, policies: vec![policy("p", vec![permission.clone()], vec![Principal::Any])] };
            let denied = evaluate(&rules, &subject(None, Some(request))) == Verdict::DeniedBy("p");
            assert_eq!(denied, expected, "{permission:?}");
        }
    }
}

#[test]
fn each_principal_looks_at_its_own_field_and_can_be_turned_around() {
    let map = headers(&[("x-a", "1")]);
    let request = view("GET", "/", &map);
    let web = "spiffe://cluster.local/ns/shop/sa/web";
    let named = |test| Principal::Authenticated(Some(text(test)));
    let net = |n: &str| n.parse().unwrap();
    let cases = [
        (Principal::Any, true),
        (Principal::Authenticated(None), true),
        (named(StringTest::Exact(web.into())), true),
        (named(StringTest::Contains("/ns/shop/".into())), true),
        (named(StringTest::Suffix("/sa/api".into())), false),
        (named(StringTest::Regex(Pattern::new("spiffe://.*/sa/web").unwrap())), true),
        (Principal::RemoteIp(net("10.244.1.5/32")), true),
        (Principal::RemoteIp(net("10.244.1.9/32")), false),
        (Principal::DirectRemoteIp(net("10.244.1.9/32")), true),
        (Principal::Header(header("x-a", HeaderTest::Present(true))), true),
        (Principal::Path(path(PathTest::Exact("/x".into()))), false),
        (Principal::And(vec![Principal::Any, named(StringTest::Exact("x".into()))]), false),
        (Principal::Or(vec![named(StringTest::Exact("x".into())), Principal::Any]), true),
    ];
    for (principal, expected) in cases {
        for (principal, expected) in [(Principal::Not(Box::new(principal.clone())), !expected), (principal, expected)] {
            let rules =
                Rbac { action: RbacAction::Allow, policies: vec![policy("p", vec![Permission::Any], vec![principal.clone()])] };
            let allowed = evaluate(&rules, &subject(Some(web), Some(request))) == Verdict::Allowed(Some("p"));
            assert_eq!(allowed, expected, "{principal:?}");
        }
    }
    let rules = Rbac {
        action: RbacAction::Allow,
        policies: vec![policy("p", vec![Permission::Any], vec![Principal::Authenticated(None)])],
    };
    assert_eq!(evaluate(&rules, &subject(None, Some(request))), not_allowed("p", Misfit::Client), "no proven identity");
}

#[test]
fn an_allow_set_without_rules_denies_and_a_refusal_names_what_came_closest() {
    let none = HeaderMap::new();
    let asked = subject(Some("spiffe://td/ns/a/sa/b"), Some(view("GET", "/", &none)));
    let empty = |action| Rbac { action, policies: vec![] };
    assert_eq!(evaluate(&empty(RbacAction::Allow), &asked), Verdict::NotAllowed(None));
    assert_eq!(evaluate(&empty(RbacAction::Deny), &asked), Verdict::Allowed(None));
    let (other_port, nobody) = (Permission::DestinationPort(1), Principal::Not(Box::new(Principal::Any)));
    let far = policy("far", vec![other_port.clone()], vec![nobody.clone()]);
    let for_others = policy("for-others", vec![Permission::Any], vec![nobody]);
    let for_other_things = policy("for-other-things", vec![other_port], vec![Principal::Any]);
    for (policies, expected) in [
        (vec![far.clone()], not_allowed("far", Misfit::Both)),
        (vec![far.clone(), for_others.clone()], not_allowed("for-others", Misfit::Client)),
        (vec![far, for_others, for_other_things], not_allowed("for-other-things", Misfit::Request)),
    ] {
        assert_eq!(evaluate(&Rbac { action: RbacAction::Allow, policies }, &asked), expected);
    }
}

#[test]
fn http_rules_never_match_a_connection_that_is_not_read_as_http() {
    let get = Permission::Header(header(":method", HeaderTest::Value(StringMatch::exact("GET"))));
    let allow = Rbac { action: RbacAction::Allow, policies: vec![policy("p", vec![get], vec![Principal::Any])] };
    assert_eq!(evaluate(&allow, &subject(None, None)), not_allowed("p", Misfit::Request));
}

#[test]
fn a_rule_set_in_dry_run_tells_each_deny_rule_that_matches_and_once_what_its_allow_rules_come_to() {
    const NAMES: [&str; 3] = ["a", "b", "c"];
    let asked = subject(None, None);
    // Each way in which so many rules may match or not.
    for count in 0..=NAMES.len() {
        for matching in 0..1_u8 << count {
            let matches = |at: usize| matching & (1 << at) != 0;
            let rule = |at: usize| {
                let port = if matches(at) { asked.destination_port } else { 1 };
                policy(NAMES[at], vec![Permission::DestinationPort(port)], vec![Principal::Any])
            };
            let told = |action| {
                let rules = Rbac { action, policies: (0..count).map(rule).collect() };
                dry_run(&rules, &asked).map(|verdict| format!("{verdict:?}")).collect::<Vec<_>>()
            };
            let own: Vec<_> = (0..count).filter(|at| matches(*at)).map(|at| NAMES[at]).collect();
            let denied: Vec<_> = own.iter().map(|name| format!("{:?}", Verdict::DeniedBy(name))).collect();
            assert_eq!(told(RbacAction::Deny), denied, "{own:?} of {count}");
            let come_to = match (own.first(), count) {
                (Some(name), _) => Verdict::Allowed(Some(*name)),
                (None, 0) => Verdict::NotAllowed(None),
                (None, _) => not_allowed("a", Misfit::Request),
            };
            assert_eq!(told(RbacAction::Allow), [format!("{come_to:?}")], "{own:?} of {count}");
        }
    }
}
