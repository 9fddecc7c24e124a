//! Tests on the path, and the path's normal form.

use std::borrow::Cow;

use serde::Serialize;

use super::{Pattern, StringMatch};

/// The test of a [`PathMatch`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathTest {
    /// The path is this one.
    Exact(Box<str>),
    /// The path begins so, by characters.
    Prefix(Box<str>),
    /// The path begins so, by elements: `/a` matches `/a` and `/a/b`, not `/ab`.
    PathSeparatedPrefix(Box<str>),
    /// The whole path matches.
    Regex(Pattern),
    /// Any test on a text.
    Text(Box<StringMatch>),
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
            PathTest::Exact(p) if self.case_sensitive => *path == **p,
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

/// The normal form of a path, as Envoy's `normalize_path` makes it: dot segments removed (RFC 3986, 5.2.4: above the root there is
/// nothing), backslashes as slashes, escaped unreserved letters decoded (6.2.2), letters that no path has escaped; `merge_slashes` makes
/// one slash of several. `None` when the path is not absolute, or has a byte in it that Envoy refuses.
#[must_use]
pub fn normalize_path(path: &str, merge_slashes: bool) -> Option<Cow<'_, str>> {
    match is_normal(path, merge_slashes) {
        true => Some(Cow::Borrowed(path)),
        false => normal(path, merge_slashes).map(Cow::Owned),
    }
}

fn normal(path: &str, merge_slashes: bool) -> Option<String> {
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let rest = decoded.strip_prefix('/')?;
    let mut ends_in_slash = false;
    for segment in rest.split('/') {
        ends_in_slash = false;
        match segment {
            "." => ends_in_slash = true,
            ".." => {
                segments.pop();
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
    if out.is_empty() || ends_in_slash {
        out.push('/');
    }
    Some(out)
}

/// Whether a path is as it would be made, as nearly all are: nothing in it is looked at letter by letter, and no segment begins with a dot.
fn is_normal(path: &str, merge_slashes: bool) -> bool {
    let stays = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~!$&'()*+,;=:@".contains(&byte);
    path.starts_with('/') && path.bytes().all(stays) && !path.contains("/.") && !(merge_slashes && path.contains("//"))
}

fn decode_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    // Percent signs that begin no escape stay, wherever they are now.
    let mut lone = Vec::new();
    let mut rest = path;
    while let Some(letter) = rest.chars().next() {
        let after = rest.get(letter.len_utf8()..)?;
        rest = match letter {
            '\\' => {
                out.push('/');
                after
            }
            '%' => match escaped(after) {
                Some(0) => return None,
                Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                    out.push(char::from(byte));
                    after.get(2..)?
                }
                Some(_) => {
                    out.push('%');
                    out.push_str(after.get(..2)?);
                    after.get(2..)?
                }
                None => {
                    lone.push(out.len());
                    out.push('%');
                    after
                }
            },
            '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => {
                out.push_str(&format!("%{:02X}", u32::from(letter)));
                after
            }
            _ if letter.is_ascii_graphic() => {
                out.push(letter);
                after
            }
            _ => return None,
        };
    }
    // What was decoded behind such a sign must not make an escape of it, which whoever decodes next would take for a letter.
    for at in lone.into_iter().rev() {
        if escaped(out.get(at + 1..)?).is_some() {
            out.insert_str(at + 1, "25");
        }
    }
    Some(out)
}

/// The byte that two hexadecimal digits at the front of `text` stand for.
fn escaped(text: &str) -> Option<u8> {
    let digits = text.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_taken_for_normal_would_be_made_so() {
        const LETTERS: [&str; 9] = ["/", ".", "a", "%", "2", "e", "\\", ";", "<"];
        let mut paths = vec![String::from("/")];
        for longer in 0..4 {
            let from = paths.len() - LETTERS.len().pow(longer);
            let more: Vec<_> = paths[from..].iter().flat_map(|path| LETTERS.map(|letter| format!("{path}{letter}"))).collect();
            paths.extend(more);
        }
        let every = (0..=127_u8).map(|byte| format!("/a{}b", char::from(byte)));
        let mut normal_ones = 0;
        for path in paths.into_iter().chain(every).chain(["", "*", "a", "/\u{e4}"].map(str::to_owned)) {
            for merge_slashes in [false, true] {
                if is_normal(&path, merge_slashes) {
                    assert_eq!(normal(&path, merge_slashes).as_ref(), Some(&path), "merged: {merge_slashes}");
                    normal_ones += 1;
                }
            }
        }
        assert!(normal_ones > 1000, "{normal_ones}");
    }
}
