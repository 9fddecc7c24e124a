//! What people are shown of the authority: `/debug/ca` and `ambit ca status`. No key is in it.

use std::fmt::Write as _;

use ambit_tls::authority::{self, Authority};
use serde::{Deserialize, Serialize};

use super::{
    RootsConfig, STATE,
    issuer::{Issuer, Origin, unix},
    rotation::{Held, Phase, Root},
};
use crate::ca::Refusal;

/// The authority as it is shown. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Where it is kept.
    pub kept: String,
    /// Where a change of roots is.
    pub phase: Phase,
    /// The same as a sentence, with what it waits for.
    pub explanation: String,
    /// When the next step is due, where the clock alone decides.
    pub due: Option<u64>,
    /// The longest life of a certificate, seconds.
    pub certificate_seconds: u64,
    /// Who signs.
    pub issuer: IssuerReport,
    /// Who will.
    pub next: Option<IssuerReport>,
    /// The roots that are believed.
    pub roots: Vec<RootReport>,
    /// What is wrong.
    pub problems: Vec<String>,
    /// The last certificates that were refused by the replica that answers, newest first.
    pub refusals: Vec<Refusal>,
}

/// An issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuerReport {
    /// Its name.
    pub subject: String,
    /// Who made it.
    pub origin: String,
    /// The root above it (SHA-256).
    pub root: String,
    /// When it ends.
    pub not_after: u64,
}

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootReport {
    /// Its name.
    pub subject: String,
    /// Of the certificate.
    pub sha256: String,
    /// When it ends.
    pub not_after: u64,
    /// Since when every namespace has it.
    pub distributed: Option<u64>,
    /// Since when nothing is signed under it any more.
    pub unused: Option<u64>,
}

impl Report {
    /// Of issuers in our Secret.
    #[must_use]
    pub fn of_kept(held: &Held, config: &RootsConfig, problems: Vec<String>) -> Self {
        Self::of_held(held, format!("Secret {}/{STATE}", config.namespace), config.margin.as_secs(), problems)
    }

    /// The same, with where it is kept and the margin of a rotation.
    #[must_use]
    pub fn of_held(held: &Held, kept: String, margin: u64, problems: Vec<String>) -> Self {
        let due = held.due(margin);
        Self {
            kept,
            phase: held.phase(),
            explanation: explanation(held, due),
            due,
            certificate_seconds: held.state.life,
            issuer: issuer(&held.active),
            next: held.next.as_ref().map(issuer),
            roots: held.state.roots.iter().map(root).collect(),
            problems,
            refusals: Vec::new(),
        }
    }

    /// Of an authority in files, whose roots are changed by hand.
    #[must_use]
    pub fn of_files(authority: &Authority, directory: String, life: u64) -> Self {
        let facts = authority::certificates(authority.bundle_pem()).unwrap_or_default();
        let own = authority::certificates(authority.root_pem()).unwrap_or_default().into_iter().next();
        let roots: Vec<RootReport> = facts
            .into_iter()
            .map(|facts| RootReport {
                subject: facts.subject,
                sha256: facts.sha256,
                not_after: unix(facts.not_after),
                distributed: None,
                unused: None,
            })
            .collect();
        let phase = if roots.len() > 1 { Phase::Distributing } else { Phase::Stable };
        Self {
            kept: directory,
            phase,
            explanation: "roots in files are changed by hand (docs/certificates.md)".to_owned(),
            due: None,
            certificate_seconds: life,
            issuer: IssuerReport {
                subject: own.as_ref().map(|own| own.subject.clone()).unwrap_or_default(),
                origin: "made by the control plane".to_owned(),
                root: own.map(|own| own.sha256).unwrap_or_default(),
                not_after: unix(authority.not_after()),
            },
            next: None,
            roots,
            problems: Vec::new(),
            refusals: Vec::new(),
        }
    }

    /// As it is at `now`, seconds since 1970: with a problem when certificates are about to get shorter because the issuer of somebody else ends.
    #[must_use]
    pub fn at(mut self, now: u64) -> Self {
        let IssuerReport { origin, not_after, subject, .. } = &self.issuer;
        let near = now.saturating_add(self.certificate_seconds.saturating_mul(3)) >= *not_after;
        if near && *origin == Origin::Cacerts.to_string() {
            let ends = time(*not_after);
            self.problems.push(format!(
                "the issuer {subject} ends at {ends}, and no certificate lives longer: renew it in Secret cacerts"
            ));
        }
        self
    }

    /// As people read it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let phase = match self.phase {
            Phase::Stable => "stable",
            Phase::Distributing => "distributing (1 of 2): the new root is handed out, the old issuer signs",
            Phase::Overlapping => "overlapping (2 of 2): the new issuer signs, the old root is still believed",
        };
        // A string takes whatever is written.
        let _ = writeln!(text, "state         {phase}\n              {}", self.explanation);
        let _ = writeln!(text, "kept in       {}", self.kept);
        let _ = writeln!(text, "certificates  live for {} at most", span(self.certificate_seconds));
        let mut issuer = |name: &str, issuer: &IssuerReport| {
            let IssuerReport { subject, origin, root, not_after } = issuer;
            let _ = writeln!(
                text,
                "{name:<13} {subject}, {origin}\n              under root {}, ends {}",
                short(root),
                time(*not_after)
            );
        };
        issuer("issuer", &self.issuer);
        if let Some(next) = &self.next {
            issuer("next issuer", next);
        }
        for (number, root) in self.roots.iter().enumerate() {
            let name = if number == 0 { "roots" } else { "" };
            let _ = writeln!(text, "{name:<13} {} {}, ends {}", short(&root.sha256), root.subject, time(root.not_after));
            match (root.distributed, root.unused) {
                (_, Some(unused)) => drop(writeln!(text, "              nothing is signed under it since {}", time(unused))),
                (Some(distributed), None) => drop(writeln!(text, "              in every namespace since {}", time(distributed))),
                (None, None) => {}
            }
        }
        for problem in &self.problems {
            let _ = writeln!(text, "problem       {problem}");
        }
        for (number, refusal) in self.refusals.iter().take(10).enumerate() {
            let name = if number == 0 { "refused" } else { "" };
            let Refusal { at, peer, caller, asked, reason } = refusal;
            let _ = writeln!(text, "{name:<13} {} {caller} at {peer} asked for {asked}: {reason}", time(*at));
        }
        text
    }
}

/// What holds and what it waits for.
fn explanation(held: &Held, due: Option<u64>) -> String {
    let when = due.map(time).unwrap_or_default();
    match (held.phase(), &held.next) {
        (Phase::Distributing, Some(next)) => {
            let root = held.state.roots.iter().find(|root| root.sha256 == next.anchor);
            if root.is_some_and(|root| root.distributed.is_some()) {
                format!(
                    "every namespace has the new root; the new issuer signs when all certificates from before that have ended, at {when}"
                )
            } else {
                "the new root is being written to every namespace".to_owned()
            }
        }
        (Phase::Overlapping, _) => format!("the old root is believed until all certificates under it have ended, at {when}"),
        _ => "nothing is changing".to_owned(),
    }
}

fn issuer(issuer: &Issuer) -> IssuerReport {
    let facts = authority::certificates(&issuer.material.certificate).unwrap_or_default();
    IssuerReport {
        subject: facts.into_iter().next().map(|facts| facts.subject).unwrap_or_default(),
        origin: issuer.origin.to_string(),
        root: issuer.anchor.clone(),
        not_after: issuer.not_after,
    }
}

fn root(root: &Root) -> RootReport {
    let facts = authority::certificates(&root.pem).unwrap_or_default().into_iter().next();
    RootReport {
        subject: facts.as_ref().map(|facts| facts.subject.clone()).unwrap_or_default(),
        sha256: root.sha256.clone(),
        not_after: facts.map_or(0, |facts| unix(facts.not_after)),
        distributed: root.distributed,
        unused: root.unused,
    }
}

fn short(sha256: &str) -> &str {
    sha256.get(..16).unwrap_or(sha256)
}

fn time(unix: u64) -> String {
    let known = i64::try_from(unix).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    known.map_or_else(|| unix.to_string(), |time| time.to_string())
}

fn span(seconds: u64) -> String {
    match seconds {
        s if s >= 3600 && s % 3600 == 0 => format!("{} h", s / 3600),
        s if s >= 60 && s % 60 == 0 => format!("{} min", s / 60),
        s => format!("{s} s"),
    }
}
