use super::*;

const NOW: u64 = 1_800_000_000;

fn one() -> EndpointName {
    EndpointName { address: ([10, 0, 0, 1], 8080).into(), tunnelled: true }
}

fn other() -> EndpointName {
    EndpointName { address: "[fd00::2]:80".parse().unwrap(), tunnelled: false }
}

fn cookie() -> Cookie {
    Cookie { name: "cart".into(), ..Cookie::default() }
}

fn session(cookie: Cookie) -> Session {
    Session { carrier: Carrier::Cookie(cookie), strict: false }
}

fn by_header() -> Session {
    Session { carrier: Carrier::Header("x-session".into()), strict: false }
}

fn claim(session: &Session, path_and_query: &str, sent: &[(&'static str, &str)], now: u64) -> Option<Claim> {
    let mut headers = HeaderMap::new();
    for (name, value) in sent {
        headers.append(*name, value.parse().unwrap());
    }
    session.claim(&RequestView { method: "GET", scheme: "http", authority: "a", path_and_query, headers: &headers }, now)
}

/// What the client of an answer of `endpoint` is told.
fn told(session: &Session, claim: Claim, endpoint: EndpointName) -> Option<String> {
    let mut headers = HeaderMap::new();
    session.tell(&mut headers, claim, endpoint, NOW);
    assert!(headers.len() < 2);
    headers.values().next().map(|value| value.to_str().unwrap().to_owned())
}

/// `name="value"` of what it is told.
fn pair(session: &Session, endpoint: EndpointName) -> String {
    let text = told(session, Claim::Nothing, endpoint).unwrap();
    text.split(';').next().unwrap().to_owned()
}

#[test]
fn a_client_is_told_its_endpoint_once_and_goes_on_with_it() {
    for endpoint in [one(), other()] {
        let session = session(cookie());
        let sent = pair(&session, endpoint);
        let again = claim(&session, "/", &[("cookie", &format!("a=b; {sent}; c"))], NOW).unwrap();
        assert_eq!(again, Claim::Endpoint(endpoint));
        assert_eq!(told(&session, again, endpoint), None);
        assert!(told(&session, again, EndpointName { tunnelled: !endpoint.tunnelled, ..endpoint }).is_some());
        let by_header = by_header();
        let value = told(&by_header, Claim::Nothing, endpoint).unwrap();
        let again = claim(&by_header, "/", &[("x-session", &value)], NOW).unwrap();
        assert_eq!(again, Claim::Endpoint(endpoint));
        assert_eq!(told(&by_header, again, endpoint), None);
    }
}

#[test]
fn what_is_told_is_what_envoy_tells() {
    // The texts of an Envoy for such an endpoint.
    assert_eq!(one().to_string(), "envoy://connect_originate/10.0.0.1:8080");
    assert_eq!(other().to_string(), "[fd00::2]:80");
    let text = told(&session(cookie()), Claim::Nothing, one()).unwrap();
    assert_eq!(text, "cart=\"CidlbnZveTovL2Nvbm5lY3Rfb3JpZ2luYXRlLzEwLjAuMC4xOjgwODA=\"; HttpOnly");
    let full = Cookie {
        path: "/shop".into(),
        ttl: Some(Duration::from_secs(600)),
        attributes: vec![("SameSite".into(), "Strict".into()), ("Secure".into(), String::new())],
        ..cookie()
    };
    let text = told(&session(full), Claim::Nothing, one()).unwrap();
    assert!(text.ends_with("\"; Max-Age=600; Path=/shop; SameSite=Strict; Secure; HttpOnly"), "{text}");
    assert_eq!(told(&by_header(), Claim::Nothing, other()).unwrap(), "W2ZkMDA6OjJdOjgw");
}

#[test]
fn a_session_is_over_when_its_time_is() {
    let endless = pair(&session(cookie()), one());
    let session = session(Cookie { ttl: Some(Duration::from_secs(60)), ..cookie() });
    let sent = pair(&session, one());
    for (after, claimed) in [(0, Claim::Endpoint(one())), (60, Claim::Endpoint(one())), (61, Claim::Nothing)] {
        assert_eq!(claim(&session, "/", &[("cookie", &sent)], NOW + after), Some(claimed), "{after}");
    }
    assert_eq!(claim(&session, "/", &[("cookie", &endless)], NOW), Some(Claim::Nothing), "one without an end");
}

#[test]
fn what_is_made_up_names_no_endpoint() {
    let encoded = |address: &str| {
        let told = Told { address: address.into(), expires: 0 };
        BASE64_STANDARD.encode(told.encode_to_vec())
    };
    for value in ["x", "====", &encoded("10.0.0.1"), &encoded("envoy://main_internal/10.0.0.1:80"), &encoded("a.example:80")] {
        let sent = format!("cart={value}");
        assert_eq!(claim(&session(cookie()), "/", &[("cookie", &sent)], NOW), Some(Claim::Nonsense), "{value}");
    }
    for value in ["cart=", "cart=\"\"", "cart", "art=x; cartx=y; xcart=z", &format!("cart={}", encoded(""))] {
        assert_eq!(claim(&session(cookie()), "/", &[("cookie", value)], NOW), Some(Claim::Nothing), "{value}");
    }
    assert_eq!(claim(&by_header(), "/", &[("x-session", "=")], NOW), Some(Claim::Nonsense));
    assert_eq!(claim(&by_header(), "/", &[], NOW), Some(Claim::Nothing));
}

#[test]
fn of_several_cookies_the_first_of_the_name_counts() {
    let (first, second) = (pair(&session(cookie()), one()), pair(&session(cookie()), other()));
    let joined = format!("{};{second}", first.replace('"', ""));
    let apart = [("cookie", "a=b"), ("cookie", first.as_str()), ("cookie", second.as_str())];
    for sent in [&apart[..], &[("cookie", joined.as_str())]] {
        assert_eq!(claim(&session(cookie()), "/", sent, NOW), Some(Claim::Endpoint(one())), "{sent:?}");
    }
}

#[test]
fn a_cookie_holds_for_its_path_and_what_is_below_it() {
    for (path, holds, not) in [
        ("", &["/", "/a"][..], &[][..]),
        ("/", &["/", "/a"], &[]),
        ("/a", &["/a", "/a/", "/a/b", "/a?b", "/a#b"], &["/", "/ab", "/b/a"]),
        ("/a/", &["/a/", "/a/b"], &["/a", "/ab"]),
    ] {
        let session = session(Cookie { path: path.into(), ..cookie() });
        for request in holds {
            assert!(claim(&session, request, &[], NOW).is_some(), "{path} {request}");
        }
        for request in not {
            assert!(claim(&session, request, &[], NOW).is_none(), "{path} {request}");
        }
    }
}
