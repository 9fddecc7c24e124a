//! Role-based access control for a connection or a request (`envoy.config.rbac.v3`).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use super::{HeaderMatch, MetadataMatch, PathMatch, RequestView, StringMatch};

/// Who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The client's SPIFFE id with `spiffe://`, if it has proven one.
    pub principal: Option<&'a str>,
    /// The client's address, as the tunnel's peer gives it.
    pub remote_ip: Option<IpAddr>,
    /// The address of the connection itself.
    pub direct_remote_ip: Option<IpAddr>,
    /// The address asked for.
    pub destination_ip: Option<IpAddr>,
    /// The port asked for.
    pub destination_port: u16,
    /// The request; `None` for a connection that is not read as HTTP.
    pub request: Option<RequestView<'a>>,
    /// What is known of it by its token, in [`crate::jwt::METADATA`].
    pub metadata: Option<&'a Value>,
}

/// What a rule set does with what matches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RbacAction {
    /// Only what matches passes.
    Allow,
    /// What matches does not pass.
    Deny,
}

/// What may be asked.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Anything.
    Any,
    /// All of these.
    And(Vec<Permission>),
    /// One of these.
    Or(Vec<Permission>),
    /// Not this.
    Not(Box<Permission>),
    /// A header, the method (`:method`) and host (`:authority`) among them.
    Header(HeaderMatch),
    /// The path without its query.
    Path(PathMatch),
    /// The destination address.
    DestinationIp(IpNet),
    /// The destination port.
    DestinationPort(u16),
    /// The destination port, from the first, included, to the second, left out.
    DestinationPortRange(u16, u16),
    /// The server name of TLS; inside a tunnel there is none, so it is compared with the empty text.
    ServerName(StringMatch),
}

/// Who may ask.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Principal {
    /// Anyone.
    Any,
    /// All of these.
    And(Vec<Principal>),
    /// One of these.
    Or(Vec<Principal>),
    /// Not this.
    Not(Box<Principal>),
    /// A client with a proven identity, which passes the test if there is one. The text tested begins with `spiffe://`.
    Authenticated(Option<StringMatch>),
    /// The client's address.
    RemoteIp(IpNet),
    /// The address of the connection itself.
    DirectRemoteIp(IpNet),
    /// A header.
    Header(HeaderMatch),
    /// The path without its query.
    Path(PathMatch),
    /// What the request's token says.
    Metadata(MetadataMatch),
}

/// One named rule: who may ask what.
#[derive(Debug, Clone, Serialize)]
pub struct RbacPolicy {
    /// The name, which refusals carry.
    pub name: String,
    /// What may be asked; one must match.
    pub permissions: Vec<Permission>,
    /// Who may ask; one must match.
    pub principals: Vec<Principal>,
}

/// A rule set.
#[derive(Debug, Clone, Serialize)]
pub struct Rbac {
    /// What it does with what matches.
    pub action: RbacAction,
    /// The rules, in the order of their names.
    pub policies: Vec<RbacPolicy>,
}

/// The outcome of one rule set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Passes; with the ALLOW rule that matched, if there is one.
    Allowed(Option<&'a str>),
    /// A DENY rule matched.
    DeniedBy(&'a str),
    /// No ALLOW rule matched. With the rule that came closest; `None` when there is no rule at all.
    NotAllowed(Option<Closest<'a>>),
}

/// The ALLOW rule that came closest to matching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closest<'a> {
    /// Its name.
    pub rule: &'a str,
    /// What about the subject it does not fit.
    pub misfit: Misfit,
}

/// Which side of a rule a subject does not fit, in the order of how far that is from a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// The client is one of the rule's; what it asks for is not.
    Request,
    /// The rule lets others ask for this.
    Client,
    /// Neither fits.
    Both,
}

/// Decides for one rule set.
#[must_use]
pub fn evaluate<'a>(rbac: &'a Rbac, subject: &Subject<'_>) -> Verdict<'a> {
    let matching = rbac.policies.iter().find(|p| p.matches(subject)).map(|p| p.name.as_str());
    match (rbac.action, matching) {
        (RbacAction::Deny, Some(name)) => Verdict::DeniedBy(name),
        (RbacAction::Deny, None) => Verdict::Allowed(None),
        (RbacAction::Allow, Some(name)) => Verdict::Allowed(Some(name)),
        (RbacAction::Allow, None) => {
            let closest = rbac.policies.iter().map(|p| Closest { rule: &p.name, misfit: p.misfit(subject) });
            Verdict::NotAllowed(closest.min_by_key(|closest| closest.misfit))
        }
    }
}

/// What a rule set that is not enforced would have decided: of DENY rules, which may be of many policies, a verdict for each that matches; of ALLOW
/// rules, which decide together, one for all of them. As node proxies tell it of their policies ([`authorize`](crate::authorize::authorize)).
pub fn dry_run<'a>(rbac: &'a Rbac, subject: &Subject<'_>) -> impl Iterator<Item = Verdict<'a>> {
    let denying: &[RbacPolicy] = match rbac.action {
        RbacAction::Deny => &rbac.policies,
        RbacAction::Allow => &[],
    };
    let together = (rbac.action == RbacAction::Allow).then(|| evaluate(rbac, subject));
    let denied = denying.iter().filter(move |rule| rule.matches(subject)).map(|rule| Verdict::DeniedBy(&rule.name));
    denied.chain(together)
}

impl RbacPolicy {
    /// Whether the subject may ask what it asks, by this rule alone.
    fn matches(&self, subject: &Subject<'_>) -> bool {
        self.fits_client(subject) && self.fits_request(subject)
    }

    /// What about the subject does not fit; `None` when it matches.
    #[must_use]
    pub fn differs(&self, subject: &Subject<'_>) -> Option<Misfit> {
        (!self.matches(subject)).then(|| self.misfit(subject))
    }

    /// For a subject that does not match.
    fn misfit(&self, subject: &Subject<'_>) -> Misfit {
        match (self.fits_client(subject), self.fits_request(subject)) {
            (true, _) => Misfit::Request,
            (false, true) => Misfit::Client,
            (false, false) => Misfit::Both,
        }
    }

    fn fits_client(&self, subject: &Subject<'_>) -> bool {
        self.principals.iter().any(|p| p.matches(subject))
    }

    fn fits_request(&self, subject: &Subject<'_>) -> bool {
        self.permissions.iter().any(|p| p.matches(subject))
    }
}

impl Permission {
    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|p| p.matches(subject)),
            Self::Or(any) => any.iter().any(|p| p.matches(subject)),
            Self::Not(not) => !not.matches(subject),
            Self::Header(test) => subject.request.is_some_and(|r| test.matches(&r)),
            Self::Path(test) => subject.request.is_some_and(|r| test.matches(r.path())),
            Self::DestinationIp(net) => subject.destination_ip.is_some_and(|ip| net.contains(&ip)),
            Self::DestinationPort(port) => subject.destination_port == *port,
            Self::DestinationPortRange(from, to) => (*from..*to).contains(&subject.destination_port),
            Self::ServerName(test) => test.matches(""),
        }
    }
}

impl Principal {
    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::And(all) => all.iter().all(|p| p.matches(subject)),
            Self::Or(any) => any.iter().any(|p| p.matches(subject)),
            Self::Not(not) => !not.matches(subject),
            Self::Authenticated(test) => {
                subject.principal.is_some_and(|name| test.as_ref().is_none_or(|test| test.matches(name)))
            }
            Self::RemoteIp(net) => subject.remote_ip.is_some_and(|ip| net.contains(&ip)),
            Self::DirectRemoteIp(net) => subject.direct_remote_ip.is_some_and(|ip| net.contains(&ip)),
            Self::Header(test) => subject.request.is_some_and(|r| test.matches(&r)),
            Self::Path(test) => subject.request.is_some_and(|r| test.matches(r.path())),
            Self::Metadata(test) => test.matches(subject.metadata),
        }
    }
}
