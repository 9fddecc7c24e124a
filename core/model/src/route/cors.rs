//! Requests that pages of other origins make (CORS): which are answered here, and what the answers of the others are given.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;

use super::{RequestView, StringMatch};

const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// What pages of other origins may do (`envoy.extensions.filters.http.cors.v3.CorsPolicy`). An empty text is a header that is not sent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cors {
    /// The origins that are let in. A test that `*` passes lets in all.
    pub origins: Vec<StringMatch>,
    /// For `Access-Control-Allow-Methods`; `*` is the method asked for.
    pub methods: String,
    /// For `Access-Control-Allow-Headers`; `*` is those asked for.
    pub headers: String,
    /// For `Access-Control-Expose-Headers`.
    pub exposed: String,
    /// For `Access-Control-Max-Age`, in seconds.
    pub max_age: String,
    /// Pages may send credentials along.
    pub credentials: bool,
    /// Pages of public networks may ask.
    pub private_network: bool,
    /// A preflight of an origin that is not let in goes to the service and is not answered here.
    pub forward_unknown: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Crossing {
    /// It is a preflight, answered here: 200 with these headers.
    Answered(HeaderMap),
    /// It goes on. Whatever answers it, also a failure, is given these headers in place of its own.
    Passed(HeaderMap),
}

impl Cors {
    /// Decides about a request.
    #[must_use]
    pub fn decide(&self, request: &RequestView<'_>) -> Crossing {
        let Some(origin) = request.header(header::ORIGIN.as_str()).filter(|origin| !origin.is_empty()) else {
            return Crossing::Passed(HeaderMap::new());
        };
        let allowed = self.origins.iter().any(|test| test.matches("*") || test.matches(&origin));
        let asked = match request.method {
            "OPTIONS" => request.header(header::ACCESS_CONTROL_REQUEST_METHOD.as_str()).filter(|method| !method.is_empty()),
            _ => None,
        };
        let mut out = HeaderMap::new();
        if allowed {
            set(&mut out, header::ACCESS_CONTROL_ALLOW_ORIGIN, &origin);
            if !self.exposed.is_empty() {
                set(&mut out, header::ACCESS_CONTROL_EXPOSE_HEADERS, &self.exposed);
            }
        }
        let answered = asked.filter(|_| allowed || !self.forward_unknown);
        if self.credentials && (allowed || answered.is_some()) {
            out.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        let Some(asked) = answered else { return Crossing::Passed(out) };
        let wildcard = |text: &str, asked: &str| if text == "*" { asked.to_owned() } else { text.to_owned() };
        if !self.methods.is_empty() {
            set(&mut out, header::ACCESS_CONTROL_ALLOW_METHODS, &wildcard(&self.methods, &asked));
        }
        if !self.headers.is_empty() {
            let asked = request.header(header::ACCESS_CONTROL_REQUEST_HEADERS.as_str()).unwrap_or_default();
            set(&mut out, header::ACCESS_CONTROL_ALLOW_HEADERS, &wildcard(&self.headers, &asked));
        }
        if !self.max_age.is_empty() {
            set(&mut out, header::ACCESS_CONTROL_MAX_AGE, &self.max_age);
        }
        if self.private_network && request.header(REQUEST_PRIVATE_NETWORK).is_some_and(|asked| asked == "true") {
            out.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        Crossing::Answered(out)
    }
}

/// A text that is no header value is left out: a browser takes the missing header for a refusal.
fn set(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Pattern, StringTest};

    fn policy() -> Cors {
        Cors {
            origins: vec![
                StringMatch::exact("https://shop.example"),
                StringMatch::new(StringTest::Regex(Pattern::new(r"https://.+\.partner\.example").unwrap()), false),
            ],
            methods: "GET,PUT".into(),
            headers: "x-token".into(),
            exposed: "x-total".into(),
            max_age: "600".into(),
            ..Cors::default()
        }
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn decide(policy: &Cors, method: &str, sent: &[(&'static str, &'static str)]) -> Crossing {
        let headers = map(sent);
        policy.decide(&RequestView { method, scheme: "http", authority: "a", path_and_query: "/", headers: &headers })
    }

    const ORIGIN: (&str, &str) = ("origin", "https://shop.example");
    const ASKED: (&str, &str) = ("access-control-request-method", "PUT");

    #[test]
    fn a_request_of_a_known_origin_passes_and_its_answer_says_so() {
        let answer =
            map(&[("access-control-allow-origin", "https://shop.example"), ("access-control-expose-headers", "x-total")]);
        assert_eq!(decide(&policy(), "GET", &[ORIGIN]), Crossing::Passed(answer.clone()));
        // Without a method that is asked about, OPTIONS is a request like others; so is any other method with one.
        assert_eq!(decide(&policy(), "OPTIONS", &[ORIGIN]), Crossing::Passed(answer.clone()));
        assert_eq!(decide(&policy(), "GET", &[ORIGIN, ASKED]), Crossing::Passed(answer));
        let partner = decide(&policy(), "GET", &[("origin", "https://a.b.partner.example")]);
        assert!(
            matches!(partner, Crossing::Passed(headers) if headers["access-control-allow-origin"] == "https://a.b.partner.example")
        );
    }

    #[test]
    fn a_request_without_an_origin_or_of_an_unknown_one_passes_as_it_is() {
        let credentials = Cors { credentials: true, ..policy() };
        for sent in [&[][..], &[("origin", "")], &[("origin", "https://evil.example")], &[("origin", "null")]] {
            assert_eq!(decide(&credentials, "GET", sent), Crossing::Passed(HeaderMap::new()), "{sent:?}");
        }
        assert_eq!(decide(&credentials, "OPTIONS", &[ASKED]), Crossing::Passed(HeaderMap::new()));
    }

    #[test]
    fn a_preflight_is_answered_here() {
        let expected = map(&[
            ("access-control-allow-origin", "https://shop.example"),
            ("access-control-expose-headers", "x-total"),
            ("access-control-allow-methods", "GET,PUT"),
            ("access-control-allow-headers", "x-token"),
            ("access-control-max-age", "600"),
        ]);
        assert_eq!(decide(&policy(), "OPTIONS", &[ORIGIN, ASKED]), Crossing::Answered(expected));
    }

    #[test]
    fn a_preflight_of_an_unknown_origin_is_answered_without_its_origin_or_goes_to_the_service() {
        let sent = [("origin", "https://evil.example"), ASKED];
        let Crossing::Answered(headers) = decide(&policy(), "OPTIONS", &sent) else { panic!("it went on") };
        assert!(!headers.contains_key("access-control-allow-origin") && headers.contains_key("access-control-max-age"));
        let forwards = Cors { forward_unknown: true, ..policy() };
        assert_eq!(decide(&forwards, "OPTIONS", &sent), Crossing::Passed(HeaderMap::new()));
        assert!(matches!(decide(&forwards, "OPTIONS", &[ORIGIN, ASKED]), Crossing::Answered(_)));
    }

    #[test]
    fn a_star_is_answered_with_what_was_asked_for_and_never_with_a_star() {
        let any = Cors {
            origins: vec![StringMatch::new(StringTest::Regex(Pattern::new(".*").unwrap()), false)],
            methods: "*".into(),
            headers: "*".into(),
            credentials: true,
            ..Cors::default()
        };
        let asked = [("origin", "null"), ASKED, ("access-control-request-headers", "x-a, x-b")];
        let expected = map(&[
            ("access-control-allow-origin", "null"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "PUT"),
            ("access-control-allow-headers", "x-a, x-b"),
        ]);
        assert_eq!(decide(&any, "OPTIONS", &asked), Crossing::Answered(expected));
    }

    #[test]
    fn a_public_page_may_ask_only_where_it_is_let() {
        let sent = [ORIGIN, ASKED, ("access-control-request-private-network", "true")];
        for (private_network, said) in [(false, false), (true, true)] {
            let policy = Cors { private_network, ..policy() };
            let Crossing::Answered(headers) = decide(&policy, "OPTIONS", &sent) else { panic!("it went on") };
            assert_eq!(headers.contains_key(ALLOW_PRIVATE_NETWORK), said);
        }
    }
}
