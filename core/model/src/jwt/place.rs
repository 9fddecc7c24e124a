//! Where tokens are in a request, and how they are taken out of it.

use std::borrow::Cow;

use http::{HeaderName, header};
use serde::{Serialize, Serializer};

use crate::route::RequestView;

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A header, behind a prefix, which may be empty.
    Header(HeaderName, String),
    /// A parameter of the query.
    Parameter(String),
    /// A cookie.
    Cookie(String),
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Header(name, prefix) => serializer.collect_str(&format_args!("header {name}: {prefix}")),
            Self::Parameter(name) => serializer.collect_str(&format_args!("parameter {name}")),
            Self::Cookie(name) => serializer.collect_str(&format_args!("cookie {name}")),
        }
    }
}

impl Place {
    /// Where a provider that says nothing of it has its tokens (RFC 6750).
    #[must_use]
    pub fn usual() -> Vec<Self> {
        vec![Self::Header(header::AUTHORIZATION, "Bearer ".to_owned()), Self::Parameter("access_token".to_owned())]
    }

    /// All that is there, for a service may take another than the first.
    pub(super) fn tokens<'a>(&self, request: &RequestView<'a>) -> Vec<Cow<'a, str>> {
        match self {
            Self::Header(name, prefix) => {
                let values = request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
                values.filter_map(|value| behind(prefix, value)).collect()
            }
            Self::Parameter(wanted) => {
                let found = parameters(request.path_and_query).filter(|(_, name, _)| name == wanted);
                found.map(|(.., value)| value).collect()
            }
            Self::Cookie(wanted) => {
                let lines = request.headers.get_all(header::COOKIE).iter();
                let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()));
                lines.flat_map(|line| cookies(&line, wanted)).map(Cow::Owned).collect()
            }
        }
    }
}

/// What may be in a token.
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// What is behind a prefix, wherever that is in the value, from the first character on that a token may have.
fn behind<'a>(prefix: &str, value: Cow<'a, str>) -> Option<Cow<'a, str>> {
    if prefix.is_empty() {
        return Some(value);
    }
    let (_, rest) = value.split_once(prefix)?;
    let token = rest.trim_start_matches(|c: char| !is_of_token(c)).to_owned();
    Some(if token.is_empty() { value } else { Cow::Owned(token) })
}

/// The values of a cookie in one header.
fn cookies(line: &str, wanted: &str) -> Vec<String> {
    let pairs = line.split(';').filter_map(|pair| pair.split_once('='));
    let values = pairs.filter(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim());
    let bare = |value: &str| value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value).to_owned();
    values.map(bare).collect()
}

/// The parameters of the query: each as it is written, and its name and value decoded.
fn parameters(path_and_query: &str) -> impl Iterator<Item = (&str, Cow<'_, str>, Cow<'_, str>)> {
    let query = path_and_query.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (pair, decoded(name), decoded(value))
    })
}

/// Without percent signs. What is none of a byte stays as it is.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        rest = match (first, digit(0), digit(1), tail.get(2..)) {
            (b'%', Some(high), Some(low), Some(after)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                after
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path with its query, without the parameters of these names. The others stay as they are written.
pub(super) fn without_parameters(path_and_query: &str, names: &[String]) -> String {
    let Some((path, query)) = path_and_query.split_once('?') else { return path_and_query.to_owned() };
    if names.is_empty() {
        return path_and_query.to_owned();
    }
    let (query, fragment) = query.split_once('#').map_or((query, None), |(query, fragment)| (query, Some(fragment)));
    let whole = format!("?{query}");
    let kept: Vec<&str> =
        parameters(&whole).filter(|(_, name, _)| !names.iter().any(|other| other == name)).map(|(pair, ..)| pair).collect();
    let mut path = path.to_owned();
    if !kept.is_empty() {
        path.push('?');
        path.push_str(&kept.join("&"));
    }
    if let Some(fragment) = fragment {
        path.push('#');
        path.push_str(fragment);
    }
    path
}
