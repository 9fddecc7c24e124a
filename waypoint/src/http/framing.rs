//! How a request over HTTP/1.1 says where its body ends (RFC 9112, section 6).

use http::{HeaderMap, HeaderValue, Method, Request, header};

/// Says of a request over HTTP/1.1 without a body that there is none, where its method lets expect one (RFC 9110, section 8.6): there are
/// servers that do not take it otherwise.
pub fn without_body<B>(request: &mut Request<B>) {
    let bodiless = [Method::GET, Method::HEAD, Method::DELETE, Method::TRACE, Method::CONNECT].contains(request.method());
    if !bodiless && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Whether the head of a request says where its body ends, of which so much `came` by what its client says, and which goes on with so much;
/// `None` where nobody knows. What somebody has read whole, or put in its place, has the length that was written then; what passes by way of
/// somebody who does not change it has the one that its client has said.
pub fn says_end(headers: &HeaderMap, came: Option<u64>, goes_on: Option<u64>) -> bool {
    let said = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match (said, goes_on) {
        (Some(said), Some(length)) => said == length,
        (Some(_), None) => came.is_some(),
        (None, Some(length)) => came.is_some() || length == 0,
        (None, None) => false,
    }
}

/// Says of a body whose length is not known how it ends. hyper does so itself, but for these methods it takes a body for none that is not
/// told of, and leaves it out.
pub fn delimit<B>(request: &mut Request<B>) {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_there_is_no_body_is_said_where_one_may_be_expected() {
        for (method, said) in [("GET", None), ("DELETE", None), ("POST", Some("0")), ("PATCH", Some("0"))] {
            let mut request = Request::builder().method(method).body(()).unwrap();
            without_body(&mut request);
            assert_eq!(request.headers().get("content-length").map(|length| length.to_str().unwrap()), said, "{method}");
        }
    }

    #[test]
    fn a_length_is_said_only_of_a_body_that_has_it() {
        for (said, came, goes_on, expected) in [
            // Nobody has touched it.
            (Some("5"), Some(5), Some(5), true),
            (None, Some(0), Some(0), true),
            (None, None, None, false),
            // It was read whole, as it was said, as it was not, and with another one put in its place.
            (Some("5"), Some(0), Some(5), true),
            (None, None, Some(5), false),
            (None, None, Some(0), true),
            (Some("3"), None, Some(3), true),
            (Some("3"), None, Some(5), false),
            (Some("3"), None, None, false),
            // It passes by way of somebody, who leaves it as it is, or may not.
            (Some("5"), Some(5), None, true),
            (None, Some(5), None, false),
        ] {
            let headers: HeaderMap =
                said.map(|said| (header::CONTENT_LENGTH, HeaderValue::from_static(said))).into_iter().collect();
            assert_eq!(says_end(&headers, came, goes_on), expected, "{said:?} {came:?} {goes_on:?}");
        }
    }
}
