//! What became of a request on each side, in what it differs, and which differences are known.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use regex::Regex;
use serde::Deserialize;

use crate::backend::{Arrival, BACKEND, COPIES};
use crate::logs::Logged;
use crate::wire::Answer;

/// Whose waypoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Ours,
    Envoys,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub answer: Answer,
    pub arrivals: Vec<Arrival>,
    /// What the access log says of it, where its line is known.
    pub logged: Option<Logged>,
}

/// What is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `status`, `response header NAME`, `header of its own answer NAME`, `request header NAME`, `header of a copy NAME`, `flags in the log`, `rule in the log`, …
    pub field: String,
    pub ours: String,
    pub envoys: String,
    /// The status that ours answered.
    pub status: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ours {:?}, Envoy's {:?}", self.field, self.ours, self.envoys)
    }
}

/// Who answered, if no backend did.
pub const PROXY: &str = "the proxy";
/// By so many seconds times may differ that each side reckons for itself.
const CLOCKS: u64 = 2;
/// What stands for something that is not there.
const ABSENT: &str = "(none)";

impl Outcome {
    /// The backend that answered.
    pub fn answered_by(&self) -> String {
        self.answer.header(BACKEND).unwrap_or_else(|| PROXY.to_owned())
    }

    /// How often each backend was sent it.
    fn tries(&self) -> String {
        let mut tries: BTreeMap<u16, usize> = BTreeMap::new();
        for arrival in &self.arrivals {
            *tries.entry(arrival.port).or_default() += 1;
        }
        tries.iter().map(|(port, count)| format!("{port} {count} times")).collect::<Vec<_>>().join(", ")
    }

    /// What a backend was sent, each different request once, as text.
    fn sent(&self, port: u16, part: impl Fn(&Arrival) -> Option<String>) -> String {
        let of_port = self.arrivals.iter().filter(|arrival| arrival.port == port);
        let texts: BTreeSet<String> = of_port.map(|arrival| part(arrival).unwrap_or_else(|| ABSENT.to_owned())).collect();
        texts.into_iter().collect::<Vec<_>>().join(" or ")
    }

    fn ports(&self) -> BTreeSet<u16> {
        self.arrivals.iter().map(|arrival| arrival.port).collect()
    }

    /// In what the outcome on Envoy's side is another.
    pub fn differences(&self, envoys: &Self) -> Vec<Difference> {
        let mut all = Vec::new();
        let mut compare = |field: String, ours: String, envoys: String| {
            if ours != envoys {
                all.push(Difference { field, ours, envoys, status: self.answer.status.clone() });
            }
        };
        compare("status".to_owned(), self.answer.status.clone(), envoys.answer.status.clone());
        compare("answered by".to_owned(), self.answered_by(), envoys.answered_by());
        compare("tries".to_owned(), self.tries(), envoys.tries());
        // Headers of different answers say nothing more.
        if self.answer.status == envoys.answer.status && self.answered_by() == envoys.answered_by() {
            let kind = if self.answered_by() == PROXY { "header of its own answer" } else { "response header" };
            let names: BTreeSet<&String> = self.answer.headers.keys().chain(envoys.answer.headers.keys()).collect();
            for name in names {
                let value = |outcome: &Self| outcome.answer.header(name).unwrap_or_else(|| ABSENT.to_owned());
                let (ours, envoys) = (value(self), value(envoys));
                let same_but_for_clocks = name == "retry-after" && is_about(&ours, &envoys);
                if !same_but_for_clocks {
                    compare(format!("{kind} {name}"), ours, envoys);
                }
            }
            if let (Some(ours), Some(envoys)) = (&self.logged, &envoys.logged) {
                compare("flags in the log".to_owned(), ours.flags.clone(), envoys.flags.clone());
                compare("route in the log".to_owned(), ours.route.clone(), envoys.route.clone());
                compare("rule in the log".to_owned(), ours.rule.clone(), envoys.rule.clone());
            }
        }
        for port in self.ports().intersection(&envoys.ports()).copied() {
            let method = |arrival: &Arrival| Some(arrival.method.clone());
            compare("method".to_owned(), self.sent(port, method), envoys.sent(port, method));
            let path = |arrival: &Arrival| Some(arrival.path.clone());
            compare("path".to_owned(), self.sent(port, path), envoys.sent(port, path));
            let length = |arrival: &Arrival| Some(arrival.length.to_string());
            compare("length of the body".to_owned(), self.sent(port, length), envoys.sent(port, length));
            let both = self.arrivals.iter().chain(&envoys.arrivals).filter(|arrival| arrival.port == port);
            let names: BTreeSet<&String> = both.flat_map(|arrival| arrival.headers.keys()).collect();
            let kind = if port == COPIES { "header of a copy" } else { "request header" };
            for name in names {
                let value = |arrival: &Arrival| arrival.headers.get(name).map(|values| values.join(" | "));
                compare(format!("{kind} {name}"), self.sent(port, value), envoys.sent(port, value));
            }
        }
        all
    }
}

/// Whether two counts of seconds are the same but for when somebody has looked at the clock.
fn is_about(ours: &str, envoys: &str) -> bool {
    let seconds = |text: &str| text.parse::<u64>().ok();
    seconds(ours).zip(seconds(envoys)).is_some_and(|(ours, envoys)| ours.abs_diff(envoys) <= CLOCKS)
}

/// An entry of the file of known differences.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Expressions for all of the field, of what each side says, and of the request as it was sent.
    field: String,
    ours: Option<String>,
    envoys: Option<String>,
    request: Option<String>,
    /// And of the status that ours answered.
    status: Option<String>,
    /// Both say the same once their values are in one line.
    #[serde(default)]
    joined: bool,
    /// Why it is wanted.
    reason: String,
}

/// A difference that is known, and how often it was met.
pub struct Known {
    pub text: String,
    pub met: Cell<usize>,
    field: Regex,
    ours: Option<Regex>,
    envoys: Option<Regex>,
    request: Option<Regex>,
    status: Option<Regex>,
    joined: bool,
}

impl Known {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not such a file.
    pub fn read(text: &str) -> anyhow::Result<Vec<Self>> {
        let written: Vec<Written> = serde_saphyr::from_str(text).context("known.yaml")?;
        written.into_iter().map(Self::of).collect()
    }

    fn of(written: Written) -> anyhow::Result<Self> {
        anyhow::ensure!(written.reason.len() > 20, "known.yaml: {} has no reason", written.field);
        let whole = |text: &str| Regex::new(&format!("^(?s:{text})$")).with_context(|| format!("known.yaml: {text}"));
        let maybe = |text: Option<&String>| text.map(|text| whole(text)).transpose();
        let parts =
            [("ours", &written.ours), ("envoys", &written.envoys), ("request", &written.request), ("status", &written.status)];
        let said = parts.iter().filter_map(|&(name, text)| Some(format!(", {name} {}", text.as_ref()?)));
        Ok(Self {
            text: format!("{}{}{}", written.field, said.collect::<String>(), if written.joined { ", joined" } else { "" }),
            met: Cell::new(0),
            field: whole(&written.field)?,
            ours: maybe(written.ours.as_ref())?,
            envoys: maybe(written.envoys.as_ref())?,
            request: maybe(written.request.as_ref())?,
            status: maybe(written.status.as_ref())?,
            joined: written.joined,
        })
    }

    /// Whether it is about this difference of a request.
    pub fn is(&self, difference: &Difference, request: &str) -> bool {
        let joined = |text: &str| text.replace(" | ", ",").replace("; ", ",");
        let holds = |expression: &Option<Regex>, text: &str| expression.as_ref().is_none_or(|found| found.is_match(text));
        self.field.is_match(&difference.field)
            && holds(&self.ours, &difference.ours)
            && holds(&self.envoys, &difference.envoys)
            && holds(&self.request, request)
            && holds(&self.status, &difference.status)
            && (!self.joined || joined(&difference.ours) == joined(&difference.envoys))
    }
}
