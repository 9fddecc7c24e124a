use serde_json::json;

use super::*;

fn read(mesh: &str) -> MeshSettings {
    serde_json::from_value(json!({"metadata": {"name": NAME}, "data": {(KEY): mesh}})).unwrap()
}

/// What is said of one provider with these settings.
fn refused(provider: &str) -> String {
    let settings = read(&format!("extensionProviders: [{{name: p, {provider}}}]"));
    settings.providers["p"].clone().unwrap_err()
}

#[test]
fn authorizers_are_read_with_their_defaults_and_whatever_else_a_mesh_has_is_passed_over() {
    let settings = read(
        "accessLogFile: /dev/stdout\ndefaultConfig: {concurrency: 2}\nextensionProviders:\n\
         - {name: grpc, envoyExtAuthzGrpc: {service: a.shop.svc.cluster.local, port: 9000}}\n\
         - {name: spans, lightstep: {service: b, port: 1}}\n\
         - name: http\n  envoyExtAuthzHttp:\n    service: shop/b.example.com\n    port: 8000\n    timeout: 0.5s\n    failOpen: true\n    \
         statusOnError: \"503\"\n    pathPrefix: /check\n    includeRequestHeadersInCheck: [x-user, x-a-*]\n    \
         includeAdditionalHeadersInCheck: {x-mesh: ambit}\n    headersToUpstreamOnAllow: [\"*-id\"]\n    \
         includeRequestBodyInCheck: {maxRequestBytes: 100, allowPartialMessage: true}\n",
    );
    assert_eq!(settings.unreadable, None);
    let grpc = settings.providers["grpc"].as_ref().unwrap();
    assert_eq!((grpc.service.as_str(), grpc.port), ("a.shop.svc.cluster.local", 9000));
    assert_eq!((grpc.timeout, grpc.fail_open, grpc.status_on_error, &grpc.http), (authorizer::TIMEOUT, false, None, &None));
    let http = settings.providers["http"].as_ref().unwrap();
    assert_eq!((http.timeout, http.fail_open, http.status_on_error), (Duration::from_millis(500), true, Some(503)));
    assert_eq!(http.body.as_ref().map(|body| (body.max_request_bytes, body.allow_partial_message)), Some((100, true)));
    let check = http.http.as_ref().unwrap();
    assert_eq!((check.path_prefix.as_str(), check.told.len(), check.to_upstream.len()), ("/check", 2, 1));
    assert!(settings.providers["spans"].as_ref().unwrap_err().contains("lightstep is nobody who can be asked"));
}

#[test]
fn a_provider_with_something_that_is_not_known_is_refused_by_its_field() {
    let grpc = |fields: &str| refused(&format!("envoyExtAuthzGrpc: {{service: a, port: 1, {fields}}}"));
    for (fields, part) in [
        ("retries: 3", "unknown field `retries`"),
        ("clearRouteCache: true", "clearRouteCache"),
        ("timeout: soon", "timeout"),
        ("timeout: 0s", "timeout"),
        ("timeout: 3600s", "timeout"),
        ("statusOnError: \"200\"", "statusOnError"),
        ("statusOnError: Forbidden", "statusOnError"),
        ("pathPrefix: /a", "only an authorizer asked by HTTP"),
        ("includeRequestBodyInCheck: {maxRequestBytes: 0}", "maxRequestBytes"),
        ("includeRequestBodyInCheck: {maxBytes: 1}", "unknown field `maxBytes`"),
    ] {
        let said = grpc(fields);
        assert!(said.starts_with("envoyExtAuthzGrpc") && said.contains(part), "{fields}: {said}");
    }
    assert!(refused("envoyExtAuthzGrpc: {port: 1}").contains("service: missing"));
    assert!(refused("envoyExtAuthzGrpc: {service: '*.example.com', port: 1}").contains("service: \"*.example.com\""));
    assert!(refused("envoyExtAuthzGrpc: {service: a}").contains("port: missing"));
    assert!(refused("envoyExtAuthzHttp: {service: a, port: 1, headersToUpstreamOnAllow: ['a*b']}").contains("\"a*b\""));
    assert!(refused("envoyExtAuthzHttp: {service: a, port: 1, includeRequestHeadersInCheck: [':path']}").contains(":path"));
    assert!(refused("envoyExtAuthzHttp: {}, envoyExtAuthzGrpc: {}").contains("must be one of"));
}

#[test]
fn what_is_no_configuration_of_a_mesh_has_no_authorizers_and_says_why() {
    for (text, why) in [
        ("a: [", "not valid YAML"),
        ("text", "not a mapping"),
        ("extensionProviders: {}", "not a list"),
        ("extensionProviders: [{envoyExtAuthzGrpc: {}}]", "extensionProviders[0].name"),
    ] {
        let settings = read(text);
        assert!(settings.providers.is_empty(), "{text}");
        assert!(settings.unreadable.as_ref().is_some_and(|said| said.contains(why)), "{text}: {:?}", settings.unreadable);
    }
    assert_eq!(read("").unreadable, None);
    let twice = "extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: a, port: 1}}, {name: p, envoyExtAuthzGrpc: {service: b, port: 1}}]";
    assert_eq!(read(twice).providers["p"], Err("it is given twice".into()));
}

#[test]
fn servers_of_limits_let_pass_without_an_answer_unless_it_is_said_otherwise() {
    let limits = |fields: &str| {
        let settings = read(&format!("extensionProviders: [{{name: p, ambitRateLimitGrpc: {{{fields}}}}}]"));
        assert!(settings.providers.is_empty(), "it is nobody whom policies may have asked");
        settings.limiters["p"].clone()
    };
    let place = "service: limits.tools.svc.cluster.local, port: 8081";
    let short = limits(place).unwrap();
    assert_eq!((short.service.as_str(), short.port), ("limits.tools.svc.cluster.local", 8081));
    assert_eq!((short.timeout, short.fail_open, short.status_on_error), (Duration::from_millis(20), true, None));
    let whole = limits(&format!("{place}, timeout: 0.1s, failOpen: false, statusOnError: \"503\"")).unwrap();
    assert_eq!((whole.timeout, whole.fail_open, whole.status_on_error), (Duration::from_millis(100), false, Some(503)));
    for (fields, part) in [
        ("port: 1", "ambitRateLimitGrpc.service: missing"),
        ("service: a", "ambitRateLimitGrpc.port: missing"),
        ("service: a, port: 1, domain: shop", "unknown field `domain`"),
        ("service: a, port: 1, timeout: 0s", "ambitRateLimitGrpc.timeout"),
        ("service: a, port: 1, statusOnError: 503", "statusOnError: goes with failOpen: false"),
    ] {
        let why = limits(fields).unwrap_err();
        assert!(why.contains(part), "{part}: {why}");
    }
    let limiter = "ambitRateLimitGrpc: {service: a, port: 1}";
    let twice = read(&format!("extensionProviders: [{{name: p, {limiter}}}, {{name: p, {limiter}}}]"));
    assert_eq!(twice.limiters["p"], Err("it is given twice".to_owned()));
    let both = read(&format!("extensionProviders: [{{name: p, {limiter}, envoyExtAuthzGrpc: {{}}}}]"));
    assert!(both.limiters["p"].as_ref().is_err_and(|why| why.contains("envoyExtAuthzGrpc")), "{both:?}");
}

#[test]
fn processors_are_read_with_their_defaults_and_refused_by_the_field() {
    let settings = read(
        "extensionProviders:\n\
         - {name: plain, envoyExtProcGrpc: {service: a.shop.svc.cluster.local, port: 9000}}\n\
         - {name: all, envoyExtProcGrpc: {service: shop/b.example.com, port: 1, timeout: 1s, failOpen: true, \
         processingMode: {requestBodyMode: BUFFERED, responseHeaderMode: SKIP}}}\n\
         - {name: pieces, envoyExtProcGrpc: {service: a.shop.svc.cluster.local, port: 1, allowModeOverride: true, \
         processingMode: {responseBodyMode: STREAMED, requestTrailerMode: SEND}}}\n",
    );
    let plain = settings.processors["plain"].as_ref().unwrap();
    assert_eq!(
        (plain.port, plain.timeout, plain.fail_open, plain.told),
        (9000, Duration::from_millis(200), false, Told::default())
    );
    let all = settings.processors["all"].as_ref().unwrap();
    assert_eq!((all.timeout, all.fail_open), (Duration::from_secs(1), true));
    let told = Told { request_body_mode: BodyMode::Buffered, response_header_mode: HeaderMode::Skip, ..Told::default() };
    assert_eq!((all.told, all.allow_mode_override), (told, false));
    let pieces = settings.processors["pieces"].as_ref().unwrap();
    let told = Told { response_body_mode: BodyMode::Streamed, request_trailer_mode: TrailerMode::Send, ..Told::default() };
    assert_eq!((pieces.told, pieces.allow_mode_override), (told, true));
    for (fields, why) in [
        ("envoyExtProcGrpc: {port: 1}", "envoyExtProcGrpc.service"),
        ("envoyExtProcGrpc: {service: a}", "envoyExtProcGrpc.port"),
        ("envoyExtProcGrpc: {service: a, port: 1, timeout: 0s}", "envoyExtProcGrpc.timeout"),
        ("envoyExtProcGrpc: {service: a, port: 1, messageTimeout: 1s}", "unknown field `messageTimeout`"),
        ("envoyExtProcGrpc: {service: a, port: 1, processingMode: {requestBodyMode: GRPC}}", "unknown variant `GRPC`"),
        (
            "envoyExtProcGrpc: {service: a, port: 1, allowModeOverride: true, \
             processingMode: {requestHeaderMode: SKIP, responseHeaderMode: SKIP, requestBodyMode: STREAMED}}",
            "allowModeOverride",
        ),
        (
            "envoyExtProcGrpc: {service: a, port: 1, processingMode: {requestHeaderMode: SKIP, responseHeaderMode: SKIP}}",
            "it is told nothing",
        ),
        ("envoyExtProcGrpc: {service: a, port: 1}, opentelemetry: {}", "nothing besides"),
    ] {
        let settings = read(&format!("extensionProviders: [{{name: p, {fields}}}]"));
        let said = settings.processors["p"].clone().unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
}

#[test]
fn a_name_that_is_given_twice_is_nobody_s_of_whatever_kinds() {
    let kinds = ["envoyExtAuthzGrpc", "ambitRateLimitGrpc", "envoyExtProcGrpc", "zipkin"];
    let twice = |known: Option<Option<String>>| known.is_none_or(|why| why.as_deref() == Some("it is given twice"));
    for (first, second) in kinds.iter().flat_map(|first| kinds.iter().map(move |second| (first, second))) {
        let of = |kind: &str| format!("{{name: p, {kind}: {{service: a, port: 1}}}}");
        let settings = read(&format!("extensionProviders: [{}, {}]", of(first), of(second)));
        assert!(twice(settings.providers.get("p").map(|known| known.clone().err())), "{settings:?}");
        assert!(twice(settings.limiters.get("p").map(|known| known.clone().err())), "{settings:?}");
        assert!(twice(settings.processors.get("p").map(|known| known.clone().err())), "{settings:?}");
        assert!(twice(settings.tracers.get("p").map(|known| known.clone().err())), "{settings:?}");
        let known = settings.providers.len() + settings.limiters.len() + settings.processors.len() + settings.tracers.len();
        assert_eq!((known, settings.unreadable), (1, None), "{first} {second}");
    }
}

#[test]
fn access_loggers_are_read_with_their_defaults_and_refused_by_the_field() {
    let settings = read(
        "accessLogFile: /var/log/all\naccessLogEncoding: JSON\ndefaultProviders: {accessLogging: [lines]}\nextensionProviders:\n\
         - {name: lines, envoyFileAccessLog: {path: /dev/stdout, logFormat: {text: '%RESPONSE_CODE%'}}}\n\
         - {name: plain, envoyOtelAls: {service: a.shop.svc.cluster.local, port: 4317}}\n",
    );
    assert_eq!(settings.default_loggers, ["lines"]);
    let lines = LineFormat::Text("%RESPONSE_CODE%\n".into());
    let file = |path: &str, format| Ok(AccessLogger::File { path: path.into(), format, omit_empty: false });
    assert_eq!(settings.loggers["lines"], file("/dev/stdout", lines));
    let Ok(AccessLogger::Collector { log_name, body, attributes, .. }) = &settings.loggers["plain"] else {
        panic!("{settings:?}")
    };
    assert!(log_name == "otel_envoy_accesslog" && body.starts_with("[%START_TIME%]") && attributes.is_empty());
    let Ok(AccessLogger::File { path, format: LineFormat::Json(fields), .. }) = &settings.loggers["envoy"] else {
        panic!("{settings:?}")
    };
    assert_eq!((path.as_str(), &fields["method"]), ("/var/log/all", &"%REQ(:METHOD)%".into()));
    for (fields, why) in [
        ("envoyFileAccessLog: {}", "envoyFileAccessLog.path: \"\" does not begin with a slash"),
        ("envoyFileAccessLog: {path: /a, logFormat: {text: '%X%'}}", "envoyFileAccessLog.logFormat.text: %X% is not implemented"),
        ("envoyFileAccessLog: {path: /a, logFormat: {labels: {b: '%X%'}}}", "logFormat.labels: b: %X% is not implemented"),
        ("envoyFileAccessLog: {path: /a, logFormat: {text: a, labels: {}}}", "text or labels, and not both"),
        ("envoyFileAccessLog: {path: /a, size: 1}", "unknown field `size`"),
        ("envoyOtelAls: {port: 1}", "envoyOtelAls.service: missing"),
        ("envoyOtelAls: {service: a, port: 1, logFormat: {labels: {b: {c: d}}}}", "envoyOtelAls.logFormat.labels: b: not a text"),
        ("envoyOtelAls: {service: a, port: 1}, envoyFileAccessLog: {path: /a}", "the only kind that it may have"),
    ] {
        let settings = read(&format!("extensionProviders: [{{name: p, {fields}}}]"));
        let said = settings.loggers["p"].clone().unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
    let unknown = read("accessLogEncoding: XML").loggers["envoy"].clone().unwrap_err();
    assert!(unknown.contains("\"XML\" is neither TEXT nor JSON"), "{unknown}");
}

#[test]
fn administrators_are_accounts_or_identities_and_one_who_is_neither_leaves_nobody() {
    let domain: ambit_identity::TrustDomain = "mesh.example".parse().unwrap();
    let named = |list: &str| {
        let Administrators { named, wrong } = read(&format!("ambitExplain: {{administrators: [{list}]}}")).administrators;
        (named.iter().map(|one| one.identity(&domain).to_string()).collect::<Vec<_>>(), wrong)
    };
    let (all, wrong) = named("ops/debug, 'spiffe://other.example/ns/ops/sa/debug'");
    assert_eq!(all, ["spiffe://mesh.example/ns/ops/sa/debug", "spiffe://other.example/ns/ops/sa/debug"]);
    assert_eq!(wrong, None);
    for text in
        ["'*'", "debug", "ops/*", "ops/", "/debug", "ops/debug/more", "'spiffe://mesh.example/*'", "'spiffe:ops/debug'", "''"]
    {
        let (all, wrong) = named(&format!("ops/debug, {text}"));
        assert!(all.is_empty(), "{text}: {all:?}");
        assert!(wrong.is_some_and(|why| why.starts_with("ambitExplain.administrators[1]: ")), "{text}");
    }
    for text in ["ambitExplain: {admins: [ops/debug]}", "ambitExplain: [ops/debug]", "ambitExplain: {administrators: ops/debug}"]
    {
        let Administrators { named, wrong } = read(text).administrators;
        assert!(named.is_empty() && wrong.is_some_and(|why| why.starts_with("ambitExplain: ")), "{text}");
    }
    for text in ["", "ambitExplain:", "ambitExplain: {}", "extensionProviders: []"] {
        assert_eq!(read(text).administrators, Administrators::default(), "{text}");
    }
    let both = read(
        "extensionProviders: [{name: p, envoyExtAuthzGrpc: {service: a, port: 1}}]\nambitExplain: {administrators: [ops/debug]}",
    );
    assert_eq!((both.providers.len(), both.administrators.named.len()), (1, 1));
}

#[test]
fn those_whom_spans_are_sent_to_are_read_with_their_defaults_and_refused_by_their_fields() {
    let read = |fields: &str| read(&format!("extensionProviders: [{{name: p, {fields}}}]")).tracers["p"].clone();
    let speaks = |fields: &str| read(fields).unwrap().speaks;
    let seconds = Duration::from_secs;
    assert_eq!(speaks("opentelemetry: {service: a, port: 4317}"), Speaks::OtlpGrpc { timeout: seconds(10) });
    assert_eq!(speaks("opentelemetry: {service: a, port: 4317, grpc: {timeout: 2s}}"), Speaks::OtlpGrpc { timeout: seconds(2) });
    let by_http =
        read("opentelemetry: {service: a, port: 4318, maxTagLength: 99, http: {path: /v1/traces, timeout: 1s}}").unwrap();
    assert_eq!((by_http.port, by_http.max_tag_length), (4318, Some(99)));
    assert_eq!(by_http.speaks, Speaks::OtlpHttp { path: "/v1/traces".into(), timeout: seconds(1) });
    assert_eq!(speaks("zipkin: {service: a, port: 9411}"), Speaks::Zipkin { path: "/api/v2/spans".into(), w3c: false });
    let both = "zipkin: {service: a, port: 9411, path: /spans, traceContextOption: USE_B3_WITH_W3C_PROPAGATION}";
    assert_eq!(speaks(both), Speaks::Zipkin { path: "/spans".into(), w3c: true });
    for (fields, why) in [
        ("opentelemetry: {port: 1}", "opentelemetry.service"),
        ("opentelemetry: {service: a, port: 1, http: {path: spans}}", "opentelemetry.http.path: \"spans\" is no path"),
        ("opentelemetry: {service: a, port: 1, http: {path: /}, grpc: {}}", "opentelemetry.grpc: only one of"),
        ("opentelemetry: {service: a, port: 1, grpc: {timeout: 0s}}", "opentelemetry.grpc.timeout"),
        ("opentelemetry: {service: a, port: 1, resourceDetectors: {environment: {}}}", "unknown field `resourceDetectors`"),
        ("opentelemetry: {service: a, port: 1, http: {path: /, headers: []}}", "unknown field `headers`"),
        ("zipkin: {service: a, port: 1, enable64bitTraceId: true}", "zipkin.enable64bitTraceId"),
        ("zipkin: {service: a, port: 1, traceContextOption: W3C}", "zipkin.traceContextOption: \"W3C\""),
    ] {
        let said = read(fields).unwrap_err();
        assert!(said.contains(why), "{why}: {said}");
    }
}
