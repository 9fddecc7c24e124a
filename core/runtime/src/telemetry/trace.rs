//! W3C Trace Context on the CONNECT of a tunnel: by one trace id the log lines of a connection are found at every proxy on its way.

use http::{HeaderMap, HeaderName};

/// The header (W3C Trace Context, section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A new trace id.
#[must_use]
pub fn new() -> u128 {
    fastrand::u128(1..)
}

/// The header's value: version 0, the trace, a new span; not sampled, since nobody collects spans.
#[must_use]
pub fn write(trace: u128) -> String {
    format!("00-{trace:032x}-{:016x}-00", fastrand::u64(1..))
}

/// The trace that a peer names; nothing when it names none, or not in the form that the standard asks for.
#[must_use]
pub fn read(headers: &HeaderMap) -> Option<u128> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let mut parts = value.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // Later versions may add parts, version 0 has none.
    let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
    if !known || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) || span.bytes().all(|byte| byte == b'0') {
        return None;
    }
    u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(text: &str) -> Option<u128> {
        read(&HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(text).unwrap())]))
    }

    #[test]
    fn a_trace_reads_back_and_what_has_another_form_is_none() {
        let trace = new();
        assert_eq!(said(&write(trace)), Some(trace));
        let known = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(said(&format!("00-{known}-00f067aa0ba902b7-01")), u128::from_str_radix(known, 16).ok());
        assert!(said(&format!("01-{known}-00f067aa0ba902b7-01-later")).is_some());
        for wrong in [
            "".to_owned(),
            format!("00-{known}-00f067aa0ba902b7"),
            format!("00-{known}-00f067aa0ba902b7-01-more"),
            format!("ff-{known}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", known.to_uppercase()),
            format!("00-{known}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-+{}-00f067aa0ba902b7-01", &known[1..]),
        ] {
            assert_eq!(said(&wrong), None, "{wrong}");
        }
    }
}
