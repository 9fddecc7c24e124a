//! The place of a request in a trace, as headers name it: those of W3C (Trace Context), and those of B3 (the B3 propagation specification).

use std::num::NonZero;

use ambit_runtime::telemetry::{TRACEPARENT, Trace};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::compiled::Speaks;

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// B3 in one header.
const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What a span of ours is in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The trace, the span, and that which it belongs to.
    pub trace: Trace,
    /// The headers of W3C name what it belongs to: what vendors say of the trace goes on.
    stated: bool,
}

impl Place {
    /// The place of what becomes of a request with these headers. Where they do not say whether it is recorded, `chosen` does.
    pub fn of(headers: &HeaderMap, speaks: Speaks, chosen: impl FnOnce() -> bool) -> Self {
        if speaks.b3()
            && let Some(said) = Said::of(headers)
        {
            let sampled = said.sampled.unwrap_or_else(chosen);
            let mut trace = Trace::new(sampled);
            if let Some((id, parent)) = said.parent {
                (trace.id, trace.parent) = (id, Some(parent));
            }
            return Self { trace, stated: false };
        }
        // A request has one place, or none that is known.
        let single = headers.get_all(TRACEPARENT).iter().nth(1).is_none();
        match Trace::read(headers).filter(|_| speaks.w3c() && single) {
            Some(trace) => Self { trace, stated: true },
            None => Self { trace: Trace::new(chosen()), stated: false },
        }
    }

    /// What vendors say of the trace, which is nobody's where it begins here.
    pub fn state(&self, headers: &HeaderMap) -> String {
        if !self.stated {
            return String::new();
        }
        let lines = headers.get_all(TRACESTATE).iter().filter_map(|line| line.to_str().ok());
        lines.filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join(",")
    }

    /// Names the place to whoever the request is sent on to.
    pub fn write(&self, headers: &mut HeaderMap, speaks: Speaks) {
        let Trace { id, span, parent, sampled } = self.trace;
        if speaks.w3c() {
            put(headers, TRACEPARENT, &self.trace.write());
            if !self.stated {
                headers.remove(TRACESTATE);
            }
        }
        if !speaks.b3() {
            return;
        }
        // As long as it came: 64 bits are a trace id, too.
        let id = if id >> 64 == 0 { format!("{id:016x}") } else { format!("{id:032x}") };
        let (span, sampled) = (format!("{span:016x}"), if sampled { "1" } else { "0" });
        if headers.contains_key(SINGLE) {
            let parent = parent.map(|parent| format!("-{parent:016x}")).unwrap_or_default();
            put(headers, SINGLE, &format!("{id}-{span}-{sampled}{parent}"));
        }
        put(headers, TRACE_ID, &id);
        put(headers, SPAN_ID, &span);
        match parent {
            Some(parent) => put(headers, PARENT_ID, &format!("{parent:016x}")),
            None => drop(headers.remove(PARENT_ID)),
        }
        // That it is to be recorded whatever happens goes on where it was said.
        if !headers.contains_key(FLAGS) {
            put(headers, SAMPLED, sampled);
        }
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What headers of B3 say.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    /// The trace, and the span that sends the request.
    parent: Option<(u128, NonZero<u64>)>,
    /// Whether it is recorded.
    sampled: Option<bool>,
}

impl Said {
    /// Nothing where they say nothing, or nothing that can be read.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
        if let Some(single) = text(SINGLE) {
            return Self::single(single);
        }
        let sampled = match (text(FLAGS), text(SAMPLED)) {
            (Some("1"), _) => Some(true),
            (_, said) => said.and_then(sampled),
        };
        let parent = match (text(TRACE_ID), text(SPAN_ID)) {
            (Some(trace), Some(span)) => Some((trace_id(trace)?, span_id(span)?)),
            _ => None,
        };
        (parent.is_some() || sampled.is_some()).then_some(Self { parent, sampled })
    }

    fn single(text: &str) -> Option<Self> {
        if let Some(sampled) = sampled(text) {
            return Some(Self { parent: None, sampled: Some(sampled) });
        }
        let mut parts = text.split('-');
        let parent = (trace_id(parts.next()?)?, span_id(parts.next()?)?);
        let sampled = match parts.next() {
            None => None,
            Some(said) => Some(sampled(said)?),
        };
        let good = parts.next().is_none_or(|grandparent| span_id(grandparent).is_some()) && parts.next().is_none();
        good.then_some(Self { parent: Some(parent), sampled })
    }
}

/// `d` asks for more than that: to be recorded whatever happens.
fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | "d" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

fn trace_id(text: &str) -> Option<u128> {
    let is_one = matches!(text.len(), 16 | 32) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|id| is_one && *id != 0)
}

fn span_id(text: &str) -> Option<NonZero<u64>> {
    let is_one = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    NonZero::new(u64::from_str_radix(text, 16).ok()?).filter(|_| is_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";
    const W3C: Speaks = Speaks::OtlpGrpc;
    const B3: Speaks = Speaks::Zipkin { w3c: false };
    const BOTH: Speaks = Speaks::Zipkin { w3c: true };

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let header =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
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
        let mut headers = HeaderMap::new();
        Place::of(&headers, B3, || false).write(&mut headers, B3);
        assert!(headers["x-b3-sampled"] == "0" && headers["x-b3-traceid"].len() == 32, "{headers:?}");
        assert!(!headers.contains_key("x-b3-parentspanid") && !headers.contains_key("traceparent"));
    }
}
