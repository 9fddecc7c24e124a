//! What rules ask of requests.

use serde_json::{Map, Value, json};

use super::{HEADERS, METHODS, PARAMETERS, VALUES, path};
use crate::dice::Dice;

/// An expression, and texts that it matches or nearly does.
pub type Expression = (&'static str, &'static [&'static str]);

const ON_VALUES: [Expression; 6] = [
    ("v[0-9]+", &["v1", "v22", "v", "xv1"]),
    ("[a-c]*", &["abc", "", "abd"]),
    ("(?i)abc", &["ABC", "abc", "abcd"]),
    ("a|bc", &["a", "bc", "ac", "abc"]),
    (".*", &["anything", "", "a,b"]),
    ("^v1$", &["v1", "v12", " v1"]),
];
const ON_PATHS: [Expression; 6] = [
    ("/[a-z]+/v2", &["/abc/v2", "/abc/v2/x", "/ABC/v2", "/a/b/v2", "/abc/v2?q=1"]),
    ("/a/.*", &["/a/b", "/a/", "/a", "/a/b/c?x=/a"]),
    ("/(a|b)/[0-9]+", &["/a/1", "/b/22", "/c/1", "/a/1/"]),
    ("/items/[^/]+", &["/items/1", "/items/a%2Fb", "/items/", "/items/a/b"]),
    (".*/ab$", &["/ab", "/a/ab", "/a/ab/", "/xab"]),
    ("/caf%C3%A9", &["/caf%C3%A9", "/caf%c3%a9"]),
];
pub const GRPC_SERVICES: [&str; 4] = ["pkg.Echo", "pkg.EchoLong", "Plain", "pkg.v1.Echo"];
pub const GRPC_METHODS: [&str; 4] = ["Get", "Put", "GetAll", "get"];

/// A text, or an expression.
#[derive(Debug, Clone, Copy)]
pub enum Test {
    Exact(&'static str),
    Expression(Expression),
}

impl Test {
    /// A text that it holds for, or nearly.
    pub fn near(self, dice: &mut Dice) -> &'static str {
        match self {
            Self::Exact(text) => text,
            Self::Expression((_, examples)) => dice.of(examples),
        }
    }

    fn put_into(self, mut object: Map<String, Value>) -> Value {
        let (kind, value) = match self {
            Self::Exact(text) => ("Exact", text),
            Self::Expression((expression, _)) => ("RegularExpression", expression),
        };
        object.insert("type".to_owned(), kind.into());
        object.insert("value".to_owned(), value.into());
        Value::Object(object)
    }

    fn random(dice: &mut Dice) -> Self {
        if dice.one_in(4) { Self::Expression(dice.of(&ON_VALUES)) } else { Self::Exact(dice.of(&VALUES)) }
    }
}

/// What is asked of a path.
#[derive(Debug, Clone)]
pub enum Path {
    Exact(String),
    Prefix(String),
    Expression(Expression),
    /// Of a GRPCRoute: service and method.
    Call(Option<&'static str>, Option<&'static str>),
    Any,
}

/// One match of a rule.
#[derive(Debug, Clone)]
pub struct Match {
    pub path: Path,
    pub method: Option<&'static str>,
    pub headers: Vec<(&'static str, Test)>,
    pub query: Vec<(&'static str, Test)>,
}

impl Match {
    /// One of an HTTPRoute.
    pub fn http(dice: &mut Dice) -> Self {
        let path = match dice.below(12) {
            0..=2 => Path::Exact(path(dice)),
            3..=8 => Path::Prefix(format!("{}{}", path(dice), if dice.one_in(6) { "/" } else { "" }).replace("//", "/")),
            9..=10 => Path::Expression(dice.of(&ON_PATHS)),
            _ => Path::Any,
        };
        let method = dice.one_in(5).then(|| dice.of(&METHODS));
        let query = if dice.one_in(5) { tests(dice, &PARAMETERS) } else { Vec::new() };
        Self { path, method, headers: headers(dice), query }
    }

    /// One by the prefix of a path, as rewrites of it need.
    pub fn prefix(dice: &mut Dice) -> Self {
        Self { path: Path::Prefix(path(dice)), method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// One of a GRPCRoute.
    pub fn grpc(dice: &mut Dice) -> Self {
        let path = match dice.below(8) {
            0 => Path::Any,
            1..=2 => Path::Call(Some(dice.of(&GRPC_SERVICES)), None),
            3 => Path::Call(None, Some(dice.of(&GRPC_METHODS))),
            _ => Path::Call(Some(dice.of(&GRPC_SERVICES)), Some(dice.of(&GRPC_METHODS))),
        };
        Self { path, method: None, headers: headers(dice), query: Vec::new() }
    }

    /// As it is written in a route.
    pub fn object(&self) -> Value {
        let mut object = Map::new();
        let named = |tests: &[(&str, Test)]| -> Vec<Value> {
            let one = |(name, test): &(&str, Test)| test.put_into(Map::from_iter([("name".to_owned(), json!(name))]));
            tests.iter().map(one).collect()
        };
        let path = match &self.path {
            Path::Exact(value) => Some(("path", json!({"type": "Exact", "value": value}))),
            Path::Prefix(value) => Some(("path", json!({"type": "PathPrefix", "value": value}))),
            Path::Expression((value, _)) => Some(("path", json!({"type": "RegularExpression", "value": value}))),
            Path::Call(service, method) => {
                let said = [("service", service), ("method", method)];
                let said = said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from((*value)?))));
                Some(("method", Value::Object(said.collect())))
            }
            Path::Any => None,
        };
        if let Some((name, value)) = path {
            object.insert(name.to_owned(), value);
        }
        if let Some(method) = self.method {
            object.insert("method".to_owned(), method.into());
        }
        if !self.headers.is_empty() {
            object.insert("headers".to_owned(), named(&self.headers).into());
        }
        if !self.query.is_empty() {
            object.insert("queryParams".to_owned(), named(&self.query).into());
        }
        Value::Object(object)
    }
}

fn headers(dice: &mut Dice) -> Vec<(&'static str, Test)> {
    if dice.one_in(3) { tests(dice, &HEADERS) } else { Vec::new() }
}

fn tests(dice: &mut Dice, names: &[&'static str]) -> Vec<(&'static str, Test)> {
    let named = dice.few(names, 3);
    named.into_iter().map(|name| (name, Test::random(dice))).collect()
}
