//! Whether the end of a response over HTTP/1.1 can be found in one way only.
//!
//! hyper takes one of several lengths, and leaves the others for whoever is answered; a coding that it does not know it takes for bytes to the end
//! of the connection, of which nobody would be told how they are coded.

use http::{HeaderMap, header};

/// Why a response can be read in two ways, if it can (RFC 9112, section 6.3). Envoy takes none of these either.
pub fn ambiguous(headers: &HeaderMap) -> Option<&'static str> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    // Also in one line.
    if lengths.next().is_some() || length.is_some_and(|length| !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Some("its response has several lengths, or one that is no number");
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if length.is_some() {
        return Some("its response has a length and a transfer coding");
    }
    let is_known = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    (!is_known).then_some("its response has a transfer coding other than chunked")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn a_response_says_its_length_once_and_in_one_way() {
        let check = |fields: &[(&'static str, &'static str)], taken: bool| {
            let fields = fields.iter().map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, value);
            }
            assert_eq!(ambiguous(&headers).is_none(), taken, "{headers:?}");
        };
        check(&[], true);
        check(&[("content-length", "5")], true);
        check(&[("transfer-encoding", "chunked")], true);
        check(&[("transfer-encoding", "Chunked"), ("content-type", "text/plain")], true);
        check(&[("content-length", "5"), ("content-length", "5")], false);
        check(&[("content-length", "5"), ("content-length", "6")], false);
        check(&[("content-length", "5, 5")], false);
        check(&[("content-length", "+5")], false);
        check(&[("content-length", "5"), ("transfer-encoding", "chunked")], false);
        check(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], false);
        check(&[("transfer-encoding", "gzip, chunked")], false);
        check(&[("transfer-encoding", "identity")], false);
    }
}
