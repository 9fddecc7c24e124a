use super::*;

const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const W3C: Speaks = Speaks::OtlpGrpc;
const B3: Speaks = Speaks::Zipkin { w3c: false };
const BOTH: Speaks = Speaks::Zipkin { w3c: true };

fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    let mut headers = HeaderMap::new();
    for (name, value) in pairs.iter().map(header) {
        headers.append(name, value);
    }
    headers
}

/// What it belongs to, and whether it is recorded where nothing decides.
fn read(headers: &HeaderMap, speaks: Speaks) -> (Option<(String, String)>, bool) {
    let trace = Place::of(headers, speaks, || false).trace;
    let parent = trace.parent.map(|parent| (format!("{:x}", trace.id), format!("{parent:016x}")));
    (parent, trace.sampled)
}

fn under(sampled: bool) -> (Option<(String, String)>, bool) {
    (Some((ID.to_owned(), SPAN.to_owned())), sampled)
}

#[test]
fn a_span_belongs_to_what_the_headers_of_w3c_name_and_to_nothing_where_they_are_wrong() {
    let parent = |text: &str| read(&map(&[("traceparent", text)]), W3C);
    assert_eq!(parent(&format!("00-{ID}-{SPAN}-01")), under(true));
    assert_eq!(parent(&format!("00-{ID}-{SPAN}-00")), under(false));
    assert_eq!(parent(&format!("00-{ID}-{SPAN}-03")), under(true), "flags of others");
    assert_eq!(parent(&format!("01-{ID}-{SPAN}-01-later")), under(true), "a later version");
    for wrong in [
        String::new(),
        "nonsense".into(),
        format!("00-{ID}-{SPAN}"),
        format!("00-{ID}-{SPAN}-01-more"),
        format!("ff-{ID}-{SPAN}-01"),
        format!("00-{ID}-0000000000000000-01"),
        format!("00-{}-{SPAN}-01", "0".repeat(32)),
        format!("00-{ID}-{SPAN}-0x"),
    ] {
        assert_eq!(parent(&wrong), (None, false), "{wrong}");
    }
    let one = format!("00-{ID}-{SPAN}-01");
    assert_eq!(read(&map(&[("traceparent", &one), ("traceparent", &one)]), W3C), (None, false), "two places");
    assert_eq!(read(&map(&[("x-b3-traceid", ID), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")]), W3C), (None, false));
    assert!(Place::of(&HeaderMap::new(), W3C, || true).trace.sampled);
}

#[test]
fn a_span_belongs_to_what_b3_names_in_one_header_or_in_several() {
    let single = |text: &str| read(&map(&[("b3", text)]), B3);
    assert_eq!(single(&format!("{ID}-{SPAN}-1")), under(true));
    assert_eq!(single(&format!("{ID}-{SPAN}-d")), under(true));
    assert_eq!(single(&format!("{ID}-{SPAN}-0-{SPAN}")), under(false));
    assert_eq!(single(&format!("{ID}-{SPAN}")), under(false), "it is left open");
    assert_eq!(single("1"), (None, true));
    assert_eq!(single(&format!("{}-{SPAN}-1", &ID[16..])), (Some((ID[16..].to_owned(), SPAN.to_owned())), true));
    for wrong in [
        "",
        "2",
        ID,
        &format!("{ID}-{SPAN}-2"),
        &format!("{ID}-{SPAN}-1-x"),
        &format!("{ID}-{SPAN}-1-{SPAN}-"),
        &format!("{ID}-{}-1", &SPAN[1..]),
        &format!("+{}-{SPAN}-1", &ID[1..]),
        &format!("{}-{SPAN}-1", "0".repeat(32)),
    ] {
        assert_eq!(single(wrong), (None, false), "{wrong}");
    }
    let several = |more: &[(&'static str, &str)]| {
        let all = [&[("x-b3-traceid", ID), ("x-b3-spanid", SPAN)][..], more].concat();
        read(&map(&all), B3)
    };
    assert_eq!(several(&[("x-b3-sampled", "1"), ("x-b3-parentspanid", SPAN)]), under(true));
    assert_eq!(several(&[("x-b3-sampled", "0")]), under(false));
    assert_eq!(several(&[("x-b3-flags", "1"), ("x-b3-sampled", "0")]), under(true));
    assert_eq!(several(&[]), under(false));
    assert_eq!(read(&map(&[("x-b3-sampled", "1")]), B3), (None, true));
    assert_eq!(read(&map(&[("x-b3-traceid", ID), ("x-b3-spanid", "x"), ("x-b3-sampled", "1")]), B3), (None, false));
    let w3c = format!("00-{ID}-{SPAN}-01");
    assert_eq!(read(&map(&[("traceparent", &w3c)]), B3), (None, false));
    assert_eq!(read(&map(&[("traceparent", &w3c)]), BOTH), under(true));
    assert_eq!(read(&map(&[("b3", "0"), ("traceparent", &w3c)]), BOTH), (None, false), "B3 goes first");
}

#[test]
fn who_comes_next_is_told_the_span_in_the_headers_that_the_collector_goes_with() {
    let parent = format!("00-{ID}-{SPAN}-01");
    let mut headers = map(&[("traceparent", &parent), ("tracestate", "a=1"), ("tracestate", "b=2"), ("b3", "0")]);
    let place = Place::of(&headers, W3C, || false);
    assert_eq!(place.state(&headers), "a=1,b=2");
    place.write(&mut headers, W3C);
    assert_eq!(headers["traceparent"], format!("00-{ID}-{:016x}-01", place.trace.span).as_str());
    assert_eq!((headers.get_all("tracestate").iter().count(), &headers["b3"]), (2, &HeaderValue::from_static("0")));
    assert!(!headers.contains_key("x-b3-traceid"));
    // What vendors say of another trace is not said of this one.
    let mut headers = map(&[("traceparent", "00-0-0-0"), ("tracestate", "a=1")]);
    let place = Place::of(&headers, W3C, || true);
    assert_eq!(place.state(&headers), "");
    place.write(&mut headers, W3C);
    assert_eq!(headers["traceparent"], place.trace.write().as_str());
    assert!(!headers.contains_key("tracestate"));
    for single in [false, true] {
        let said = format!("{}-{SPAN}-1", &ID[16..]);
        let several = map(&[("x-b3-traceid", &ID[16..]), ("x-b3-spanid", SPAN), ("x-b3-sampled", "1")]);
        let mut headers = if single { map(&[("b3", &said)]) } else { several };
        let place = Place::of(&headers, BOTH, || false);
        place.write(&mut headers, BOTH);
        let span = format!("{:016x}", place.trace.span);
        let found = ["x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled"].map(|name| headers[name].clone());
        assert_eq!(found, [&ID[16..], &span, SPAN, "1"].map(|value| HeaderValue::from_str(value).unwrap()));
        assert_eq!(headers["traceparent"], place.trace.write().as_str());
        let one = format!("{}-{span}-1-{SPAN}", &ID[16..]);
        assert_eq!(headers.get("b3"), HeaderValue::from_str(&one).ok().as_ref().filter(|_| single));
    }
    for said in ["d".to_owned(), format!("{ID}-{SPAN}-d"), format!("{ID}-{SPAN}-d-{SPAN}")] {
        let mut headers = map(&[("b3", &said)]);
        Place::of(&headers, B3, || false).write(&mut headers, B3);
        let parts = headers["b3"].to_str().unwrap().split('-').collect::<Vec<_>>();
        assert!(parts[2] == "d" && headers["x-b3-sampled"] == "1", "{said}: {headers:?}");
    }
    let ids = [("x-b3-traceid", ID), ("x-b3-spanid", SPAN)];
    for (flags, chosen, expected) in
        [("1", false, (None, Some("1"))), ("0", true, (Some("1"), None)), ("0", false, (Some("0"), None))]
    {
        let mut headers = map(&[&ids[..], &[("x-b3-flags", flags)]].concat());
        Place::of(&headers, B3, || chosen).write(&mut headers, B3);
        let text = |name: &str| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap());
        assert_eq!((text("x-b3-sampled"), text("x-b3-flags")), expected, "{flags} {chosen}");
    }
    let mut headers = HeaderMap::new();
    Place::of(&headers, B3, || false).write(&mut headers, B3);
    assert!(headers["x-b3-sampled"] == "0" && headers["x-b3-traceid"].len() == 32, "{headers:?}");
    assert!(!headers.contains_key("x-b3-parentspanid") && !headers.contains_key("traceparent"));
}
