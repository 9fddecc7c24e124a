//! Tests on one text, one header, one query parameter.

use std::{fmt, sync::Arc};

use serde::{Serialize, Serializer};

use super::RequestView;

/// A regular expression that must match the whole text (Envoy `RegexMatcher`: "the entire string must match").
/// Matching takes time linear in the text, whatever the expression.
#[derive(Clone)]
pub struct Pattern(Arc<Expressions>);

/// Aside, so that a test on something else is not as large as one by an expression.
struct Expressions {
    text: String,
    whole: regex::Regex,
    part: regex::Regex,
}

/// The most memory one compiled expression may take, in bytes.
const PATTERN_SIZE: usize = 1 << 20;

impl Pattern {
    /// Compiles an expression in RE2 syntax.
    ///
    /// # Errors
    /// When the expression is not valid or compiles to more than 1 MiB.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        let whole = regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_SIZE).build()?;
        let part = regex::RegexBuilder::new(text).size_limit(PATTERN_SIZE).build()?;
        Ok(Self(Arc::new(Expressions { text: text.to_owned(), whole, part })))
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.whole.is_match(text)
    }

    /// Replaces every part of `text` that matches, with `\1`-style groups in `substitution` (Envoy `RegexMatchAndSubstitute`).
    #[must_use]
    pub fn substitute(&self, text: &str, substitution: &str) -> String {
        self.0.part.replace_all(text, rust_substitution(substitution).as_str()).into_owned()
    }
}

/// Rewrites RE2's `\1` as `${1}`, and `$` as a literal.
fn rust_substitution(re2: &str) -> String {
    let mut out = String::with_capacity(re2.len());
    let mut characters = re2.chars();
    while let Some(c) = characters.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match characters.next() {
                Some(digit) if digit.is_ascii_digit() => {
                    out.push_str("${");
                    out.push(digit);
                    out.push('}');
                }
                Some(other) => out.push(other),
                None => {}
            },
            other => out.push(other),
        }
    }
    out
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.text, f)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

/// The test of a [`StringMatch`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StringTest {
    /// The text is this one.
    Exact(String),
    /// The text begins so.
    Prefix(String),
    /// The text ends so.
    Suffix(String),
    /// The text has this in it.
    Contains(String),
    /// The whole text matches.
    Regex(Pattern),
}

/// A test on a text (`envoy.type.matcher.v3.StringMatcher`).
#[derive(Debug, Clone, Serialize)]
pub struct StringMatch {
    pub(super) test: StringTest,
    pub(super) ignore_case: bool,
}

impl StringMatch {
    /// A test; `ignore_case` concerns ASCII letters and has no effect on a regular expression.
    #[must_use]
    pub fn new(test: StringTest, ignore_case: bool) -> Self {
        let test = match test {
            StringTest::Exact(t) if ignore_case => StringTest::Exact(t.to_ascii_lowercase()),
            StringTest::Prefix(t) if ignore_case => StringTest::Prefix(t.to_ascii_lowercase()),
            StringTest::Suffix(t) if ignore_case => StringTest::Suffix(t.to_ascii_lowercase()),
            StringTest::Contains(t) if ignore_case => StringTest::Contains(t.to_ascii_lowercase()),
            other => other,
        };
        Self { test, ignore_case }
    }

    /// The text must be exactly this one.
    #[must_use]
    pub fn exact(text: impl Into<String>) -> Self {
        Self::new(StringTest::Exact(text.into()), false)
    }

    /// Whether the text passes.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        if self.ignore_case && !matches!(self.test, StringTest::Regex(_)) {
            return self.compare(&text.to_ascii_lowercase());
        }
        self.compare(text)
    }

    fn compare(&self, text: &str) -> bool {
        match &self.test {
            StringTest::Exact(t) => text == t,
            StringTest::Prefix(t) => text.starts_with(t.as_str()),
            StringTest::Suffix(t) => text.ends_with(t.as_str()),
            StringTest::Contains(t) => text.contains(t.as_str()),
            StringTest::Regex(p) => p.matches(text),
        }
    }
}

/// The test of a [`HeaderMatch`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HeaderTest {
    /// The header is there (`true`) or is not (`false`).
    Present(bool),
    /// One of its values passes.
    Value(StringMatch),
    /// One of its values is a whole number from the first, included, to the second, left out.
    Range(i64, i64),
}

/// A test on one header, pseudo headers included (`envoy.config.route.v3.HeaderMatcher`).
#[derive(Debug, Clone, Serialize)]
pub struct HeaderMatch {
    /// The header's name in lower case.
    pub name: String,
    /// What is tested.
    pub test: HeaderTest,
    /// The result is turned around. A header that is not there still does not match a test on its value.
    pub invert: bool,
    /// A header that is not there counts as an empty one.
    pub missing_is_empty: bool,
}

impl HeaderMatch {
    /// Whether the request passes.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let passes = |value: &str| match &self.test {
            HeaderTest::Present(_) => true,
            HeaderTest::Value(test) => test.matches(value),
            HeaderTest::Range(from, to) => value.parse::<i64>().is_ok_and(|n| (*from..*to).contains(&n)),
        };
        let passed = request.any_value(&self.name, passes).or_else(|| self.missing_is_empty.then(|| passes("")));
        match (&self.test, passed) {
            (HeaderTest::Present(wanted), passed) => (passed.is_some() == *wanted) != self.invert,
            (_, Some(passed)) => passed != self.invert,
            (_, None) => false,
        }
    }
}

/// The test of a [`QueryMatch`].
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryTest {
    /// The parameter is there (`true`) or is not (`false`).
    Present(bool),
    /// Its first value passes.
    Value(StringMatch),
}

/// A test on one query parameter (`envoy.config.route.v3.QueryParameterMatcher`).
#[derive(Debug, Clone, Serialize)]
pub struct QueryMatch {
    /// The parameter's name, compared exactly.
    pub name: String,
    /// What is tested.
    pub test: QueryTest,
}

impl QueryMatch {
    /// Whether the request passes.
    #[must_use]
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let value = request.query_parameter(&self.name);
        match &self.test {
            QueryTest::Present(wanted) => value.is_some() == *wanted,
            QueryTest::Value(test) => value.is_some_and(|v| test.matches(v)),
        }
    }
}
