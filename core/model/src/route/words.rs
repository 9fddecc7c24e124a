//! Tests in words, as explanations tell them: `begins with "/v2"`, or `does not begin with "/v2"` where the test is turned around.

use super::{
    DomainMatch, HeaderMatch, HeaderTest, MetadataMatch, PathMatch, PathTest, QueryMatch, QueryTest, StringMatch, StringTest,
    ValueMatch,
};

fn word<'a>(holds: bool, yes: &'a str, no: &'a str) -> &'a str {
    if holds { yes } else { no }
}

impl StringMatch {
    pub(crate) fn in_words(&self, holds: bool) -> String {
        let (verb, text) = match &self.test {
            StringTest::Exact(text) => (word(holds, "is", "is not"), text),
            StringTest::Prefix(text) => (word(holds, "begins with", "does not begin with"), text),
            StringTest::Suffix(text) => (word(holds, "ends with", "does not end with"), text),
            StringTest::Contains(text) => (word(holds, "contains", "does not contain"), text),
            StringTest::Regex(pattern) => return format!("{} {pattern:?}", word(holds, "matches", "does not match")),
        };
        format!("{verb} {text:?}{}", if self.ignore_case { " in any case" } else { "" })
    }
}

impl PathMatch {
    pub(crate) fn in_words(&self, holds: bool) -> String {
        let said = match &self.test {
            PathTest::Exact(path) => format!("{} {path:?}", word(holds, "is", "is not")),
            PathTest::Prefix(path) => format!("{} {path:?}", word(holds, "begins with", "does not begin with")),
            PathTest::PathSeparatedPrefix(path) => format!("{} {path:?} or under it", word(holds, "is", "is not")),
            PathTest::Regex(pattern) => return format!("{} {pattern:?}", word(holds, "matches", "does not match")),
            PathTest::Text(text) => return text.in_words(holds),
        };
        if self.case_sensitive { said } else { format!("{said} in any case") }
    }
}

fn presence(there: bool) -> String {
    word(there, "is there", "is not there").to_owned()
}

impl HeaderMatch {
    pub(crate) fn in_words(&self, holds: bool) -> String {
        let holds = holds != self.invert;
        match &self.test {
            HeaderTest::Present(there) => presence(*there == holds),
            HeaderTest::Value(text) => text.in_words(holds),
            HeaderTest::Range(from, to) => {
                format!("{} a number from {from} to below {to}", word(holds, "is", "is not"))
            }
        }
    }
}

impl MetadataMatch {
    pub(crate) fn in_words(&self, holds: bool) -> String {
        match (&self.value, holds != self.invert) {
            (ValueMatch::Text(text), holds) => text.in_words(holds),
            (value, true) => value.in_words(),
            (value, false) => format!("is not one that {}", value.in_words()),
        }
    }
}

impl ValueMatch {
    fn in_words(&self) -> String {
        match self {
            Self::Text(text) => text.in_words(true),
            Self::OneOf(test) => format!("has one that {}", test.in_words()),
            Self::Any(tests) => tests.iter().map(Self::in_words).collect::<Vec<_>>().join(" or "),
        }
    }
}

impl QueryMatch {
    pub(crate) fn in_words(&self) -> String {
        match &self.test {
            QueryTest::Present(there) => presence(*there),
            QueryTest::Value(text) => text.in_words(true),
        }
    }
}

impl DomainMatch {
    /// In Envoy's notation.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Exact(host) => host.clone(),
            Self::Suffix(suffix) => format!("*{suffix}"),
            Self::Prefix(prefix) => format!("{prefix}*"),
            Self::Any => "*".to_owned(),
        }
    }
}
