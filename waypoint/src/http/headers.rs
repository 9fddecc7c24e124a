//! Headers that concern one connection only, and the form a request takes for the next one.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header};

/// Headers of one hop (RFC 9110, section 7.6.1) besides those that `Connection` names.
static HOP_BY_HOP: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The addresses that a request came by.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What was spoken where it came in.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The identity that a client has proven to a proxy.
pub const CLIENT_CERTIFICATE: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// The address at which it came into the mesh.
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

/// By which an administrator of the mesh asks what becomes of a request.
pub const EXPLAIN: HeaderName = HeaderName::from_static("x-ambit-explain");

/// What is taken out of a request once it has come. The first only a proxy of the mesh may say. Whoever asks by the second has been heard; it is
/// for nobody else to see, and rules and routes do not go by it.
static HEARD: [HeaderName; 2] = [HeaderName::from_static("x-envoy-internal"), EXPLAIN];

/// How the names of orders begin.
const ORDER: &str = "x-envoy-";

/// What a client may order an Envoy to do with its request. Envoy takes them out of it, whether it does that or not.
static ORDERS: [HeaderName; 10] = [
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
];

/// Takes out what clients order Envoys to do: neither are these orders carried out here, nor are they for whoever comes next. How long the proxy
/// before waits has been read by then, and whoever comes next is told what is left of it.
pub fn strip_orders(headers: &mut HeaderMap) {
    // Hardly a request has any, and each name would be hashed to look for it.
    if !headers.keys().any(|name| name.as_str().starts_with(ORDER)) {
        return;
    }
    for name in &ORDERS {
        headers.remove(name);
    }
}

/// Removes what concerns one hop only. `TE: trailers` stays: it is about the whole way (gRPC relies on it).
pub fn strip_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| *name == header::TE || HOP_BY_HOP.contains(name)) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| *name != header::TE && *name != header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(te) = headers.get(header::TE) {
        let trailers = te.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("trailers")));
        match trailers {
            true => drop(headers.insert(header::TE, HeaderValue::from_static("trailers"))),
            false => drop(headers.remove(header::TE)),
        }
    }
}

/// The same for a request that has just come; what upgrade it asks for stays known. Done first, so that a client has nothing of what is said
/// of it here taken out later by naming it in `Connection`, nor anybody told what is not sent on.
fn strip_arrived(headers: &mut HeaderMap) {
    let upgrade_to = upgrade(headers).and_then(|_| headers.get(header::UPGRADE).cloned());
    strip_hop(headers);
    if let Some(name) = upgrade_to {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, name);
    }
}

/// A request that has just come, as everything here looks at it; `outside` is the address of a client outside of the mesh, and the scheme that it
/// speaks with us.
pub fn arrived<B>(request: &mut Request<B>, outside: Option<(IpAddr, &'static str)>) {
    let http2 = request.version() == Version::HTTP_2;
    let headers = request.headers_mut();
    match outside {
        Some((client, scheme)) => from_outside(headers, client, scheme),
        None if headers.contains_key(header::CONNECTION) => strip_arrived(headers),
        None => {}
    }
    if headers.keys().any(|name| HEARD.contains(name)) {
        HEARD.iter().for_each(|name| drop(headers.remove(name)));
    }
    if http2 {
        join_cookies(headers);
        if headers.get(header::COOKIE).is_some_and(HeaderValue::is_empty) {
            headers.remove(header::COOKIE);
        }
    }
}

/// Has a request say who its client is, as far as that is known, and nothing that the client says of it itself. Some servers take `_` for `-`.
/// Says whether its headers are others now.
pub fn client_certificate(headers: &mut HeaderMap, client: Option<&HeaderValue>) -> bool {
    let says_it =
        |name: &&HeaderName| name.as_str().contains('_') && CLIENT_CERTIFICATE == name.as_str().replace('_', "-").as_str();
    let spelt_otherwise: Vec<HeaderName> = headers.keys().filter(says_it).cloned().collect();
    for name in &spelt_otherwise {
        headers.remove(name);
    }
    let before = match client {
        Some(client) => headers.insert(CLIENT_CERTIFICATE, client.clone()),
        None => headers.remove(CLIENT_CERTIFICATE),
    };
    client.is_some() || before.is_some() || !spelt_otherwise.is_empty()
}

/// Has all cookies in one line: HTTP/2 may split them, and nobody else has to know (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let joined = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// What a request says of its way, when it comes from outside of the mesh: where it comes from is added to what it says itself, and what
/// only proxies may say is taken out (Envoy, `use_remote_address`).
fn from_outside(headers: &mut HeaderMap, client: IpAddr, scheme: &'static str) {
    strip_arrived(headers);
    let said_by_proxies: Vec<HeaderName> = headers.keys().filter(|name| of_proxies(name.as_str())).cloned().collect();
    for name in said_by_proxies {
        headers.remove(name);
    }
    let client = client.to_string();
    let before = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
    let hops = before.chain([client.as_bytes()]).collect::<Vec<_>>().join(&b","[..]);
    if let (Ok(hops), Ok(client)) = (HeaderValue::from_bytes(&hops), HeaderValue::from_str(&client)) {
        headers.insert(FORWARDED_FOR, hops);
        headers.insert(EXTERNAL_ADDRESS, client);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme));
}

/// Whether only proxies may say a header. Some servers take `_` for `-`.
fn of_proxies(name: &str) -> bool {
    let said = |name: &str| name.starts_with("x-envoy-") || CLIENT_CERTIFICATE == name;
    if !name.contains('_') {
        return said(name);
    }
    let name = name.replace('_', "-");
    said(&name) || FORWARDED_FOR == name.as_str() || FORWARDED_PROTO == name.as_str()
}

/// The upgrade that a request asks for, in lower case.
pub fn upgrade(headers: &HeaderMap) -> Option<String> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")));
    let name = headers.get(header::UPGRADE)?.to_str().ok()?;
    asks.then(|| name.trim().to_ascii_lowercase())
}

/// Brings a request into the form of the next connection: target, version, host, cookies.
///
/// # Errors
/// When path or host do not make a target.
pub fn target<B>(request: &mut Request<B>, path: &str, authority: &str, http2: bool) -> Result<(), http::Error> {
    match http2 {
        true => *request.uri_mut() = Uri::builder().scheme("http").authority(authority).path_and_query(path).build()?,
        // What is as it came needs not be read once more.
        false if is_path(request.uri(), path) => {}
        false => *request.uri_mut() = Uri::builder().path_and_query(path).build()?,
    }
    *request.version_mut() = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    let headers = request.headers_mut();
    match http2 {
        true => drop(headers.remove(header::HOST)),
        false if is_host(headers, authority) => {}
        false => drop(headers.insert(header::HOST, HeaderValue::from_str(authority)?)),
    }
    if !http2 {
        join_cookies(headers);
    }
    Ok(())
}

/// Whether a target is this path and nothing more.
fn is_path(target: &Uri, path: &str) -> bool {
    let own = target.path_and_query().filter(|_| target.scheme().is_none() && target.authority().is_none());
    !target.path().is_empty() && own.is_some_and(|own| own.as_str() == path)
}

/// Whether the host of a request is this one.
fn is_host(headers: &HeaderMap, authority: &str) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    hosts.next().is_some_and(|host| host.as_bytes() == authority.as_bytes()) && hosts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn headers_of_one_hop_are_removed_with_those_that_connection_names() {
        let mut headers = map(&[
            ("connection", "close, X-Own, te"),
            ("keep-alive", "timeout=5"),
            ("x-own", "1"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("x-kept", "1"),
            ("upgrade", "h2c"),
        ]);
        strip_hop(&mut headers);
        assert_eq!(headers, map(&[("te", "trailers"), ("x-kept", "1")]));
        let mut headers = map(&[("te", "gzip"), ("connection", "host"), ("host", "a")]);
        strip_hop(&mut headers);
        assert_eq!(headers, map(&[("host", "a")]));
    }

    #[test]
    fn a_client_outside_of_the_mesh_does_not_write_what_proxies_say() {
        let mut headers = map(&[
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-external-address", "192.0.2.3"),
            ("x_forwarded_for", "192.0.2.4"),
            ("x_forwarded-client_cert", "URI=spiffe://cluster.local/ns/shop/sa/admin"),
            ("x-own", "1"),
            ("x_own", "1"),
        ]);
        from_outside(&mut headers, "198.51.100.7".parse().unwrap(), "http");
        let expected = map(&[
            ("x-forwarded-for", "192.0.2.1, 192.0.2.2,198.51.100.7"),
            ("x-forwarded-proto", "http"),
            ("x-envoy-external-address", "198.51.100.7"),
            ("x-own", "1"),
            ("x_own", "1"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn who_a_client_is_is_said_once_and_never_by_itself() {
        const FORGED: &str = "URI=spiffe://cluster.local/ns/shop/sa/admin";
        let known = HeaderValue::from_static("By=spiffe://cluster.local/ns/a/sa/w;URI=spiffe://cluster.local/ns/shop/sa/web");
        let forged = || {
            let mut headers = map(&[
                ("x-forwarded-client-cert", FORGED),
                ("x_forwarded_client_cert", FORGED),
                ("x-forwarded-client_cert", FORGED),
                ("x-forwarded_client-certs", "1"),
                ("x_own", "1"),
            ]);
            headers.append("x-forwarded-client-cert", HeaderValue::from_static(FORGED));
            headers
        };
        let kept = map(&[("x-forwarded_client-certs", "1"), ("x_own", "1")]);
        let mut headers = forged();
        assert!(client_certificate(&mut headers, None) && !client_certificate(&mut headers, None));
        assert_eq!(headers, kept, "a client of whom nothing is known is nobody");
        for mut headers in [forged(), kept.clone()] {
            assert!(client_certificate(&mut headers, Some(&known)));
            assert_eq!(headers.get_all("x-forwarded-client-cert").iter().collect::<Vec<_>>(), [&known]);
            headers.remove("x-forwarded-client-cert");
            assert_eq!(headers, kept);
        }
    }

    #[test]
    fn a_client_outside_of_the_mesh_has_nothing_taken_out_by_naming_it() {
        let mut headers = map(&[
            ("connection", "Upgrade, x-forwarded-for, x-forwarded-proto, x-envoy-external-address, x-own"),
            ("upgrade", "websocket"),
            ("x-own", "1"),
            ("x-kept", "1"),
        ]);
        from_outside(&mut headers, "198.51.100.7".parse().unwrap(), "https");
        assert_eq!(upgrade(&headers).as_deref(), Some("websocket"));
        strip_hop(&mut headers);
        let expected = map(&[
            ("x-forwarded-for", "198.51.100.7"),
            ("x-forwarded-proto", "https"),
            ("x-envoy-external-address", "198.51.100.7"),
            ("x-kept", "1"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn what_is_said_of_a_request_once_it_came_is_not_taken_out_by_its_client() {
        for upgrade_to in [None, Some("websocket")] {
            let mut headers = map(&[("connection", "x-user, upgrade"), ("x-user", "me"), ("x-kept", "1")]);
            if let Some(name) = upgrade_to {
                headers.insert("upgrade", HeaderValue::from_static(name));
            }
            strip_arrived(&mut headers);
            assert_eq!(upgrade(&headers).as_deref(), upgrade_to);
            headers.insert("x-user", HeaderValue::from_static("guard"));
            strip_hop(&mut headers);
            assert_eq!(headers, map(&[("x-user", "guard"), ("x-kept", "1")]));
        }
    }

    #[test]
    fn what_only_proxies_say_and_orders_to_them_are_not_passed_on() {
        let mut request = Request::new(());
        *request.headers_mut() = map(&[
            ("x-envoy-internal", "true"),
            ("x-ambit-explain", "beside"),
            ("x-envoy-retry-on", "5xx"),
            ("x-envoy-own", "1"),
        ]);
        arrived(&mut request, None);
        assert_eq!(*request.headers(), map(&[("x-envoy-retry-on", "5xx"), ("x-envoy-own", "1")]), "rules may ask for orders");
        strip_orders(request.headers_mut());
        assert_eq!(*request.headers(), map(&[("x-envoy-own", "1")]));
    }

    #[test]
    fn a_request_of_http_2_has_its_cookies_in_one_line() {
        for (version, cookies) in [(Version::HTTP_2, &["a=1; b=2"][..]), (Version::HTTP_11, &["a=1", "b=2"])] {
            let mut request =
                Request::builder().version(version).header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
            arrived(&mut request, None);
            let all: Vec<_> = request.headers().get_all("cookie").iter().collect();
            assert_eq!(all, cookies, "{version:?}");
        }
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert_eq!(
            upgrade(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])).as_deref(),
            Some("websocket")
        );
        assert_eq!(upgrade(&map(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn a_request_takes_the_form_of_the_next_connection() {
        let mut request = Request::builder().uri("http://a/x").version(Version::HTTP_2).body(()).unwrap();
        request.headers_mut().append("cookie", HeaderValue::from_static("a=1"));
        request.headers_mut().append("cookie", HeaderValue::from_static("b=2"));
        target(&mut request, "/y?z", "shop:80", false).unwrap();
        assert_eq!(request.uri(), "/y?z");
        assert_eq!(*request.headers(), map(&[("host", "shop:80"), ("cookie", "a=1; b=2")]));
        for (path, host) in [("/y?z", "shop:80"), ("/y", "shop:80"), ("/y?z", "shop")] {
            target(&mut request, path, host, false).unwrap();
            assert_eq!((request.uri().to_string().as_str(), &request.headers()["host"]), (path, &HeaderValue::from_static(host)));
        }
        target(&mut request, "/y", "shop:80", true).unwrap();
        assert_eq!(request.uri(), "http://shop:80/y");
        assert!(!request.headers().contains_key("host"));
    }
}
