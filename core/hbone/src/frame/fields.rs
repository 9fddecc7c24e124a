//! The fields of a request, an answer or a trailer, and the rules for them (RFC 9113, section 8).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::hpack::Field;

/// A header list. When it breaks a rule or a limit, what follows is not kept.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) method: Option<Method>,
    pub(crate) authority: Option<String>,
    pub(crate) status: Option<StatusCode>,
    scheme: bool,
    path: bool,
    /// All that are not pseudo-header fields.
    pub(crate) headers: HeaderMap,
    /// A rule broken whatever the list is for. What it is for is checked by [`Self::request`], [`Self::answer`] and [`Self::trailer`].
    malformed: Option<&'static str>,
    /// The list is larger than our limit; its fields are not all here.
    pub(crate) oversized: bool,
    size: usize,
}

impl Fields {
    /// Checks that it is a request (RFC 9113, sections 8.3.1 and 8.5). One that is not is malformed: PROTOCOL_ERROR for its stream.
    /// An oversized one passes as far as it is known; it is to be answered with 431.
    ///
    /// # Errors
    /// With the rule that it breaks.
    pub(crate) fn request(&self) -> Result<(), &'static str> {
        self.well_formed()?;
        if self.oversized {
            return Ok(());
        }
        if self.status.is_some() {
            return Err("a request with a status");
        }
        match &self.method {
            None => Err("a request without method"),
            Some(method) if *method == Method::CONNECT => self.connect(),
            Some(_) if !self.scheme || !self.path => Err("a request without scheme or path"),
            Some(_) => Ok(()),
        }
    }

    /// Checks that it is an answer, and returns its status (RFC 9113, section 8.3.2). An oversized one passes when its status is known.
    ///
    /// # Errors
    /// With the rule that it breaks.
    pub(crate) fn answer(&self) -> Result<StatusCode, &'static str> {
        self.well_formed()?;
        if self.method.is_some() || self.authority.is_some() || self.scheme || self.path {
            return Err("an answer with a request's fields");
        }
        match self.status {
            None => Err("an answer without status"),
            // RFC 9113, section 8.6.
            Some(StatusCode::SWITCHING_PROTOCOLS) => Err("an answer that switches protocols"),
            Some(status) => Ok(status),
        }
    }

    /// Checks that it is a trailer (RFC 9113, section 8.1). A tunnel that stands has none (section 8.5).
    ///
    /// # Errors
    /// With the rule that it breaks.
    pub(crate) fn trailer(&self) -> Result<(), &'static str> {
        self.well_formed()?;
        if self.pseudo() { Err("a trailer with pseudo-header fields") } else { Ok(()) }
    }

    /// Adds a field, within `most` bytes for the whole list. False when the list is absurd, and what follows is not worth decoding.
    pub(super) fn add(&mut self, field: Field, most: usize) -> bool {
        self.size = self.size.saturating_add(field.size());
        if self.size > most {
            self.oversized = true;
        }
        if self.oversized || self.malformed.is_some() {
            return !self.absurd(most);
        }
        let added = match field.name.strip_prefix(b":") {
            Some(name) => self.add_pseudo(name, &field.value),
            None => self.add_regular(field),
        };
        self.malformed = added.err();
        true
    }

    /// Far more than `most` bytes: as a field of a table is one byte in a block, a short one may stand for megabytes.
    pub(super) fn absurd(&self, most: usize) -> bool {
        self.size > most.saturating_mul(16)
    }

    fn connect(&self) -> Result<(), &'static str> {
        if self.scheme || self.path {
            return Err("a CONNECT with a scheme or a path");
        }
        if self.authority.is_none() { Err("a CONNECT without authority") } else { Ok(()) }
    }

    fn well_formed(&self) -> Result<(), &'static str> {
        self.malformed.map_or(Ok(()), Err)
    }

    fn pseudo(&self) -> bool {
        self.method.is_some() || self.authority.is_some() || self.status.is_some() || self.scheme || self.path
    }

    fn add_pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const TWICE: &str = "a pseudo-header field that comes twice";
        if !self.headers.is_empty() {
            return Err("a pseudo-header field after others");
        }
        if !value.iter().all(u8::is_ascii_graphic) {
            return Err("a pseudo-header field with a wrong character");
        }
        match name {
            b"method" => {
                let method = Method::from_bytes(value).map_err(|_| "a method that is none")?;
                once(self.method.replace(method).is_some(), TWICE)
            }
            b"authority" => {
                let authority = String::from_utf8_lossy(value).into_owned();
                once(self.authority.replace(authority).is_some(), TWICE)
            }
            b"status" => {
                let status = StatusCode::from_bytes(value).map_err(|_| "a status that is none")?;
                once(self.status.replace(status).is_some(), TWICE)
            }
            b"scheme" => once(std::mem::replace(&mut self.scheme, true), TWICE),
            b"path" if value.is_empty() => Err("an empty path"),
            b"path" => once(std::mem::replace(&mut self.path, true), TWICE),
            // We do not offer extended CONNECT (RFC 8441).
            b"protocol" => Err("an extended CONNECT, which was not offered"),
            _ => Err("an unknown pseudo-header field"),
        }
    }

    fn add_regular(&mut self, field: Field) -> Result<(), &'static str> {
        // Refuses upper case, too (RFC 9113, section 8.2.1).
        let name = HeaderName::from_lowercase(&field.name).map_err(|_| "a header name with a wrong character")?;
        let value = field.value;
        if is_blank(value.first()) || is_blank(value.last()) {
            return Err("a header value with blanks around it");
        }
        if is_of_connection(&name) || name == header::TE && value != "trailers" {
            return Err("a header field of one connection only");
        }
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| "a header value with a wrong character")?;
        self.headers.try_append(name, value).map_err(|_| "too many header fields")?;
        Ok(())
    }
}

/// Fields that HTTP/2 has no use for (RFC 9113, section 8.2.2).
pub(super) fn is_of_connection(name: &HeaderName) -> bool {
    const KEEP_ALIVE: &str = "keep-alive";
    const PROXY_CONNECTION: &str = "proxy-connection";
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || name == KEEP_ALIVE
        || name == PROXY_CONNECTION
}

/// Space or tab.
fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

fn once(twice: bool, why: &'static str) -> Result<(), &'static str> {
    if twice { Err(why) } else { Ok(()) }
}
