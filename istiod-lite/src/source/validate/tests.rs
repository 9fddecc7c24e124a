use std::path::PathBuf;

use crate::source::layer::Layers;

/// What is wrong with an object: `error` or `warning`, the field and the reason.
fn problems(text: &str) -> Vec<String> {
    let mut layers = Layers::default();
    layers.update(vec![((0, PathBuf::from("a.yaml")), Some(text.to_owned()))]);
    let shown = layers.problems().into_iter().map(|problem| {
        let severity = if problem.is_error() { "error" } else { "warning" };
        format!("{severity} {}: {}", problem.field, problem.reason)
    });
    shown.collect()
}

/// An object of one of Istio's kinds.
fn of_istio(kind: &str, metadata: &str, spec: &str) -> Vec<String> {
    problems(&format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: it, namespace: shop{metadata}}}\nspec: {spec}\n"
    ))
}

/// A route of any kind.
fn route(kind: &str, spec: &str) -> Vec<String> {
    problems(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\nspec: {spec}\n"
    ))
}

#[test]
fn what_a_service_entry_cannot_have_is_named_with_what_to_write_instead() {
    let cases = [
        ("{hosts: [a.example.com], addresses: [240.0.0.1], ports: [{number: 80, name: http}], resolution: STATIC}", ""),
        ("{hosts: []}", "spec.hosts: at least one is required"),
        (
            "{hosts: ['*.example.com'], resolution: DNS}",
            "spec.hosts[0]: a wildcard can only be passed on as it is: use resolution NONE",
        ),
        ("{hosts: [a b]}", "spec.hosts[0]: \"a b\" is no DNS name, nor one with the first label \"*\""),
        (
            "{hosts: [a.example.com], addresses: [10.0.0.0/8]}",
            "spec.addresses[0]: \"10.0.0.0/8\" is no IP address; networks of several addresses are not supported",
        ),
        (
            "{hosts: [a.example.com], resolution: STATIC, endpoints: [{address: b.example.com}]}",
            "spec.endpoints[0].address: \"b.example.com\" is no IP address; names are looked up with resolution DNS",
        ),
        (
            "{hosts: [a.example.com], resolution: STATIC, endpoints: [{address: 192.0.2.1, weight: 1000001}]}",
            "spec.endpoints[0].weight: 1000001 is more than 1000000",
        ),
        (
            "{hosts: [a.example.com], resolution: STATIC, endpoints: [{address: '::ffff:127.0.0.1'}]}",
            "spec.endpoints[0].address: ::ffff:127.0.0.1 is an address of no other machine",
        ),
        (
            "{hosts: [a.example.com], exportTo: [other]}",
            "spec.exportTo[0]: \"other\" is not supported: an entry is seen by all namespaces (\"*\") or by its own (\".\")",
        ),
        (
            "{hosts: [a.example.com], resolution: DNS, workloadSelector: {labels: {app: a}}}",
            "spec.workloadSelector: what it selects has addresses: use resolution STATIC",
        ),
        (
            "{hosts: ['*.example.com'], resolution: DYNAMIC_DNS}",
            "spec.hosts[0]: a wildcard can only be passed on as it is: use resolution NONE",
        ),
    ];
    for (spec, expected) in cases {
        let found = of_istio("ServiceEntry", "", spec);
        let expected = if expected.is_empty() { Vec::new() } else { vec![format!("error {expected}")] };
        assert_eq!(found.first(), expected.first(), "for {spec}");
    }
}

#[test]
fn long_lists_are_refused() {
    let many = |count: usize, one: fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(", ");
    let hosts = |count| many(count, |n| format!("h{n}.example.com"));
    let endpoints = |count| many(count, |n| format!("{{address: 10.0.{}.{}}}", n / 256, n % 256));
    let entry = |hosts: &str, endpoints: &str| {
        of_istio("ServiceEntry", "", &format!("{{hosts: [{hosts}], resolution: STATIC, endpoints: [{endpoints}]}}"))
    };
    assert_eq!(entry(&hosts(256), ""), [""; 0]);
    assert_eq!(entry(&hosts(257), ""), ["error spec.hosts: 257 are more than 256"]);
    assert_eq!(entry("a.example.com", &endpoints(1000)), [""; 0]);
    assert_eq!(entry("a.example.com", &endpoints(1001)), ["error spec.endpoints: 1001 are more than 1000"]);
    let pairs = "error spec.endpoints: each is one of every host, and 20000 are more than 10000; write several entries";
    assert_eq!(entry(&hosts(20), &endpoints(1000)), [pairs]);
    let slice = |count| {
        let endpoints = many(count, |n| format!("{{addresses: [10.0.{}.{}]}}", n / 256, n % 256));
        problems(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: it, namespace: shop}}\n\
             addressType: IPv4\nendpoints: [{endpoints}]\n"
        ))
    };
    assert_eq!(slice(1000), [""; 0]);
    assert_eq!(slice(1001), ["error endpoints: 1001 are more than 1000"]);
}

#[test]
fn what_has_no_effect_is_told_and_the_rest_of_the_object_is_in_force() {
    let label = ", labels: {istio.io/use-waypoint: gate}";
    let around = "warning spec.addresses: without a virtual address clients are told the addresses of the endpoints, and go to them \
                  around the waypoint";
    assert_eq!(of_istio("ServiceEntry", label, "{hosts: [a.example.com], resolution: DNS}"), [around]);
    assert_eq!(of_istio("ServiceEntry", label, "{hosts: [a.example.com], addresses: [240.0.0.1], resolution: DNS}"), [""; 0]);
    let opted_out = ", labels: {istio.io/use-waypoint: none}";
    assert_eq!(of_istio("ServiceEntry", opted_out, "{hosts: [a.example.com], resolution: DNS}"), [""; 0]);
    let nowhere =
        "warning spec.resolution: with resolution NONE a waypoint has nowhere to go on to, and refuses what comes for the hosts";
    assert_eq!(of_istio("ServiceEntry", label, "{hosts: [a.example.com], addresses: [240.0.0.1]}"), [nowhere]);
    let names = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: it, namespace: shop}\n\
                 addressType: FQDN\nendpoints: [{addresses: [a.example.com]}]\n";
    let not_looked_up =
        "warning addressType: names are not looked up, so the slice has no effect; use a ServiceEntry with resolution DNS";
    assert_eq!(problems(names), [not_looked_up]);
}

#[test]
fn a_parent_that_a_route_cannot_have_is_told() {
    let rules = "rules: [{backendRefs: [{name: a, port: 80}]}]";
    let tls = |parent: &str| route("TLSRoute", &format!("{{hostnames: [a.example.com], parentRefs: [{parent}], {rules}}}"));
    let tcp = |parent: &str| route("TCPRoute", &format!("{{parentRefs: [{parent}], {rules}}}"));
    assert_eq!(tls("{name: ingress}"), [""; 0], "another controller's Gateway may do it");
    assert_eq!(tls("{group: '', kind: Service, name: a}"), [""; 0]);
    assert_eq!(tcp("{group: '', kind: Service, name: a}, {group: '', kind: Service, name: b, namespace: shop}"), [""; 0]);
    let elsewhere = "warning spec.parentRefs[0].namespace: a TCPRoute holds only for Services of its own namespace: whose a connection is, \
                     is not known where it is spread";
    assert_eq!(tcp("{group: '', kind: Service, name: a, namespace: other}"), [elsewhere]);
    assert_eq!(tls("{group: '', kind: Service, name: a, namespace: other}"), [elsewhere.replace("TCPRoute", "TLSRoute")]);
    let entry = "warning spec.parentRefs[0]: a ServiceEntry has no routes; Services and Gateways have";
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let found =
            route(kind, &format!("{{parentRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: a}}], {rules}}}"));
        assert_eq!(found, [entry], "{kind}");
        let port = route(kind, &format!("{{parentRefs: [{{group: '', kind: Service, name: a, port: 70000}}], {rules}}}"));
        assert_eq!(port, ["error spec.parentRefs[0].port: 70000 is not a port (1 to 65535)"], "{kind}");
    }
}

#[test]
fn a_policy_for_what_cannot_be_targeted_is_refused_in_either_form() {
    let policy = |targets: &str| {
        problems(&format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: it, namespace: shop}}\nspec: {{{targets}}}\n"
        ))
    };
    let reason = "ServiceEntry of group \"networking.istio.io\" cannot be targeted; Service, Gateway and GatewayClass can";
    let entry = "{group: networking.istio.io, kind: ServiceEntry, name: a}";
    assert_eq!(policy(&format!("targetRefs: [{entry}]")), [format!("error spec.targetRefs[0].kind: {reason}")]);
    assert_eq!(policy(&format!("targetRef: {entry}")), [format!("error spec.targetRef.kind: {reason}")]);
}

#[test]
fn what_a_cors_filter_cannot_say_is_named() {
    let found = |cors: &str| {
        let filters = format!("filters: [{{type: CORS, cors: {cors}}}]");
        route("HTTPRoute", &format!("{{rules: [{{{filters}, backendRefs: [{{name: a, port: 80}}]}}]}}"))
    };
    let fine =
        "allowOrigins: ['https://a.example', 'http://*', 'https://*.b.example:8443'], allowMethods: [GET], allowHeaders: ['*']";
    assert_eq!(found(&format!("{{{fine}, exposeHeaders: [a, '*'], maxAge: 1, allowCredentials: true}}")), [""; 0]);
    let origin = |text: &str| {
        format!("allowOrigins[0]: {text:?} is not an origin such as https://example.com, https://*.example.com:8443 or *")
    };
    for (cors, expected) in [
        ("{allowOrigins: [a.example]}", origin("a.example")),
        ("{allowOrigins: ['https://a.*.example']}", origin("https://a.*.example")),
        ("{allowOrigins: ['https://a.example:0']}", origin("https://a.example:0")),
        ("{allowOrigins: ['https://a.example/']}", origin("https://a.example/")),
        ("{allowOrigins: ['*', 'https://a.example']}", "allowOrigins: \"*\" must be the only entry".to_owned()),
        ("{allowMethods: [get]}", "allowMethods[0]: \"get\" is not a method; methods are written in capitals".to_owned()),
        ("{allowHeaders: ['a b']}", "allowHeaders[0]: \"a b\" is not a header name".to_owned()),
        ("{maxAge: 0}", "maxAge: must be at least 1".to_owned()),
    ] {
        assert_eq!(found(cors), [format!("error spec.rules[0].filters[0].cors.{expected}")], "for {cors}");
    }
    let twice = "{rules: [{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}], backendRefs: [{name: a, port: 80}]}]}";
    assert_eq!(route("HTTPRoute", twice), ["error spec.rules[0].filters: CORS must not be used more than once"]);
}

#[test]
fn what_a_mirror_cannot_say_is_named() {
    let found = |mirror: &str| {
        let filters = format!("filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{name: b, port: 80}}{mirror}}}}}]");
        route("HTTPRoute", &format!("{{rules: [{{{filters}, backendRefs: [{{name: a, port: 80}}]}}]}}"))
    };
    for fine in ["", ", percent: 0", ", percent: 100", ", fraction: {numerator: 3}", ", fraction: {numerator: 1, denominator: 1}"]
    {
        assert_eq!(found(fine), [""; 0], "for {fine}");
    }
    for (mirror, expected) in [
        (", percent: 101", ".percent: must be between 0 and 100"),
        (", fraction: {numerator: 3, denominator: 2}", ".fraction.numerator: must be between 0 and the denominator, 2"),
        (", fraction: {numerator: 0, denominator: 0}", ".fraction.denominator: must be at least 1"),
        (", percent: 1, fraction: {numerator: 1}", ": has either percent or fraction"),
    ] {
        assert_eq!(found(mirror), [format!("error spec.rules[0].filters[0].requestMirror{expected}")], "for {mirror}");
    }
}

#[test]
fn what_a_session_cannot_be_is_named() {
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let session = |said: &str| {
            let parent = "parentRefs: [{group: '', kind: Service, name: a}]";
            let backend = "backendRefs: [{name: a, port: 80}]";
            route(kind, &format!("{{{parent}, rules: [{{sessionPersistence: {{{said}}}, {backend}}}]}}"))
        };
        for good in ["", "sessionName: s, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}", "type: Header"] {
            assert!(!session(good).iter().any(|problem| problem.starts_with("error")), "{kind} {good}: {:?}", session(good));
        }
        for (said, problem) in [
            ("sessionName: 'a;b'", "sessionName: \"a;b\" is no name of a cookie or a header"),
            ("type: Header, sessionName: Content-Length", "sessionName: a header Content-Length is read by others"),
            ("cookieConfig: {lifetimeType: Permanent}", "absoluteTimeout: required for a cookie of the lifetimeType Permanent"),
            ("absoluteTimeout: soon", "absoluteTimeout: \"soon\" is not a duration such as 10s or 1m30s"),
            ("idleTimeout: soon", "idleTimeout: \"soon\" is not a duration such as 10s or 1m30s"),
        ] {
            let expected = format!("error spec.rules[0].sessionPersistence.{problem}");
            assert!(session(said).contains(&expected), "{kind} {said}: {:?}", session(said));
        }
    }
}

#[test]
fn what_a_request_policy_cannot_say_is_named() {
    const SERVICE: &str = "{group: '', kind: Service, name: a}";
    let found = |targets: &str, rest: &str| {
        problems(&format!(
            "apiVersion: ambit.dev/v1alpha1\nkind: RequestPolicy\nmetadata: {{name: it, namespace: shop}}\nspec: {{targetRefs: [{targets}], {rest}}}\n"
        ))
    };
    let good = "fault: {delay: {fixed: 1m30s, percent: 0.5}, abort: {status: 503, percent: 100}, headers: [{name: x, value: y}]}, \
                rateLimit: {local: {requests: 5, per: second, burst: 9, by: Header, header: x-user}}, \
                limits: {maxBodyBytes: 1048576, maxHeaderBytes: 61440}, timeouts: {idle: 5m, stream: 1h30m}, retries: {writes: Allowed}, \
                upgrades: [irc/6.9, WebSocket]";
    assert_eq!(found(SERVICE, good), Vec::<String>::new());
    let local = |said: &str| format!("rateLimit: {{local: {{{said}}}}}");
    let global = |said: &str| format!("rateLimit: {{global: {{{said}}}}}");
    let entries = |said: &str| global(&format!("provider: p, domain: d, descriptors: [{{entries: [{said}]}}]"));
    let all = "{from: Identity, optional: true}, {from: Header, header: x-user, key: user}, {from: Value, value: gold, key: plan}, \
               {from: RemoteAddress}, {from: Policy}";
    assert_eq!(found(SERVICE, &entries(all)), Vec::<String>::new());
    let cases = [
        ("fault: {}".to_owned(), "spec.fault: must have delay or abort"),
        ("fault: {delay: {fixed: soon}}".to_owned(), "spec.fault.delay.fixed: \"soon\" is not a duration"),
        (
            "fault: {delay: {fixed: 2h}}".to_owned(),
            "spec.fault.delay.fixed: \"2h\" is not a duration such as 5s or 1m30s, at most 1h",
        ),
        ("fault: {abort: {status: 199}}".to_owned(), "spec.fault.abort.status: 199 is not an HTTP status"),
        ("fault: {abort: {status: 500, percent: 101}}".to_owned(), "spec.fault.abort.percent: 101 is not a percentage"),
        (
            "fault: {abort: {status: 500}, headers: [{name: x, type: RegularExpression, value: '('}]}".to_owned(),
            "spec.fault.headers[0].value: \"(\" is not a regular expression",
        ),
        ("rateLimit: {}".to_owned(), "spec.rateLimit: must have local or global"),
        (global("provider: p, descriptors: [{entries: [{from: Policy}]}]"), "spec.rateLimit.global.domain: must not be empty"),
        (global("domain: d, descriptors: [{entries: [{from: Policy}]}]"), "spec.rateLimit.global.provider: must not be empty"),
        (global("provider: p, domain: d"), "spec.rateLimit.global.descriptors: must not be empty"),
        (entries(""), "spec.rateLimit.global.descriptors[0].entries: must not be empty"),
        (entries("{from: Policy}, {from: Header}"), "spec.rateLimit.global.descriptors[0].entries[1].header: must name"),
        (entries("{from: Policy, header: x}"), "spec.rateLimit.global.descriptors[0].entries[0].header: goes with from: Header"),
        (entries("{from: Value}"), "spec.rateLimit.global.descriptors[0].entries[0].value: must be given"),
        (entries("{from: Identity, value: x}"), "spec.rateLimit.global.descriptors[0].entries[0].value: goes with from: Value"),
        (entries("{from: RemoteAddress, key: x}"), "spec.rateLimit.global.descriptors[0].entries[0].key: must not be empty, and"),
        (entries("{from: Policy, optional: true}"), "spec.rateLimit.global.descriptors[0].entries[0].optional: goes with"),
        (entries("{from: Host}"), "spec.rateLimit.global.descriptors[0].entries[0].from: unknown variant"),
        ("timeouts: {}".to_owned(), "spec.timeouts: must have idle or stream"),
        ("timeouts: {idle: never}".to_owned(), "spec.timeouts.idle: \"never\" is not a duration"),
        ("timeouts: {idle: 5m, stream: 0s}".to_owned(), "spec.timeouts.stream: \"0s\" is not a duration"),
        ("timeouts: {idle: 5m, request: 1s}".to_owned(), "spec.timeouts.request: unknown field"),
        ("retries: {}".to_owned(), "spec.retries.writes: must be Unseen or Allowed"),
        ("retries: {writes: Sometimes}".to_owned(), "spec.retries.writes: unknown variant"),
        ("retries: {writes: Unseen, attempts: 3}".to_owned(), "spec.retries.attempts: unknown field"),
        ("upgrades: []".to_owned(), "spec: must have fault, rateLimit,"),
        ("upgrades: [irc/6.9, 'a b']".to_owned(), "spec.upgrades[1]: \"a b\" is not the name of a protocol"),
        ("upgrades: [Connect-UDP]".to_owned(), "spec.upgrades[0]: \"Connect-UDP\" is never passed on"),
        ("upgrades: [h2c]".to_owned(), "spec.upgrades[0]: \"h2c\" is never passed on"),
        ("upgrades: [a/1, A/1]".to_owned(), "spec.upgrades[1]: \"A/1\" is there twice"),
        ("upgrades: [a, b, c, d, e, f, g, h, i]".to_owned(), "spec.upgrades: 9 are more than 8"),
        ("externalProcessing: {}".to_owned(), "spec.externalProcessing.provider: must name an extension provider"),
        ("limits: {}".to_owned(), "spec.limits: must have maxBodyBytes or maxHeaderBytes"),
        ("limits: {maxBodyBytes: 0}".to_owned(), "spec.limits.maxBodyBytes: must be at least 1"),
        ("limits: {maxBodyBytes: 1, maxHeaderBytes: 0}".to_owned(), "spec.limits.maxHeaderBytes: must be 1 to 61440"),
        ("limits: {maxHeaderBytes: 61441}".to_owned(), "spec.limits.maxHeaderBytes: must be 1 to 61440"),
        ("limits: {maxBodyBytes: 1, maxUrlBytes: 1}".to_owned(), "spec.limits.maxUrlBytes: unknown field"),
        (local("requests: 0, per: second"), "spec.rateLimit.local.requests: must be at least 1"),
        (local("requests: 1, per: day"), "spec.rateLimit.local.per: \"day\" is not second, minute, hour"),
        (local("requests: 1, per: 500ms"), "spec.rateLimit.local.per: \"500ms\" is not second, minute, hour"),
        (local("requests: 1, per: hour, burst: 0"), "spec.rateLimit.local.burst: must be at least 1"),
        (local("requests: 1, per: hour, by: Header"), "spec.rateLimit.local.header: must name the header"),
        (local("requests: 1, per: hour, header: x"), "spec.rateLimit.local.header: goes with by: Header only"),
        (local("requests: 1, per: hour, by: Address"), "spec.rateLimit.local.by: unknown variant"),
        (local("requests: 1, per: hour, of: x"), "spec.rateLimit.local.of: unknown field"),
    ];
    for (rest, expected) in cases {
        let problems = found(SERVICE, &rest);
        assert!(matches!(problems.as_slice(), [one] if one.starts_with(&format!("error {expected}"))), "{rest}: {problems:#?}");
    }
    for (target, expected) in [
        ("{group: '', kind: Pod, name: a}", "spec.targetRefs[0].kind: Pod of group \"\" cannot be targeted"),
        ("{kind: HTTPRoute, name: a}", "spec.targetRefs[0].kind: HTTPRoute of group \"\" cannot be targeted"),
        ("{group: '', kind: Service, name: a, sectionName: http}", "spec.targetRefs[0].sectionName: only rules of routes"),
        ("", "spec.targetRefs: must name what the policy holds for"),
    ] {
        let problems = found(target, "fault: {abort: {status: 503}}");
        assert!(matches!(problems.as_slice(), [one] if one.starts_with(&format!("error {expected}"))), "{target}: {problems:#?}");
    }
}

#[test]
fn who_names_somebody_who_is_nobody_among_administrators_is_told_that_there_are_none() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
                data: {mesh: 'ambitExplain: {administrators: [ops/debug, everybody]}'}\n";
    let said = problems(text);
    let [only] = said.as_slice() else { panic!("{said:?}") };
    assert!(only.starts_with("warning data.mesh: ambitExplain.administrators[1]: \"everybody\" is neither "), "{only}");
    assert_eq!(problems(&text.replace(", everybody", "")), Vec::<String>::new());
}
