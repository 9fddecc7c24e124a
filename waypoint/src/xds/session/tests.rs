use ambit_api::envoy::pb::{
    envoy::extensions::filters::{
        http::{cors::v3::Cors, router::v3::Router},
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
        },
    },
    google::protobuf::Duration,
};
use prost::{Message, Name};

use super::{
    super::{cors, hcm},
    *,
};

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn session(name: &str, state: Any) -> pb::StatefulSession {
    let session_state = Some(TypedExtensionConfig { name: name.into(), typed_config: Some(state) });
    pb::StatefulSession { session_state, ..Default::default() }
}

fn read(session: pb::StatefulSession) -> Result<Option<Session>, String> {
    let said = pb::StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) };
    per_route(&any(&said)).map_err(|problem| problem.to_string())
}

fn with_cookie(cookie: cookie_pb::Cookie) -> pb::StatefulSession {
    session("envoy.http.stateful_session.cookie", any(&CookieBasedSessionState { cookie: Some(cookie) }))
}

fn with_header(name: &str) -> pb::StatefulSession {
    session("envoy.http.stateful_session.header", any(&HeaderBasedSessionState { name: name.into() }))
}

#[test]
fn sessions_by_cookie_and_by_header_are_compiled() {
    let cookie = cookie_pb::Cookie {
        name: "cart".into(),
        ttl: Some(Duration { seconds: 600, nanos: 0 }),
        path: "/shop".into(),
        attributes: vec![cookie_pb::CookieAttribute { name: "SameSite".into(), value: "Strict".into() }],
    };
    let Session { carrier, strict } = read(pb::StatefulSession { strict: true, ..with_cookie(cookie) }).unwrap().unwrap();
    let Carrier::Cookie(Cookie { name, path, ttl, attributes }) = carrier else { panic!("a cookie") };
    assert_eq!((name.as_str(), path.as_str(), ttl.unwrap().as_secs(), strict), ("cart", "/shop", 600, true));
    assert_eq!(attributes, [("SameSite".to_owned(), "Strict".to_owned())]);
    let by_header = read(with_header("X-Session")).unwrap().unwrap();
    assert!(matches!(&by_header.carrier, Carrier::Header(name) if name == "x-session") && !by_header.strict);
    assert!(read(pb::StatefulSession::default()).unwrap().is_none());
    let disabled = pb::StatefulSessionPerRoute { r#override: Some(Override::Disabled(true)) };
    assert!(per_route(&any(&disabled)).unwrap().is_none());
}

#[test]
fn what_is_not_implemented_of_sessions_is_rejected_by_name() {
    let cookie = |name: &str, path: &str| cookie_pb::Cookie { name: name.into(), path: path.into(), ..Default::default() };
    let status = pb::StatefulSession { status_on_strict_destination_not_found: 404, ..with_header("x") };
    for (session, why) in [
        (status, "status_on_strict_destination_not_found is not implemented"),
        (session("other", any(&pb::StatefulSession::default())), "session_state: envoy.extensions"),
        (with_header("content-length"), "session_state.name: \"content-length\" is no header for a session"),
        (with_header(""), "session_state.name"),
        (with_cookie(cookie("", "/")), "session_state.cookie.name: \"\" is no name of a cookie"),
        (with_cookie(cookie("a b", "/")), "session_state.cookie.name"),
        (with_cookie(cookie("a", "/b; Domain=c")), "session_state.cookie: \"/b; Domain=c\" cannot be said of a cookie"),
        (with_cookie(cookie("a", "/b\r\nx: y")), "cannot be said of a cookie"),
    ] {
        let said = read(session).unwrap_err();
        assert!(said.contains(why), "{said}, not {why}");
    }
    let named = pb::StatefulSession::default();
    assert!(filter("sessions", &any(&named)).is_err() && filter(NAME, &any(&named)).is_ok());
    let said = filter(NAME, &any(&with_header("x"))).unwrap_err().to_string();
    assert!(said.contains("session_state is not implemented"), "{said}");
}

/// What becomes of a connection manager with these filters and the router.
fn chain(filters: Vec<HttpFilter>) -> Result<bool, String> {
    let mut http_filters = filters;
    http_filters.push(named("envoy.filters.http.router", &Router { suppress_envoy_headers: true, ..Default::default() }));
    let route_specifier = Some(RouteSpecifier::RouteConfig(Default::default()));
    let config = HttpConnectionManager { route_specifier, http_filters, ..Default::default() };
    hcm::chain(config).map(|chain| chain.sessions).map_err(|problem| problem.to_string())
}

fn named<M: Message + Name>(name: &str, message: &M) -> HttpFilter {
    HttpFilter { name: name.into(), config_type: Some(ConfigType::TypedConfig(any(message))), ..Default::default() }
}

#[test]
fn a_filter_that_may_be_left_out_is_where_it_is_not_known() {
    let sessions = || HttpFilter { is_optional: true, ..named(NAME, &pb::StatefulSession::default()) };
    let unknown = |is_optional| HttpFilter { is_optional, ..named("other", &CookieBasedSessionState::default()) };
    assert_eq!(chain(vec![]), Ok(false));
    assert_eq!(chain(vec![unknown(true), sessions()]), Ok(true), "one that is known is not left out");
    let said = chain(vec![unknown(false), sessions()]).unwrap_err();
    assert!(said.contains("http_filters.other: envoy.extensions.http.stateful_session.cookie.v3"), "{said}");
    let cors = named("envoy.filters.http.cors", &Cors::default());
    assert_eq!(cors::FILTER, Cors::full_name());
    assert_eq!(chain(vec![cors.clone(), sessions()]), Ok(true));
    let said = chain(vec![sessions(), cors]).unwrap_err();
    assert!(said.contains("sessions before other filters are not implemented"), "{said}");
}
