//! One way that a request may take, and how it ends.

use std::net::SocketAddr;

use serde::Serialize;
use serde_json::Value;

use super::text::{Said, said};
use super::{World, list};

/// How many endpoints of a cluster are asked whether they let the waypoint in.
const BEYOND: usize = 16;

/// A way that the request may take.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Way {
    /// The waypoint that handles it; its pod, when the name of its Gateway is not known.
    pub(super) waypoint: Option<String>,
    /// Others with the same end.
    pub(super) also: Vec<String>,
    pub(super) verdict: String,
    pub(super) reason: Option<String>,
    /// The status, when a waypoint answers.
    pub(super) status: Option<u64>,
    pub(super) policy: Option<String>,
    /// The decisions on this way.
    pub(super) steps: Vec<Value>,
    /// What the waypoint has decided, in parts.
    pub(super) decided: Option<Value>,
}

impl Way {
    /// A way on which these decisions are made: the first that refuses or doubts decides.
    pub(super) fn ending(waypoint: Option<String>, steps: Vec<Value>) -> Self {
        let said: Option<Said> = steps.iter().map(said).find(|step| step.refusal.is_some() || step.doubt.is_some());
        let refusal = said.as_ref().and_then(|step| step.refusal.clone());
        let (verdict, reason) = match (&said, &refusal) {
            (None, _) => ("allowed", Some("ok".to_owned())),
            (Some(_), Some(refusal)) => ("refused", refusal["reason"].as_str().map(str::to_owned)),
            (Some(_), None) => ("unknown", None),
        };
        let policy = refusal.as_ref().and_then(|refusal| refusal["policy"].as_str()).map(str::to_owned);
        Self { waypoint, also: Vec::new(), verdict: verdict.to_owned(), reason, status: None, policy, steps, decided: None }
    }

    /// A way that goes through no waypoint.
    pub(super) fn of_connection(way: &Value) -> Self {
        Self::ending(None, list(&way["steps"]).cloned().collect())
    }

    /// Adds it to `ways`, or to one of them with the same end.
    pub(super) fn join(self, ways: &mut Vec<Self>) {
        let end = |way: &Self| (way.waypoint.is_some(), way.verdict.clone(), way.reason.clone(), way.status, way.policy.clone());
        match ways.iter_mut().find(|other| end(other) == end(&self) && other.decided == self.decided) {
            None => ways.push(self),
            Some(same) => {
                let other = self.waypoint.filter(|name| same.waypoint.as_ref() != Some(name) && !same.also.contains(name));
                same.also.extend(other);
            }
        }
    }

    /// What the waypoint has decided.
    pub(super) fn decided(&mut self, mut decided: Value) {
        if let Some(Value::Array(steps)) = decided.get_mut("steps").map(Value::take) {
            self.steps.extend(steps);
        }
        let text = |name: &str| decided[name].as_str().map(str::to_owned);
        self.verdict = text("verdict").unwrap_or_else(|| "unknown".to_owned());
        (self.reason, self.policy) = (text("reason"), text("policy"));
        self.status = decided["status"].as_u64();
        if let Some(parts) = decided.as_object_mut() {
            for told in ["steps", "verdict", "reason", "status", "policy"] {
                parts.remove(told);
            }
        }
        self.decided = Some(decided);
    }

    /// Whether the proxies of the endpoints let the waypoint in. What they refuse the waypoint answers with 503.
    pub(super) fn beyond(&mut self, world: &World, pod: &str) {
        let Some(decided) = self.decided.take() else { return };
        let (mut let_in, mut refused, mut in_part) = (0, 0, 0);
        for cluster in list(&decided["clusters"]).filter(|cluster| cluster["verdict"] == "allowed") {
            let usable =
                list(&cluster["endpoints"]).filter(|endpoint| endpoint["usable"] == true && !endpoint["identity"].is_null());
            let addresses = usable.filter_map(|endpoint| endpoint["address"].as_str()?.parse::<SocketAddr>().ok());
            let steps: Vec<_> = addresses.take(BEYOND).filter_map(|address| world.beyond(pod, address)).collect();
            let refusing = steps.iter().position(|step| step.refusal.is_some() || step.doubt.is_some());
            refused += usize::from(refusing.is_some());
            let_in += usize::from(refusing.is_none());
            // One that lets the waypoint in says what there is to say.
            if let Some(step) = steps.get(refusing.unwrap_or(0)) {
                let refusals = steps.iter().filter(|other| other.refusal.is_some()).count();
                let mut step = step.clone();
                in_part += usize::from(refusing.is_some() && refusals < steps.len());
                // Where none refuses, what is not known of one says so itself.
                if (1..steps.len()).contains(&refusals) {
                    (step.refusal, step.doubt) =
                        (None, Some(format!("{refusals} of {} endpoints refuse the waypoint", steps.len())));
                }
                self.steps.extend(serde_json::to_value(step).ok());
            }
        }
        if refused > 0 && self.verdict == "allowed" {
            let ended = Self::ending(None, self.steps.clone());
            let all = let_in + in_part == 0;
            self.verdict = if all { ended.verdict } else { "unknown".to_owned() };
            (self.reason, self.policy) = if all { (ended.reason, ended.policy) } else { (None, None) };
            // Of a connection that is carried byte by byte there is no answer.
            self.status = (all && decided["route"].is_string()).then_some(503);
        }
        self.decided = Some(decided);
    }
}
