//! What has become of one request, as it happened, for an administrator who has asked to be told of it beside its response.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ambit_identity::SpiffeId;
use http::HeaderValue;
use serde::Serialize;

use super::{Given, Record};

/// The most that a header tells, in bytes: many clients take 8 KiB of headers and no more.
const LONGEST: usize = 4096;
/// How many endpoints are named that were tried, and how many rules, filters and copies.
const NAMED: usize = 16;
/// The most of an error that is told, in characters.
const LONGEST_ERROR: usize = 256;

/// Where it is noted.
#[derive(Debug, Default)]
pub struct Beside(Mutex<Told>);

/// What is noted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Told {
    /// The filter chain that took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Arc<str>>,
    /// The route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Arc<str>>,
    /// The rules that decided, in the order in which they were asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Who was asked about it outside of the waypoint, in that order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// The cluster that was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Arc<str>>,
    /// The endpoint that answered, or the last one that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Reached>,
    /// All that were tried, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tried: Vec<SocketAddr>,
    /// How often it was sent, or was to be.
    pub attempts: u32,
    /// Why it was not sent once more, where its route asks for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub given_up: Option<&'static str>,
    /// It was made to wait.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub delayed: bool,
    /// The clusters that copies go to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copied_to: Vec<Arc<str>>,
    /// The status that the endpoint answered, or the waypoint itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why the waypoint answered itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The policy that refused it, or came closest to allowing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How much there was no room for.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: usize,
}

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// Its address.
    pub address: SocketAddr,
    /// `namespace/name` of its workload, as far as it is known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The identity that it has proven; none where it is reached in clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<SpiffeId>,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Beside {
    /// Notes something.
    pub fn note(&self, note: impl FnOnce(&mut Told)) {
        note(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Somebody outside of the waypoint is asked: who, and the cluster by which.
    pub fn asks(&self, who: &str, cluster: &str) {
        self.note(|told| told.asked.push(format!("{who} by the cluster {cluster}")));
    }

    /// All of it as the value of a header.
    pub fn header(&self) -> Option<HeaderValue> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        told.header()
    }
}

impl Told {
    /// As JSON in ASCII, of at most [`LONGEST`] bytes: what is too much of it is left out, which is said.
    fn header(mut self) -> Option<HeaderValue> {
        self.bound();
        loop {
            let text = ascii(&serde_json::to_string(&self).ok()?);
            if text.len() <= LONGEST {
                return HeaderValue::from_str(&text).ok();
            }
            if !self.shorten() {
                return None;
            }
            self.left_out += 1;
        }
    }

    fn bound(&mut self) {
        let Self { rules, asked, tried, copied_to, left_out, .. } = self;
        for length in [rules.len(), asked.len(), tried.len(), copied_to.len()] {
            *left_out += length.saturating_sub(NAMED);
        }
        rules.truncate(NAMED);
        asked.truncate(NAMED);
        tried.truncate(NAMED);
        copied_to.truncate(NAMED);
    }

    /// Leaves out what is told elsewhere, or says the least; `false` where nothing is left that can be long.
    fn shorten(&mut self) -> bool {
        self.error.take().is_some()
            || self.copied_to.pop().is_some()
            || self.rules.pop().is_some()
            || self.asked.pop().is_some()
            || self.tried.pop().is_some()
            || self.policy.take().is_some()
            || self.chain.take().is_some()
            || self.route.take().is_some()
            || self.endpoint.take().is_some()
            || self.cluster.take().is_some()
    }
}

/// JSON with everything in it that is no ASCII written as its escape, which only texts have.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            ' '..='~' => text.push(letter),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    text
}

impl Record {
    /// Notes something for whoever has asked to be told of the request; hardly anybody has.
    pub fn note(&self, note: impl FnOnce(&mut Told)) {
        if let Some(beside) = &self.beside {
            beside.note(note);
        }
    }

    /// Notes how far it has come.
    pub fn tell(&self) {
        self.note(|told| {
            told.route.clone_from(&self.route);
            told.cluster.clone_from(&self.cluster);
            told.endpoint = self.upstream.as_ref().map(|upstream| Reached {
                address: upstream.address,
                workload: match (&*upstream.namespace, &*upstream.workload) {
                    (_, "") => String::new(),
                    (namespace, name) => format!("{namespace}/{name}"),
                },
                identity: upstream.identity.clone(),
            });
            told.attempts = self.attempts;
            told.given_up = self.given.map(|given| match given {
                Given::Exhausted => "exhausted",
                Given::OverBudget => "over_budget",
            });
            told.delayed = self.delayed;
            told.status = self.status;
            // As long as nothing else is known it is the client that ends it.
            told.reason = (!self.reason.is_of_client()).then(|| self.reason.label());
            told.policy = self.policy.as_ref().map(ToString::to_string);
            told.error = self.error.as_ref().map(|error| error.chars().take(LONGEST_ERROR).collect());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(told: Told) -> (String, serde_json::Value) {
        let header = told.header().unwrap();
        let text = header.to_str().unwrap().to_owned();
        let json = serde_json::from_str(&text).unwrap();
        (text, json)
    }

    #[test]
    fn a_header_tells_what_there_is_in_ascii_and_no_more() {
        let told =
            Told { route: Some("shop/billing".into()), attempts: 1, error: Some("é\u{7f}\n😀".into()), ..Told::default() };
        let (text, json) = read(told);
        assert_eq!(text, r#"{"route":"shop/billing","attempts":1,"error":"\u00e9\u007f\n\ud83d\ude00"}"#);
        assert_eq!(json["error"], "é\u{7f}\n😀");
    }

    #[test]
    fn what_is_too_long_for_a_header_is_left_out_and_counted() {
        let rules = vec![format!("ALLOW {}", "a".repeat(500)); 40];
        let (text, json) = read(Told { rules, status: Some(200), ..Told::default() });
        assert!(text.len() <= LONGEST && text.len() > LONGEST / 2, "{}", text.len());
        let told = json["rules"].as_array().unwrap().len();
        assert_eq!((json["status"].as_u64(), json["left_out"].as_u64()), (Some(200), Some(40 - told as u64)));
        let (text, json) = read(Told { route: Some("r".repeat(10_000).into()), ..Told::default() });
        assert!(text.len() <= LONGEST && json["left_out"] == 1, "{text}");
        let (text, json) = read(Told { cluster: Some("é".repeat(10_000).into()), attempts: 1, ..Told::default() });
        assert!(text.len() <= LONGEST && (&json["attempts"], &json["left_out"]) == (&1.into(), &1.into()), "{text}");
    }
}
