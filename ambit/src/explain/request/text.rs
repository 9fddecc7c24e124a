//! Decisions as people read them, from the form in which proxies tell them.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;

/// One decision.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    says: String,
    because: Vec<String>,
    pub(super) refusal: Option<Value>,
    pub(super) doubt: Option<String>,
}

/// Reads a decision; what is not understood of it says nothing.
pub(super) fn said(step: &Value) -> Said {
    Said::deserialize(step).unwrap_or_default()
}

/// The answer in one line.
pub(super) fn headline(verdict: &str, reason: Option<&str>, status: Option<u64>) -> String {
    let said = match verdict {
        "allowed" => "ALLOWED",
        "refused" => "REFUSED",
        _ => "CANNOT SAY",
    };
    match (reason.filter(|reason| *reason != "ok"), status) {
        (Some(reason), Some(status)) => format!("{said} ({reason}, answered with {status})"),
        (Some(reason), None) => format!("{said} ({reason})"),
        (None, Some(status)) => format!("{said} (answered by the waypoint with {status})"),
        (None, None) => said.to_owned(),
    }
}

/// Appends decisions, numbered on from `number`.
pub(super) fn write_steps(text: &mut String, steps: &[Value], number: &mut usize) {
    for step in steps.iter().map(said) {
        *number += 1;
        let mark = match (&step.refusal, &step.doubt) {
            (Some(_), _) => 'x',
            (None, Some(_)) => '?',
            (None, None) => ' ',
        };
        // Writing to a text does not fail.
        let _written = writeln!(text, "{mark}{number:2}. {}", step.says);
        for ground in &step.because {
            let _written = writeln!(text, "       because {ground}");
        }
        if let Some(doubt) = &step.doubt {
            let _written = writeln!(text, "       not known: {doubt}");
        }
    }
}
