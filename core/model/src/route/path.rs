//! Tests on the path, and the path's normal form.

use serde::Serialize;

use super::{Pattern, StringMatch};

/// The test of a [`PathMatch`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathTest {
    /// The path is this one.
    Exact(String),
    /// The path begins so, by characters.
    Prefix(String),
    /// The path begins so, by elements: `/a` matches `/a` and `/a/b`, not `/ab`.
    PathSeparatedPrefix(String),
    /// The whole path matches.
    Regex(Pattern),
    /// Any test on a text.
    Text(StringMatch),
}

/// A test on the path without its query.
#[derive(Debug, Clone, Serialize)]
pub struct PathMatch {
    /// What is tested.
    pub test: PathTest,
    /// Whether letters count as written. Has no effect on a regular expression or a text test.
    pub case_sensitive: bool,
}

fn starts_with(path: &str, prefix: &str, case_sensitive: bool) -> bool {
    if case_sensitive {
        return path.starts_with(prefix);
    }
    path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

impl PathMatch {
    /// Whether the path passes.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match &self.test {
            PathTest::Exact(p) if self.case_sensitive => path == p,
            PathTest::Exact(p) => path.eq_ignore_ascii_case(p),
            PathTest::Prefix(p) => starts_with(path, p, self.case_sensitive),
            PathTest::PathSeparatedPrefix(p) => {
                starts_with(path, p, self.case_sensitive)
                    && (path.len() == p.len() || path.as_bytes().get(p.len()).is_some_and(|b| *b == b'/'))
            }
            PathTest::Regex(p) => p.matches(path),
            PathTest::Text(t) => t.matches(path),
        }
    }

    /// The part of a matching path that a prefix rewrite replaces, in bytes: the prefix, or all of it.
    #[must_use]
    pub fn matched_length(&self, path: &str) -> usize {
        match &self.test {
            PathTest::Prefix(p) | PathTest::PathSeparatedPrefix(p) => p.len().min(path.len()),
            _ => path.len(),
        }
    }
}

/// The normal form of a path: dot segments removed, backslashes as slashes, escaped unreserved letters decoded
/// (RFC 3986, 6.2.2); `merge_slashes` makes one slash of several. `None` when the path climbs above the root or is not absolute.
#[must_use]
pub fn normalize_path(path: &str, merge_slashes: bool) -> Option<String> {
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let rest = decoded.strip_prefix('/')?;
    let mut ends_in_slash = false;
    for segment in rest.split('/') {
        ends_in_slash = false;
        match segment {
            "." => ends_in_slash = true,
            ".." => {
                segments.pop()?;
                ends_in_slash = true;
            }
            "" if merge_slashes => ends_in_slash = true,
            other => segments.push(other),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() || (ends_in_slash && !out.ends_with('/')) {
        out.push('/');
    }
    Some(out)
}

fn decode_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        out.push_str(rest.get(..at)?);
        let tail = rest.get(at..)?;
        if let Some(after) = tail.strip_prefix('\\') {
            out.push('/');
            rest = after;
            continue;
        }
        let byte = tail.get(1..3).and_then(|hex| u8::from_str_radix(hex, 16).ok())?;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(tail.get(..3)?);
        }
        rest = tail.get(3..)?;
    }
    out.push_str(rest);
    Some(out)
}
