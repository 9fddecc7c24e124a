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
    /// B3 in one header asks for it to be recorded whatever happens, which goes on, too.
    debug: bool,
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
            return Self { trace, stated: false, debug: said.debug };
        }
        // A request has one place, or none that is known.
        let single = headers.get_all(TRACEPARENT).iter().nth(1).is_none();
        match Trace::read(headers).filter(|_| speaks.w3c() && single) {
            Some(trace) => Self { trace, stated: true, debug: false },
            None => Self { trace: Trace::new(chosen()), stated: false, debug: false },
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
            let sampled = if self.debug { "d" } else { sampled };
            put(headers, SINGLE, &format!("{id}-{span}-{sampled}{parent}"));
        }
        put(headers, TRACE_ID, &id);
        put(headers, SPAN_ID, &span);
        match parent {
            Some(parent) => put(headers, PARENT_ID, &format!("{parent:016x}")),
            None => drop(headers.remove(PARENT_ID)),
        }
        // That it is to be recorded whatever happens goes on where it was said.
        let whatever_happens = self.trace.sampled && headers.get(FLAGS).is_some_and(|flags| flags == "1");
        if !whatever_happens {
            headers.remove(FLAGS);
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
    /// The one header says `d`.
    debug: bool,
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
        (parent.is_some() || sampled.is_some()).then_some(Self { parent, sampled, debug: false })
    }

    fn single(text: &str) -> Option<Self> {
        if let Some(sampled) = sampled(text) {
            return Some(Self { parent: None, sampled: Some(sampled), debug: text == DEBUG });
        }
        let mut parts = text.split('-');
        let parent = (trace_id(parts.next()?)?, span_id(parts.next()?)?);
        let said = parts.next();
        let sampled = match said {
            None => None,
            Some(said) => Some(sampled(said)?),
        };
        let good = parts.next().is_none_or(|grandparent| span_id(grandparent).is_some()) && parts.next().is_none();
        good.then_some(Self { parent: Some(parent), sampled, debug: said == Some(DEBUG) })
    }
}

/// Asks for more than to be recorded: whatever happens.
const DEBUG: &str = "d";

fn sampled(text: &str) -> Option<bool> {
    match text {
        "1" | DEBUG | "true" => Some(true),
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
mod tests;
