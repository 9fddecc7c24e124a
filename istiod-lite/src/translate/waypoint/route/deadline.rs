//! What a backend is told of the time that its answer may take, and whose time that is.

use std::time::Duration;

use ambit_api::envoy::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use ambit_api::envoy::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use ambit_api::envoy::pb::envoy::config::route::v3::{Route, route::Action};
use gateway_api::experimental::httproutes::HttpRouteRules;

use super::action::{parse_duration, timeout};

/// The header in which an Envoy says it, in milliseconds.
const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";

/// The header for backends of a rule that has timeouts: the shorter of what its whole answer, and one try, may take. What a client has written
/// in it does not come through. (An Envoy would say it by itself, and with it more that nobody asks for: its router has to suppress all or nothing.)
pub fn told(rule: &HttpRouteRules, changed: &[HeaderValueOption]) -> Option<HeaderValueOption> {
    let of_try = rule.timeouts.as_ref().and_then(|timeouts| parse_duration(timeouts.backend_request.as_ref()?));
    of([Some(timeout(rule)), of_try].into_iter().flatten(), changed)
}

/// The same where these times hold, of which none is one of zero.
pub fn of(times: impl IntoIterator<Item = Duration>, changed: &[HeaderValueOption]) -> Option<HeaderValueOption> {
    let by_rule =
        changed.iter().filter_map(|option| option.header.as_ref()).any(|header| header.key.eq_ignore_ascii_case(EXPECTED));
    if by_rule {
        return None;
    }
    let time = times.into_iter().filter(|time| !time.is_zero()).min()?;
    let header = HeaderValue { key: EXPECTED.into(), value: time.as_millis().to_string(), ..Default::default() };
    Some(HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    })
}

/// A route without it, for clients that tell a server of their time in their own way. What the rule says itself stays.
pub fn without(mut route: Route) -> Route {
    // Of what rules say empty values are kept.
    let is = |option: &HeaderValueOption| {
        !option.keep_empty_value && option.header.as_ref().is_some_and(|header| header.key == EXPECTED)
    };
    route.request_headers_to_add.retain(|option| !is(option));
    route
}

/// A route of whose calls the deadlines of clients hold, where they are shorter than its own time. (By the field that took the place of this one an
/// Envoy would heed `timeout` no more, so Istio sends this one as well.) Where streams may not last as long as they like, that other field is there,
/// and what a client says takes the place of the stream's time, up to it.
#[allow(deprecated)]
pub fn of_calls(mut route: Route) -> Route {
    if let Some(Action::Route(action)) = &mut route.action {
        match &mut action.max_stream_duration {
            Some(stream) => stream.grpc_timeout_header_max = stream.max_stream_duration,
            None => action.max_grpc_timeout = action.timeout,
        }
    }
    route
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(rule: &str) -> Option<String> {
        let rule: HttpRouteRules = serde_json::from_str(rule).unwrap();
        told(&rule, &[]).and_then(|option| option.header).map(|header| header.value)
    }

    #[test]
    fn a_backend_is_told_the_shortest_time_that_holds_for_it() {
        for (rule, expected) in [
            ("{}", None),
            (r#"{"timeouts": {"request": "0s"}}"#, None),
            (r#"{"timeouts": {"request": "1m"}}"#, Some("60000")),
            (r#"{"timeouts": {"request": "1m", "backendRequest": "1s500ms"}}"#, Some("1500")),
            (r#"{"timeouts": {"request": "1m", "backendRequest": "2s"}, "retry": {"attempts": 2}}"#, Some("2000")),
            (r#"{"timeouts": {"request": "1s", "backendRequest": "0s"}, "retry": {"attempts": 2}}"#, Some("1000")),
        ] {
            assert_eq!(value(rule).as_deref(), expected, "{rule}");
        }
    }

    #[test]
    #[allow(deprecated)]
    fn the_client_of_a_call_bounds_the_time_of_its_stream_where_that_has_one() {
        use ambit_api::envoy::pb::envoy::config::route::v3::{RouteAction, route_action::MaxStreamDuration};
        use ambit_api::envoy::pb::google::protobuf::Duration as Time;
        let (own, stream) = (Some(Time { seconds: 5, nanos: 0 }), Some(Time { seconds: 60, nanos: 0 }));
        let of = |max_stream_duration| {
            let action = RouteAction { timeout: own, max_stream_duration, ..Default::default() };
            let route = of_calls(Route { action: Some(Action::Route(action)), ..Default::default() });
            let Some(Action::Route(action)) = route.action else { panic!("it sends on") };
            (action.max_grpc_timeout, action.max_stream_duration.map(|said| said.grpc_timeout_header_max))
        };
        assert_eq!(of(None), (own, None));
        let lasting = MaxStreamDuration { max_stream_duration: stream, ..Default::default() };
        assert_eq!(of(Some(lasting)), (None, Some(stream)));
    }

    #[test]
    fn what_the_rule_says_itself_stays() {
        let rule: HttpRouteRules = serde_json::from_str(r#"{"timeouts": {"request": "1s"}}"#).unwrap();
        let said = told(&rule, &[]).unwrap();
        assert_eq!(told(&rule, &[said]), None);
    }
}
