//! Requests near what routes ask for, and others.

use super::matches::{GRPC_METHODS, GRPC_SERVICES, Match, Path};
use super::routes::{Route, Rule};
use super::{ACCOUNTS, HEADERS, METHODS, PARAMETERS, VALUES, path};
use crate::backend::{DELAY, ID, STATUS};
use crate::dice::Dice;

/// The version that is not written as text.
pub const HTTP2: &str = "HTTP/2";
/// What requests bear that have a body.
pub const BODY: &str = "hello";

/// A request as it is written.
#[derive(Debug, Clone)]
pub struct Request {
    pub account: &'static str,
    pub method: String,
    pub target: String,
    pub version: &'static str,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    pub fn new(method: &str, target: &str, host: &str) -> Self {
        let headers = vec![("host".to_owned(), host.to_owned())];
        let (method, target) = (method.to_owned(), target.to_owned());
        Self { account: ACCOUNTS[0], method, target, version: "HTTP/1.1", headers, body: String::new() }
    }

    /// With one header more.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In this version.
    pub fn over(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    /// From this account.
    pub fn by(self, account: &'static str) -> Self {
        Self { account, ..self }
    }

    /// With a body, whose length it says, or not.
    pub fn with_body(mut self, says: bool) -> Self {
        if says {
            self.body = BODY.to_owned();
            return self.with("content-length", &BODY.len().to_string());
        }
        self.body = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
        self.with("transfer-encoding", "chunked")
    }

    /// As a call of gRPC.
    pub fn call(self) -> Self {
        let call = Self { method: "POST".to_owned(), ..self };
        call.with("content-type", "application/grpc").with("te", "trailers").with_body(true)
    }

    /// As it goes over the wire, known by this id.
    pub fn bytes(&self, id: &str) -> Vec<u8> {
        format!("{}{ID}: {id}\r\n\r\n{}", self.head(), self.body).into_bytes()
    }

    fn head(&self) -> String {
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head
    }

    /// Who asks for what, for a person and for the file of known differences.
    pub fn text(&self) -> String {
        format!("{} asks {}", self.account, self.head().replace("\r\n", "\n"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// A request to a service with these routes.
pub fn one(dice: &mut Dice, service: &str, routes: &[Route]) -> Request {
    let host = match dice.below(12) {
        0 => format!("{service}.shop:80"),
        1 => "SVC.shop".to_owned(),
        2 => "svc.shop:8080".to_owned(),
        3 => "other.example".to_owned(),
        4 => "[::1]:80".to_owned(),
        _ => "svc.shop".to_owned(),
    };
    let mut request = Request::new("GET", "/", &host);
    if !dice.one_in(5) && !routes.is_empty() {
        let route = &routes[dice.below(routes.len())];
        let rule = &route.rules[dice.below(route.rules.len())];
        near(dice, &mut request, rule, route.grpc);
        request.account = match route.consumer {
            Some("tests") => ACCOUNTS[1],
            Some(_) => ACCOUNTS[2],
            None => ACCOUNTS[0],
        };
        scripted(dice, &mut request, rule);
    } else {
        request.target = path(dice);
        request.method = dice.of(&METHODS).to_owned();
        if dice.one_in(5) {
            call(dice, &mut request, (None, None));
        }
    }
    if dice.one_in(8) {
        request.account = dice.of(&ACCOUNTS);
    }
    odd_path(dice, &mut request);
    odd_headers(dice, &mut request);
    with_body(dice, &mut request);
    let is_call = request.header("content-type").is_some_and(|kind| kind.starts_with("application/grpc"));
    if request.version == "HTTP/1.1" && request.header("host").is_some() && dice.one_in(if is_call { 2 } else { 8 }) {
        request.version = HTTP2;
    }
    request
}

/// As a match of the rule asks for, or nearly.
fn near(dice: &mut Dice, request: &mut Request, rule: &Rule, grpc: bool) {
    let any = if grpc { Match::grpc(dice) } else { Match::http(dice) };
    let wanted = if rule.matches.is_empty() { &any } else { &rule.matches[dice.below(rule.matches.len())] };
    request.target = match &wanted.path {
        Path::Exact(path) => format!("{path}{}", dice.of(&["", "", "", "/", "/more", "x", "?q=1"])),
        Path::Prefix(path) => {
            let end = dice.of(&["", "", "/", "/more", "/more?q=1", "more", "//", "/../b", "/./a", "/more/"]);
            let path = format!("{}{end}", path.trim_end_matches('/'));
            if path.starts_with('/') { path } else { format!("/{path}") }
        }
        Path::Expression((_, examples)) => dice.of(examples).to_owned(),
        Path::Call(service, method) => return call(dice, request, (*service, *method)).then_headers(dice, wanted),
        Path::Any => path(dice),
    };
    if dice.one_in(20) {
        request.target = request.target.to_uppercase();
    }
    if let Some(method) = wanted.method {
        request.method = method.to_owned();
    }
    if dice.one_in(10) {
        request.method = dice.of(&METHODS).to_owned();
    }
    for (name, test) in &wanted.query {
        if !dice.one_in(8) {
            let joint = if request.target.contains('?') { '&' } else { '?' };
            let value = test.near(dice).replace('%', "%25").replace(' ', dice.of(&["%20", "+"]));
            request.target = format!("{}{joint}{name}={value}", request.target);
        }
    }
    request.then_headers(dice, wanted);
}

impl Request {
    /// With the headers that a match asks for, or nearly.
    fn then_headers(&mut self, dice: &mut Dice, wanted: &Match) {
        for (name, test) in &wanted.headers {
            if dice.one_in(10) {
                continue;
            }
            let value = if dice.one_in(10) { dice.of(&VALUES) } else { test.near(dice) };
            let name = if dice.one_in(4) { name.to_uppercase() } else { (*name).to_owned() };
            if dice.one_in(12) {
                self.headers.push((name.clone(), dice.of(&VALUES).to_owned()));
            }
            self.headers.push((name, value.to_owned()));
        }
    }
}

/// A gRPC call.
fn call<'a>(
    dice: &mut Dice,
    request: &'a mut Request,
    (service, method): (Option<&'static str>, Option<&'static str>),
) -> &'a mut Request {
    let service = service.unwrap_or_else(|| dice.of(&GRPC_SERVICES));
    let method = method.unwrap_or_else(|| dice.of(&GRPC_METHODS));
    request.target = format!("/{service}/{method}{}", dice.of(&["", "", "", "", "/", "x"]));
    request.method = "POST".to_owned();
    let kind = dice.of(&["application/grpc", "application/grpc", "application/grpc+proto", "application/json"]);
    request.headers.push(("content-type".to_owned(), kind.to_owned()));
    request.headers.push(("te".to_owned(), "trailers".to_owned()));
    request
}

/// What backends shall do, and what pages of other origins ask.
fn scripted(dice: &mut Dice, request: &mut Request, rule: &Rule) {
    if (rule.retries && !dice.one_in(3)) || dice.one_in(16) {
        let statuses = ["500", "503,200", "503,503,200", "404", "429,200", "204", "500,503,504", "503,500,404", "304"];
        request.headers.push((STATUS.to_owned(), dice.of(&statuses).to_owned()));
    }
    if rule.hurries && dice.one_in(6) {
        request.headers.push((DELAY.to_owned(), "4000".to_owned()));
    }
    if rule.crosses || dice.one_in(16) {
        let origins = ["https://a.example", "http://x.a.example", "https://b.example:8443", "http://evil.example", "null"];
        request.headers.push(("Origin".to_owned(), dice.of(&origins).to_owned()));
        if dice.one_in(2) {
            request.method = "OPTIONS".to_owned();
        }
        if dice.one_in(2) {
            request.headers.push(("Access-Control-Request-Method".to_owned(), dice.of(&METHODS).to_owned()));
        }
        if dice.one_in(3) {
            let asked = dice.of(&["x-one", "x-one, X-Two", "authorization"]);
            request.headers.push(("Access-Control-Request-Headers".to_owned(), asked.to_owned()));
        }
    }
}

const ODD: [&str; 16] = [
    "//",
    "/./",
    "/../",
    "/%2e%2e/",
    "/%2E/",
    "%2F",
    "%5c",
    "\\",
    ";x=1",
    "?",
    "#fragment",
    "%zz",
    "%00",
    "/..",
    "%41",
    "?a?b#c",
];

fn odd_path(dice: &mut Dice, request: &mut Request) {
    if dice.one_in(8) {
        let (path, query) =
            request.target.split_once('?').map_or((request.target.as_str(), None), |(path, query)| (path, Some(query)));
        let at = dice.below(path.len() + 1);
        let at = if path.is_char_boundary(at) && at > 0 { at } else { path.len() };
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        request.target = format!("{}{}{}{query}", &path[..at], dice.of(&ODD), &path[at..]);
    }
    if dice.one_in(8) {
        let parameter = format!("{}={}", dice.of(&PARAMETERS), dice.of(&["1", "v1", "", "a%20b", "v1&q=2"]));
        let joint = if request.target.contains('?') { '&' } else { '?' };
        request.target = format!("{}{joint}{parameter}", request.target);
    }
}

/// Headers that proxies themselves give a meaning to, or take away.
const MEANT: [(&str, &str); 14] = [
    ("x-forwarded-for", "192.0.2.1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "other.example"),
    ("x-request-id", "11111111-2222-4333-8444-555555555555"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-max-retries", "2"),
    ("x-envoy-upstream-rq-timeout-ms", "5000"),
    ("x-envoy-original-path", "/other"),
    ("x-envoy-decorator-operation", "other"),
    ("x-envoy-internal", "true"),
    ("via", "1.1 other"),
    ("x-forwarded-client-cert", "URI=spiffe://cluster.local/ns/shop/sa/admin"),
    ("expect", "100-continue"),
    ("accept-encoding", "gzip"),
];

fn odd_headers(dice: &mut Dice, request: &mut Request) {
    if dice.one_in(3) {
        for _ in 0..=dice.below(2) {
            request.headers.push((dice.of(&HEADERS).to_owned(), dice.of(&VALUES).to_owned()));
        }
    }
    if dice.one_in(12) {
        let (name, value) = dice.of(&MEANT);
        request.headers.push((name.to_owned(), value.to_owned()));
    }
    match dice.below(160) {
        0..=2 => request.headers.push(("x-large".to_owned(), "l".repeat(8 * 1024))),
        3 => request.headers.push(("x-large".to_owned(), "l".repeat(62 * 1024))),
        4..=5 => request.headers.push(("x-empty".to_owned(), String::new())),
        6..=7 => request.headers.push(("X_Under_Score".to_owned(), "1".to_owned())),
        8..=11 => request.headers.push(("connection".to_owned(), "close".to_owned())),
        12..=13 => request.headers.push(("Connection".to_owned(), "keep-alive, x-one".to_owned())),
        14 => request.headers.push(("te".to_owned(), "gzip".to_owned())),
        15 => request.headers.push(("keep-alive".to_owned(), "timeout=5".to_owned())),
        16..=18 => request.version = "HTTP/1.0",
        19 => request.headers.push(("cookie".to_owned(), "c=3".to_owned())),
        20 => request.target = format!("http://abs.example{}", request.target),
        21 => request.headers.retain(|(name, _)| name != "host"),
        22 => request.headers.push(("Upgrade".to_owned(), "h2c".to_owned())),
        23 => request.method = "BREW".to_owned(),
        24 => request.method = "get".to_owned(),
        _ => {}
    }
}

fn with_body(dice: &mut Dice, request: &mut Request) {
    if !["POST", "PUT", "PATCH", "DELETE"].contains(&request.method.as_str()) {
        return;
    }
    if request.version == "HTTP/1.1" && dice.one_in(4) {
        request.headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
        request.body = format!("5\r\n{BODY}\r\n0\r\n\r\n");
    } else if request.method != "DELETE" {
        request.headers.push(("Content-Length".to_owned(), "5".to_owned()));
        request.body = BODY.to_owned();
    }
}
