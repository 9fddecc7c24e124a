//! W3C Trace Context on the CONNECT of a tunnel: by one trace id the log lines and spans of a connection are found at every proxy on its way.

use std::num::NonZero;

use http::{HeaderMap, HeaderName};

/// The header (W3C Trace Context, section 3.2).
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The place of a connection in a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: u128,
    /// What this proxy does in it.
    pub span: NonZero<u64>,
    /// What the proxy before does, if there is one.
    pub parent: Option<NonZero<u64>>,
    /// Whether its spans are sent to whoever collects them.
    pub sampled: bool,
}

impl Trace {
    /// A new trace.
    #[must_use]
    pub fn new(sampled: bool) -> Self {
        Self { id: fastrand::u128(1..), span: span(), parent: None, sampled }
    }

    /// What comes next on the way.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { span: span(), parent: Some(self.span), ..*self }
    }

    /// What comes next after the place that a peer names; nothing when it names none, or not in the form that the standard asks for.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut parts = value.split('-');
        let (version, id, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length| text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        // Later versions may add parts, version 0 has none.
        let known = hex(version, 2) && version != "ff" && (version != "00" || parts.next().is_none());
        if !known || !hex(id, 32) || !hex(parent, 16) || !hex(flags, 2) {
            return None;
        }
        let id = u128::from_str_radix(id, 16).ok().filter(|id| *id != 0)?;
        let parent = NonZero::new(u64::from_str_radix(parent, 16).ok()?)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { id, span: span(), parent: Some(parent), sampled })
    }

    /// The header's value for what comes next.
    #[must_use]
    pub fn write(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.id, self.span, u8::from(self.sampled))
    }
}

fn span() -> NonZero<u64> {
    NonZero::new(fastrand::u64(1..)).unwrap_or(NonZero::<u64>::MIN)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn said(text: &str) -> Option<Trace> {
        Trace::read(&HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(text).unwrap())]))
    }

    #[test]
    fn a_trace_reads_back_and_what_has_another_form_is_none() {
        for sampled in [true, false] {
            let trace = Trace::new(sampled);
            let read = said(&trace.write()).unwrap();
            assert_eq!((read.id, read.parent, read.sampled), (trace.id, Some(trace.span), sampled));
            assert!(read.span != trace.span && trace.next().parent == Some(trace.span));
        }
        let known = "4bf92f3577b34da6a3ce929d0e0e4736";
        let read = said(&format!("00-{known}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(
            (format!("{:x}", read.id), read.parent.unwrap().get(), read.sampled),
            (known.to_owned(), 0xf0_67aa_0ba9_02b7, true)
        );
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
