use std::time::Duration;

use serde_json::json;

use super::*;

/// A request to `/cart`, refused.
struct Request;

impl Facts for Request {
    fn value(&self, operator: &Operator) -> Value<'_> {
        match operator {
            Operator::StartTime(format) => Value::Text(format.write(Duration::new(1_709_211_845, 123_456_789)).into()),
            Operator::Header { of: Headers::Request, name: HeaderKey::Path, .. } => Value::of(Some("/cart")),
            Operator::Header { of: Headers::Request, otherwise: Some(HeaderKey::Path), .. } => Value::of(Some("/cart")),
            Operator::Header { of: Headers::Response, name: HeaderKey::Field(name), .. } if name == "x-word" => {
                Value::of(Some("gr\u{fc}\u{df}e \"a\""))
            }
            Operator::Header { of: Headers::Response, name: HeaderKey::Field(name), .. } if name == "x-lines" => {
                Value::of(Some("a\tb\r\nc\u{9b}\u{7f}"))
            }
            Operator::PeerPrincipal => Value::of(Some("spiffe://cluster.local/ns/shop/sa/web")),
            Operator::Fact(Fact::ResponseCode) => Value::Number(403),
            Operator::Fact(Fact::ResponseFlags) => Value::of(Some("-")),
            _ => Value::Missing,
        }
    }
}

fn text(format: &str) -> String {
    Text::parse(format, false).unwrap().text(&Request)
}

fn json(object: serde_json::Value, omit_empty: bool) -> String {
    let mut line = Vec::new();
    Json::parse(object.as_object().unwrap(), omit_empty).unwrap().write(&Request, &mut line);
    String::from_utf8(line).unwrap()
}

#[test]
fn a_text_is_written_with_its_operators() {
    for (format, expected) in [
        ("plain", "plain"),
        ("", ""),
        ("100%% %RESPONSE_CODE%%RESPONSE_FLAGS%", "100% 403-"),
        ("%REQ(:PATH)%", "/cart"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/cart"),
        ("%REQ(:path):3%|", "/ca|"),
        ("%RESP(X-Word):3%|%RESP(X-Word):4%|", "gr|gr\u{fc}|"),
        ("%TRAILER(grpc-status)% %ROUTE_NAME%", "- -"),
        ("%FILTER_STATE(io.istio.peer_principal:PLAIN)%", "spiffe://cluster.local/ns/shop/sa/web"),
        ("%DYNAMIC_METADATA(a:b):5% %FILTER_STATE(a)% %METADATA(ROUTE:a:b)%", "- - -"),
        ("%REQUEST_HEADER(:PATH)% %RESPONSE_HEADER(X-Word):2%", "/cart gr"),
        ("%RESP(X-LINES)%|%RESP(X-LINES):4%", "a\tb\\r\\nc\\u{9b}\\u{7f}|a\tb\\r"),
        ("%START_TIME%", "2024-02-29T13:04:05.123Z"),
        ("%START_TIME(%Y/%m/%dT%H:%M:%S%z %s)%", "2024/02/29T13:04:05+0000 1709211845"),
        ("%START_TIME(%s.%3f %6f %f %9f)%", "1709211845.123 123456 123456789 123456789"),
        (
            "%START_TIME(%a %A %b %B %e %j %I %p %y %F %T %R %D %E6S %Z %%)%",
            "Thu Thursday Feb February 29 060 01 PM 24 2024-02-29 13:04:05 13:04 02/29/24 05.123456 UTC %",
        ),
    ] {
        assert_eq!(text(format), expected, "{format}");
    }
    assert_eq!(Text::parse("%ROUTE_NAME%|%RESPONSE_CODE%", true).unwrap().text(&Request), "|403");
}

#[test]
fn days_are_those_of_the_calendar() {
    let format = TimeFormat::parse("%F %a %j").unwrap();
    for (seconds, expected) in [
        (0, "1970-01-01 Thu 001"),
        (951_782_400, "2000-02-29 Tue 060"),
        (1_735_603_200, "2024-12-31 Tue 366"),
        (1_740_787_200, "2025-03-01 Sat 060"),
        (4_107_542_400, "2100-03-01 Mon 060"),
    ] {
        assert_eq!(format.write(Duration::from_secs(seconds)), expected);
    }
}

#[test]
fn every_operator_without_an_argument_is_read_by_its_name() {
    for fact in Fact::ALL {
        let format = Text::parse(&format!("%{}%", fact.name()), false).unwrap();
        let mut seen = Vec::new();
        format.operators(&mut |operator| seen.push(operator.clone()));
        assert_eq!(seen, [Operator::Fact(*fact)]);
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    for (format, part) in [
        ("100%", "a percent sign by itself is written %%"),
        ("50% off", "a percent sign by itself is written %%"),
        ("%REQ(a", "%REQ does not go on"),
        ("%REQ(a):x%", "%REQ does not go on"),
        ("%REQ%", "%REQ% needs an argument"),
        ("%REQ(a b)%", "\"a b\" is no name of a header"),
        ("%REQ(a?b?c)%", "\"b?c\" is no name of a header"),
        ("%ROUTE_NAME(x)%", "%ROUTE_NAME(x)% has no argument"),
        ("%ROUTE_NAME:3%", "%ROUTE_NAME% has no length"),
        ("%FILTER_STATE(a:JSON)%", "\"JSON\" is none of PLAIN"),
        ("%METADATA(a:b)%", "%METADATA(a:b)%: \"a\" is none of DYNAMIC, CLUSTER, "),
        ("%NOTHING_LIKE_IT%", "%NOTHING_LIKE_IT% is not implemented"),
        ("%CEL(request.id)%", "%CEL% is not implemented"),
        ("%START_TIME(%Q)%", "%START_TIME%: %Q is not implemented"),
        ("%GRPC_STATUS(SNAKE_STRING)%", "%GRPC_STATUS(SNAKE_STRING)% is not implemented"),
    ] {
        let why = Text::parse(format, false).unwrap_err();
        assert!(why.contains(part), "{format}: {why}");
    }
    let nested = json!({"a": {"b": ["%REQ(c)%", "%D%"]}});
    assert_eq!(Json::parse(nested.as_object().unwrap(), false).unwrap_err(), "a: b: %D% is not implemented");
}

#[test]
fn values_of_one_operator_keep_their_type_in_json() {
    let object = json!({
        "z": "%RESPONSE_CODE%", "b": "%ROUTE_NAME%", "both": "%RESPONSE_CODE% %ROUTE_NAME%", "word": "%RESP(x-word)%",
        "fixed": "a\"b", "number": 7, "yes": true, "nothing": null, "in": {"only": "%ROUTE_NAME%"}, "list": ["%ROUTE_NAME%", "%RESPONSE_CODE%"],
    });
    assert_eq!(
        json(object.clone(), false),
        "{\"b\":null,\"both\":\"403 -\",\"fixed\":\"a\\\"b\",\"in\":{\"only\":null},\"list\":[null,403],\"nothing\":null,\"number\":7,\
         \"word\":\"gr\u{fc}\u{df}e \\\"a\\\"\",\"yes\":true,\"z\":403}\n"
    );
    assert_eq!(
        json(object, true),
        "{\"both\":\"403 \",\"fixed\":\"a\\\"b\",\"list\":[403],\"number\":7,\"word\":\"gr\u{fc}\u{df}e \\\"a\\\"\",\"yes\":true,\"z\":403}\n"
    );
    assert_eq!(json(json!({"a": "%ROUTE_NAME%"}), true), "{}\n");
}

#[test]
fn formats_of_istio_are_read() {
    let line = text(ISTIO_TEXT);
    assert!(line.starts_with("[2024-02-29T13:04:05.123Z] \"- /cart -\" 403 - "), "{line}");
    assert!(line.ends_with(" - -\n"), "{line}");
    let object = ISTIO_JSON.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    let mut line = Vec::new();
    Json::parse(&object, false).unwrap().write(&Request, &mut line);
    let read: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!((&read["response_code"], &read["path"], &read["route_name"]), (&403.into(), &"/cart".into(), &json!(null)));
}
