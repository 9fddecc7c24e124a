use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;
use crate::{
    plan::further,
    route::{
        Action, Conditions, DirectResponse, DomainMatch, HeaderTest, Misfit, PathMatch, PathTest, Pattern, Permission, Principal,
        QueryMatch, QueryTest, Rbac, RbacAction, RbacPolicy, RouteMatch, StringMatch, StringTest, Subject, Verdict, evaluate,
    },
};

/// Tables and requests that are tried.
const WORLDS: u64 = 4_000;
const REQUESTS: u64 = 10;

/// Random choices out of few values, so that rules and requests meet often.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = further(self.0.wrapping_add(1));
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }
}

const HOSTS: &[&str] = &["api.shop", "api.shop:80", "API.shop", "www.example.com", "example.org"];
const DOMAINS: &[&str] = &["api.shop", "api.shop:80", "*.example.com", "example.*", "*", "*.shop"];
const PATHS: &[&str] = &["/", "/a", "/a/b", "/v2", "/A?q=1", "/a?q=2&r", "/v2/x?r=1"];
const VALUES: &[&str] = &["1", "2", "one", "GET", "POST", "spiffe://td/ns/shop/sa/web", "spiffe://td/ns/shop/sa/api"];
const NAMES: &[&str] = &["x-a", "x-b", ":method", ":authority"];
const METHODS: &[&str] = &["GET", "POST"];
const PEERS: &[Option<&str>] = &[None, Some("spiffe://td/ns/shop/sa/web"), Some("spiffe://td/ns/shop/sa/api")];

fn text(dice: &mut Dice) -> StringMatch {
    let value = dice.of(VALUES).to_owned();
    let test = match dice.below(5) {
        0 => StringTest::Prefix(value[..1].to_owned()),
        1 => StringTest::Suffix(value[value.len() - 1..].to_owned()),
        2 => StringTest::Contains(value[..1].to_owned()),
        3 => StringTest::Regex(Pattern::new(".+[be]").unwrap()),
        _ => StringTest::Exact(value),
    };
    StringMatch::new(test, dice.one_in(3))
}

fn path_match(dice: &mut Dice) -> PathMatch {
    let value = dice.of(&["/", "/a", "/v2", "/a/b", "/A", "/a/"]);
    let test = match dice.below(6) {
        0 => PathTest::Exact(value.into()),
        1 => PathTest::PathSeparatedPrefix(value.into()),
        2 => PathTest::Regex(Pattern::new("/v[0-9].*").unwrap()),
        3 => PathTest::Text(StringMatch::exact(value).into()),
        _ => PathTest::Prefix(value.into()),
    };
    PathMatch { test, case_sensitive: !dice.one_in(3) }
}

fn header_match(dice: &mut Dice) -> HeaderMatch {
    let test = match dice.below(4) {
        0 => HeaderTest::Present(!dice.one_in(2)),
        1 => HeaderTest::Range(0, 2),
        _ => HeaderTest::Value(text(dice)),
    };
    HeaderMatch { name: dice.of(NAMES).to_owned(), test, invert: dice.one_in(2), missing_is_empty: dice.one_in(4) }
}

fn query_match(dice: &mut Dice) -> QueryMatch {
    let test = if dice.one_in(2) { QueryTest::Present(!dice.one_in(2)) } else { QueryTest::Value(text(dice)) };
    QueryMatch { name: dice.of(&["q", "r"]).to_owned(), test }
}

fn route(name: String, when: RouteMatch) -> Arc<Route> {
    let action = Action::Direct(DirectResponse { status: 200, body: String::new() }.into());
    let name = name.as_str().into();
    Arc::new(Route { name, when, action, said: None, request_headers: [].into(), response_headers: [].into() })
}

fn route_match(dice: &mut Dice) -> RouteMatch {
    let path = path_match(dice);
    let conditions = Conditions {
        headers: dice.some(2, header_match).into(),
        query: dice.some(1, query_match).into(),
        grpc: dice.one_in(6),
        peer: dice.some(1, |dice| (text(dice), dice.one_in(2))).into(),
    };
    RouteMatch::new(path, conditions)
}

fn table(dice: &mut Dice) -> RouteTable {
    let host = |dice: &mut Dice, number: usize| {
        let domains = dice.some(2, |dice| DomainMatch::parse(dice.of(DOMAINS)));
        let most = dice.of(&[4, 12]);
        let routes = dice.some(most, route_match).into_iter().enumerate();
        VirtualHost::new(format!("host-{number}"), domains, routes.map(|(at, when)| route(format!("r{at}"), when)).collect())
    };
    let hosts = (0..dice.below(4)).map(|number| host(dice, number)).collect();
    RouteTable::new("table", hosts, dice.one_in(2))
}

fn headers(dice: &mut Dice) -> HeaderMap {
    let mut map = HeaderMap::new();
    for name in ["x-a", "x-b"] {
        if dice.one_in(2) {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(dice.of(VALUES)));
        }
    }
    if dice.one_in(4) {
        map.insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    map
}

/// Whether each part of a match holds, told apart without the function that deciding and explaining share.
fn parts(when: &RouteMatch, request: &RequestView<'_>, peer: Option<&str>) -> Vec<bool> {
    let grpc = request.headers.get("content-type").is_some_and(|value| value == "application/grpc");
    let mut parts = vec![when.path.matches(request.path())];
    let asked = when.conditions().cloned().unwrap_or_default();
    parts.extend(asked.headers.iter().map(|test| test.matches(request)));
    parts.extend(asked.query.iter().map(|test| test.matches(request)));
    parts.push(!asked.grpc || grpc);
    parts.extend(asked.peer.iter().map(|(test, invert)| peer.is_some_and(|peer| test.matches(peer)) != *invert));
    parts
}

#[test]
fn what_is_explained_is_what_is_decided_for_random_tables_and_requests() {
    let (mut taken, mut left) = (0, 0);
    for seed in 0..WORLDS {
        let mut dice = Dice(seed);
        let table = table(&mut dice);
        for _ in 0..REQUESTS {
            let headers = headers(&mut dice);
            let (authority, path_and_query) = (dice.of(HOSTS), dice.of(PATHS));
            let request = RequestView { method: dice.of(METHODS), scheme: "http", authority, path_and_query, headers: &headers };
            let peer = dice.of(PEERS);
            let decided = table.select(&request, peer);
            let explained = routing(&table, &request, peer);
            assert_eq!(decided.map(Arc::as_ptr), explained.route.map(Arc::as_ptr), "seed {seed}: {explained:#?}");
            assert_eq!(explained.hosts.len(), table.hosts.len());
            let chosen: Vec<_> = explained.hosts.iter().zip(&table.hosts).filter(|(host, _)| host.chosen).collect();
            assert!(chosen.len() <= 1 && (decided.is_none() || chosen.len() == 1), "seed {seed}");
            let name = table.compared(authority);
            let rank = |host: &VirtualHost| host.domains.iter().filter_map(|domain| domain.rank(&name)).max();
            let best = table.hosts.iter().map(rank).max().flatten();
            let first = table.hosts.iter().find(|host| best.is_some() && rank(host) == best);
            assert!(chosen.first().map(|(_, host)| ptr::from_ref(*host)) == first.map(ptr::from_ref), "seed {seed}: {first:?}");
            for (considered, host) in chosen {
                for (said, route) in considered.routes.iter().zip(&host.routes) {
                    let parts = parts(&route.when, &request, peer);
                    assert_eq!(
                        said.differs.is_none(),
                        parts.iter().all(|holds| *holds),
                        "seed {seed}: {said:?} {:?}",
                        route.when
                    );
                }
                assert_eq!(considered.routes.len() + considered.after, host.routes.len(), "seed {seed}");
            }
            *(if decided.is_some() { &mut taken } else { &mut left }) += 1;
        }
    }
    assert!(taken > WORLDS / 4 && left > WORLDS, "{taken} requests took a route, {left} did not: too few of one kind");
}

#[test]
fn the_part_told_is_the_first_that_does_not_hold() {
    for seed in 0..WORLDS {
        let mut dice = Dice(seed);
        let (when, headers, peer) = (route_match(&mut dice), headers(&mut dice), dice.of(PEERS));
        let (authority, path_and_query) = (dice.of(HOSTS), dice.of(PATHS));
        let request = RequestView { method: dice.of(METHODS), scheme: "http", authority, path_and_query, headers: &headers };
        let first = parts(&when, &request, peer).iter().position(|holds| !holds);
        let nothing = Conditions::default();
        let asked = when.conditions().unwrap_or(&nothing);
        let (of_headers, of_query) = (1 + asked.headers.len(), 1 + asked.headers.len() + asked.query.len());
        let told = when.difference(&request, peer).map(|difference| match difference {
            Difference::Path(_) => 0,
            Difference::Header(test) => 1 + asked.headers.iter().position(|own| ptr::eq(own, test)).unwrap(),
            Difference::Query(test) => of_headers + asked.query.iter().position(|own| ptr::eq(own, test)).unwrap(),
            Difference::Grpc => of_query,
            Difference::Peer(test, _) => of_query + 1 + asked.peer.iter().position(|(own, _)| ptr::eq(own, test)).unwrap(),
        });
        assert_eq!(told, first, "seed {seed}: {when:?}");
    }
}

fn permission(dice: &mut Dice, depth: usize) -> Permission {
    match dice.below(if depth == 0 { 4 } else { 7 }) {
        0 => Permission::Any,
        1 => Permission::Header(header_match(dice)),
        2 => Permission::Path(path_match(dice)),
        3 => Permission::DestinationPort(dice.of(&[80, 81])),
        4 => Permission::And(dice.some(2, |dice| permission(dice, depth - 1))),
        5 => Permission::Or(dice.some(2, |dice| permission(dice, depth - 1))),
        _ => Permission::Not(Box::new(permission(dice, depth - 1))),
    }
}

fn principal(dice: &mut Dice, depth: usize) -> Principal {
    match dice.below(if depth == 0 { 3 } else { 6 }) {
        0 => Principal::Any,
        1 => Principal::Authenticated(Some(text(dice))),
        2 => Principal::RemoteIp(dice.of(&["10.0.0.0/8", "10.0.0.1/32"]).parse().unwrap()),
        3 => Principal::And(dice.some(2, |dice| principal(dice, depth - 1))),
        4 => Principal::Or(dice.some(2, |dice| principal(dice, depth - 1))),
        _ => Principal::Not(Box::new(principal(dice, depth - 1))),
    }
}

#[test]
fn what_rules_are_said_to_be_is_what_they_decide_for_random_rules_and_requests() {
    let mut seen = [0; 4];
    for seed in 0..WORLDS {
        let mut dice = Dice(seed);
        let rule = |dice: &mut Dice, number: usize| RbacPolicy {
            name: format!("rule-{number}"),
            permissions: dice.some(2, |dice| permission(dice, 2)),
            principals: dice.some(2, |dice| principal(dice, 2)),
        };
        let action = dice.of(&[RbacAction::Allow, RbacAction::Deny]);
        let policies = (0..dice.below(4)).map(|number| rule(&mut dice, number)).collect();
        let rbac = Rbac { action, policies };
        let headers = headers(&mut dice);
        let (authority, path_and_query) = (dice.of(HOSTS), dice.of(PATHS));
        let request = RequestView { method: dice.of(METHODS), scheme: "http", authority, path_and_query, headers: &headers };
        let client: IpAddr = dice.of(&["10.0.0.1", "10.0.0.2", "fd00::1"]).parse().unwrap();
        let subject = Subject {
            principal: dice.of(PEERS),
            remote_ip: Some(client),
            direct_remote_ip: Some(client),
            destination_ip: None,
            destination_port: dice.of(&[80, 81]),
            request: Some(request),
            metadata: None,
        };
        let said = rulings(&rbac, &subject);
        let first = said.iter().find(|said| said.matches).map(|said| said.rule.as_str());
        let verdict = evaluate(&rbac, &subject);
        let expected = match (action, first) {
            (RbacAction::Deny, Some(rule)) => Verdict::DeniedBy(rule),
            (_, rule @ Some(_)) => Verdict::Allowed(rule),
            (RbacAction::Deny, None) => Verdict::Allowed(None),
            (RbacAction::Allow, None) => match verdict {
                Verdict::NotAllowed(closest) => Verdict::NotAllowed(closest),
                other => panic!("seed {seed}: no rule matches, and it is {other:?}"),
            },
        };
        assert_eq!(verdict, expected, "seed {seed}: {rbac:?}");
        assert!(said.iter().all(|said| said.matches == said.differs.is_none()), "seed {seed}: {said:?}");
        seen[match verdict {
            Verdict::DeniedBy(_) => 0,
            Verdict::Allowed(Some(_)) => 1,
            Verdict::Allowed(None) => 2,
            Verdict::NotAllowed(_) => 3,
        }] += 1;
    }
    assert!(seen.iter().all(|count| *count > 50), "too few of one kind: {seen:?}");
}

fn host(name: &str, domains: &[&str], routes: Vec<Arc<Route>>) -> VirtualHost {
    VirtualHost::new(name, domains.iter().map(|domain| DomainMatch::parse(domain)).collect(), routes)
}

fn under(path: &str) -> RouteMatch {
    let test = match path {
        // Elements begin behind a slash, so everything is under no path but by characters.
        "/" => PathTest::Prefix(path.into()),
        _ => PathTest::PathSeparatedPrefix(path.into()),
    };
    RouteMatch::new(PathMatch { test, case_sensitive: true }, Conditions::default())
}

fn under_and(path: &str, header: HeaderMatch) -> RouteMatch {
    RouteMatch::new(under(path).path, Conditions { headers: [header].into(), ..Default::default() })
}

#[test]
fn each_host_and_route_that_was_left_says_what_it_asks_and_what_there_is() {
    let version = HeaderMatch {
        name: "x-version".to_owned(),
        test: HeaderTest::Value(StringMatch::exact("2")),
        invert: false,
        missing_is_empty: false,
    };
    let post = HeaderMatch { name: ":method".to_owned(), test: HeaderTest::Value(StringMatch::exact("POST")), ..version.clone() };
    let api = vec![
        route("v2".to_owned(), under("/v2")),
        route("version".to_owned(), under_and("/v1", version)),
        route("post".to_owned(), under_and("/v1", post)),
        route("rest".to_owned(), under("/")),
        route("never".to_owned(), under("/")),
    ];
    let hosts = vec![host("other", &["other.shop"], vec![]), host("api", &["api.shop"], api), host("any", &["*"], vec![])];
    let table = RouteTable::new("t", hosts, true);
    let none = HeaderMap::new();
    let request =
        RequestView { method: "GET", scheme: "http", authority: "api.shop:80", path_and_query: "/v1/x", headers: &none };
    let routing = routing(&table, &request, None);
    assert_eq!(routing.route.map(|route| &*route.name), Some("rest"));
    let [other, api, any] = routing.hosts.as_slice() else { panic!("{routing:?}") };
    let said = other.differs.as_ref().unwrap().to_string();
    assert_eq!(said, r#"it asks that the host is other.shop, and it is "api.shop""#);
    assert!(any.differs.is_none() && !any.chosen && api.chosen && api.after == 1, "{routing:?}");
    let said: Vec<String> = api.routes.iter().filter_map(|route| route.differs.as_ref()).map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            r#"it asks that the path is "/v2" or under it, and it is "/v1/x""#,
            r#"it asks that the header x-version is "2", and there is none"#,
            r#"it asks that the method is "POST", and it is "GET""#,
        ]
    );
}

#[test]
fn a_rule_that_does_not_match_says_which_of_its_parts_and_what_there_is() {
    let method = |name: &str| HeaderMatch {
        name: ":method".to_owned(),
        test: HeaderTest::Value(StringMatch::exact(name)),
        invert: false,
        missing_is_empty: false,
    };
    let methods = Permission::Or(vec![Permission::Header(method("GET")), Permission::Header(method("HEAD"))]);
    let path = PathMatch { test: PathTest::Prefix("/admin".into()), case_sensitive: true };
    let not_admin = Permission::Not(Box::new(Permission::Path(path)));
    let web = Principal::Authenticated(Some(StringMatch::exact("spiffe://td/ns/shop/sa/web")));
    let rule = |permissions: Vec<Permission>| RbacPolicy {
        name: "r".to_owned(),
        permissions: vec![Permission::And(permissions)],
        principals: vec![web.clone()],
    };
    let headers = HeaderMap::new();
    let view = |method: &'static str| RequestView {
        method,
        scheme: "http",
        authority: "api",
        path_and_query: "/admin/x",
        headers: &headers,
    };
    let subject = |principal: Option<&'static str>, method: &'static str| Subject {
        principal,
        remote_ip: None,
        direct_remote_ip: None,
        destination_ip: None,
        destination_port: 80,
        request: Some(view(method)),
        metadata: None,
    };
    let own = Some("spiffe://td/ns/shop/sa/web");
    let rbac = Rbac { action: RbacAction::Allow, policies: vec![rule(vec![methods, not_admin])] };
    for (subject, misfit, said) in [
        (subject(None, "GET"), Misfit::Both, r#"the client's identity is "spiffe://td/ns/shop/sa/web", and there is none"#),
        (subject(own, "POST"), Misfit::Request, r#"the method is "GET" or is "HEAD", and it is "POST""#),
        (subject(own, "GET"), Misfit::Request, r#"the path does not begin with "/admin", and it is "/admin/x""#),
    ] {
        assert_eq!(rbac.policies[0].differs(&subject), Some(misfit));
        let rulings = rulings(&rbac, &subject);
        assert_eq!(rulings[0].differs.as_ref().unwrap().to_string(), format!("it asks that {said}"));
    }
}
