//! What each rule of a rule set says of a request or connection.

use serde::Serialize;

use super::{Differs, some_of};
use crate::route::{Misfit, PathMatch, Permission, Principal, Rbac, RbacPolicy, Subject};

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleSaid {
    /// Its name.
    pub rule: String,
    /// It matches.
    pub matches: bool,
    /// Where the request differs from it, the client first; none when it matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differs: Option<Differs>,
}

/// What each rule of `rbac` says of `subject`. What follows from it is decided by [`evaluate`](crate::route::evaluate): the first rule that
/// matches counts.
#[must_use]
pub fn rulings(rbac: &Rbac, subject: &Subject<'_>) -> Vec<RuleSaid> {
    rbac.policies.iter().map(|policy| ruling(policy, subject)).collect()
}

fn ruling(policy: &RbacPolicy, subject: &Subject<'_>) -> RuleSaid {
    let misfit = policy.differs(subject);
    let differs = misfit.map(|misfit| match misfit {
        Misfit::Client | Misfit::Both => any_of(&policy.principals, subject),
        Misfit::Request => any_of(&policy.permissions, subject),
    });
    RuleSaid { rule: policy.name.clone(), matches: misfit.is_none(), differs }
}

/// A part of a rule, whoever it is about.
trait Test: Sized {
    fn holds(&self, subject: &Subject<'_>) -> bool;
    fn shape(&self) -> Shape<'_, Self>;
    /// What a test that is no combination of others asks for, or asks against.
    fn asks(&self, subject: &Subject<'_>, holds: bool) -> Differs;
}

enum Shape<'a, T> {
    And(&'a [T]),
    Or(&'a [T]),
    Not(&'a T),
    Leaf,
}

/// Where the subject differs from a test that it does not pass.
fn difference<T: Test>(test: &T, subject: &Subject<'_>) -> Differs {
    match test.shape() {
        Shape::And(all) => match all.iter().find(|part| !part.holds(subject)) {
            Some(part) => difference(part, subject),
            None => nothing(),
        },
        Shape::Or(any) => any_of(any, subject),
        Shape::Not(not) => against(not, subject),
        Shape::Leaf => test.asks(subject, true),
    }
}

/// Where the subject differs from a test that it passes and should not.
fn against<T: Test>(test: &T, subject: &Subject<'_>) -> Differs {
    match test.shape() {
        Shape::Or(any) => match any.iter().find(|part| part.holds(subject)) {
            Some(part) => against(part, subject),
            None => nothing(),
        },
        Shape::And([only]) => against(only, subject),
        Shape::And(all) => {
            let parts: Vec<Differs> = all.iter().map(|part| against(part, subject)).collect();
            joined(parts)
        }
        Shape::Not(not) => difference(not, subject),
        Shape::Leaf => test.asks(subject, false),
    }
}

/// Where the subject differs from tests of which it passes none.
fn any_of<T: Test>(any: &[T], subject: &Subject<'_>) -> Differs {
    let parts: Vec<Differs> = any.iter().map(|part| difference(part, subject)).collect();
    match parts.split_first() {
        None => nothing(),
        Some((first, rest)) if rest.iter().all(|other| other.field == first.field && other.seen == first.seen) => {
            let wanted: Vec<String> = parts.iter().map(|part| part.wanted.clone()).collect();
            Differs { wanted: some_of(&wanted), ..first.clone() }
        }
        Some(_) => joined(parts),
    }
}

/// Several differences of several fields as one.
fn joined(parts: Vec<Differs>) -> Differs {
    let mut parts = parts.into_iter();
    let Some(mut first) = parts.next() else { return nothing() };
    for part in parts {
        // In place: a rule may have thousands of parts.
        first.wanted.push_str(" or ");
        if part.field != first.field || part.seen != first.seen {
            first.wanted.extend(["the ", part.field.as_str(), " "]);
        }
        first.wanted.push_str(&part.wanted);
    }
    first
}

/// A rule that has nothing to match.
fn nothing() -> Differs {
    Differs { field: "request".to_owned(), wanted: "is one that can be matched".to_owned(), seen: None }
}

fn anything(holds: bool) -> Differs {
    let wanted = if holds { "is any" } else { "is none" };
    Differs { field: "request".to_owned(), wanted: wanted.to_owned(), seen: None }
}

fn path(test: &PathMatch, subject: &Subject<'_>, holds: bool) -> Differs {
    Differs::new("path", test.in_words(holds), subject.request.map(|request| request.path()))
}

fn is(holds: bool, what: impl std::fmt::Display) -> String {
    if holds { format!("is {what}") } else { format!("is not {what}") }
}

fn is_in(holds: bool, what: impl std::fmt::Display) -> String {
    if holds { format!("is in {what}") } else { format!("is not in {what}") }
}

/// What tests of both kinds have alike, by the names of their combinations.
macro_rules! combined {
    () => {
        fn holds(&self, subject: &Subject<'_>) -> bool {
            self.matches(subject)
        }

        fn shape(&self) -> Shape<'_, Self> {
            match self {
                Self::And(all) => Shape::And(all),
                Self::Or(any) => Shape::Or(any),
                Self::Not(not) => Shape::Not(not),
                _ => Shape::Leaf,
            }
        }
    };
}

impl Test for Permission {
    combined!();

    fn asks(&self, subject: &Subject<'_>, holds: bool) -> Differs {
        let port = || Some(subject.destination_port.to_string());
        match self {
            Self::Header(test) => Differs::header(test, subject.request.as_ref(), holds),
            Self::Path(test) => path(test, subject, holds),
            Self::DestinationIp(net) => {
                Differs::new("destination", is_in(holds, net), subject.destination_ip.map(|ip| ip.to_string()))
            }
            Self::DestinationPort(wanted) => Differs::new("port", is(holds, wanted), port()),
            Self::DestinationPortRange(from, to) => {
                Differs::new("port", is(holds, format_args!("from {from} to below {to}")), port())
            }
            Self::ServerName(test) => Differs::new("server name", test.in_words(holds), Some("")),
            // Whatever else is asked is no test of one thing.
            _ => anything(holds),
        }
    }
}

impl Test for Principal {
    combined!();

    fn asks(&self, subject: &Subject<'_>, holds: bool) -> Differs {
        let identity = |wanted: String| Differs::new("client's identity", wanted, subject.principal);
        match self {
            Self::Authenticated(Some(test)) => identity(test.in_words(holds)),
            Self::Authenticated(None) => identity(is(holds, "proven")),
            Self::RemoteIp(net) => {
                Differs::new("client's address", is_in(holds, net), subject.remote_ip.map(|ip| ip.to_string()))
            }
            Self::DirectRemoteIp(net) => {
                Differs::new("connection's address", is_in(holds, net), subject.direct_remote_ip.map(|ip| ip.to_string()))
            }
            Self::Header(test) => Differs::header(test, subject.request.as_ref(), holds),
            Self::Path(test) => path(test, subject, holds),
            Self::Metadata(test) => {
                let field = format!("token's {}", test.path.last().map_or("claims", String::as_str));
                let seen = test.found(subject.metadata).map(|seen| seen.as_str().map_or_else(|| seen.to_string(), str::to_owned));
                Differs::new(field, test.in_words(holds), seen)
            }
            _ => anything(holds),
        }
    }
}
