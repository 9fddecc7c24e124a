//! What would happen to a connection, and why: the decisions that the proxies make, asked for in the order in which they make them, with
//! their grounds. Nothing is decided here: [`plan`](crate::plan), [`arrive`](crate::arrive), [`admit`](crate::admit) and
//! [`authorize`](crate::authorize) are.
//!
//! An answer speaks for the mesh alone: whether the application listens is not known to it.

mod arriving;
mod leaving;
mod name;
mod planned;
mod policies;
pub mod request;
mod text;

use std::net::{IpAddr, SocketAddr};

use ambit_identity::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::{
    address::NetworkAddress,
    arrive::Knowledge,
    plan::{Observed, Unobserved},
    reason::{Reason, Refusal},
    state::MeshState,
    workload::Workload,
};

pub use name::{Question, Unanswerable};

/// What is to be known besides the state of the mesh.
pub trait Surroundings {
    /// How much has arrived.
    fn knowledge(&self) -> Knowledge {
        Knowledge::COMPLETE
    }

    /// What is known of the capture of this pod.
    fn capture(&self, _pod: &Workload) -> Capture {
        Capture::AsTold
    }

    /// What is known of the certificate of an identity.
    fn certificate(&self, _id: &SpiffeId) -> Certificate {
        Certificate::OnDemand
    }

    /// What was seen of endpoints that concerns the connections of this pod.
    fn observed<'a>(&'a self, _pod: &Workload) -> Box<dyn Observed + 'a> {
        Box::new(Unobserved)
    }

    /// The DNS domain of the cluster.
    fn domain(&self) -> &str {
        "cluster.local"
    }
}

/// The state alone, as when it was read from files.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateAlone;

impl Surroundings for StateAlone {}

/// What is known of the capture of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// What the control plane tells.
    AsTold,
    /// The proxy that was asked serves it, under this identity.
    Served(SpiffeId),
    /// It runs on the node of the proxy that was asked, and was not handed over to it.
    Missing,
}

/// What is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Certificate {
    /// It is asked for when it is needed.
    OnDemand,
    /// It is held and valid.
    Held,
    /// The last attempt to get it failed, and none is held.
    Failed(String),
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing of the mesh refuses it.
    Allowed,
    /// The mesh refuses it.
    Refused,
    /// It depends on what is not known here.
    Unknown,
}

/// A part of the way of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Who opens it, and whether it is captured.
    Source,
    /// What it is for.
    Destination,
    /// Where it goes.
    Way,
    /// Who proves what to whom.
    Identity,
    /// Whether the destination takes it at this address.
    Admission,
    /// Whether policies let it pass.
    Policy,
    /// What is decided after a waypoint has taken it.
    Beyond,
    /// Which listener and filter chain of a waypoint take it.
    Chain,
    /// Which route takes a request.
    Route,
    /// What the route does with it.
    Action,
    /// Which endpoints it may go to.
    Endpoint,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Which part of the way.
    pub stage: Stage,
    /// What was decided.
    pub says: String,
    /// On what grounds.
    pub because: Vec<String>,
    /// The refusal, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
    /// What is not known, if it is needed to decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

impl Step {
    /// A decision without grounds so far.
    #[must_use]
    pub fn new(stage: Stage, says: impl Into<String>) -> Self {
        Self { stage, says: says.into(), because: Vec::new(), refusal: None, doubt: None }
    }

    /// The same with one more ground.
    #[must_use]
    pub fn because(mut self, ground: impl Into<String>) -> Self {
        self.because.push(ground.into());
        self
    }

    /// The same as a refusal.
    #[must_use]
    pub fn refused(mut self, refusal: Refusal) -> Self {
        self.refusal = Some(refusal);
        self
    }

    /// The same as one that depends on what is not known.
    #[must_use]
    pub fn doubted(mut self, doubt: impl Into<String>) -> Self {
        self.doubt = Some(doubt.into());
        self
    }
}

/// How the bytes go to what is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Carriage {
    /// Through a tunnel with both identities proved (within the node when both pods are on one).
    Hbone,
    /// Through a tunnel to a waypoint, which goes on by itself.
    Waypoint,
    /// As they are.
    PlainText,
    /// Nothing is dialled.
    Nothing,
}

/// One of the ways that a connection may take; which one is chosen by chance among equals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// `namespace/name` of what is dialled, when it is a workload of the mesh.
    pub to: Option<String>,
    /// What is dialled.
    pub dial: Option<SocketAddr>,
    /// How the bytes go there.
    pub carriage: Carriage,
    /// What the waypoint is asked for, when it goes through one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Asked>,
    /// What comes of it.
    pub verdict: Verdict,
    /// The reason code: `ok` when it is allowed, none when it is not known.
    pub reason: Option<Reason>,
    /// The policy that decided.
    pub policy: Option<String>,
    /// The decisions on this way, in their order.
    pub steps: Vec<Step>,
}

/// A tunnel as a waypoint is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The identity that the client proves.
    pub identity: SpiffeId,
    /// The address that it comes from.
    pub address: IpAddr,
    /// The authority of the CONNECT.
    pub destination: SocketAddr,
}

/// What would happen to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `namespace/name` of the pod that opens it.
    pub from: String,
    /// What it dials, as it was asked.
    pub to: String,
    /// The answer.
    pub verdict: Verdict,
    /// The reason code: `ok` when it is allowed, none when it is not known or not the same on every way.
    pub reason: Option<Reason>,
    /// The decisions before there is more than one way.
    pub steps: Vec<Step>,
    /// The ways it may take.
    pub ways: Vec<Way>,
    /// What the answer takes for granted.
    pub assumed: Vec<String>,
}

/// Explains the connection of `question`.
///
/// # Errors
/// When the pod or the host is not known, with what is near.
pub fn connection(state: &MeshState, around: &dyn Surroundings, question: &Question) -> Result<Explanation, Unanswerable> {
    let source = question.source(state)?.clone();
    let (destinations, named) = question.destinations(state, &source, around.domain())?;
    let mut steps = Vec::new();
    let mut ways = Vec::new();
    let (captured, out) = leaving::capture(around, &source, &destinations);
    let stops = |step: &Step| step.refusal.is_some() || step.doubt.is_some();
    steps.push(captured);
    steps.push(named);
    if steps.iter().any(stops) {
        ways.push(Way::ending(Carriage::Nothing, &steps));
    } else {
        for destination in &destinations {
            let of_one = match out {
                leaving::Out::Proxy => planned::planned(state, around, &source, *destination),
                leaving::Out::Itself => vec![Way::of(None, Some(*destination), Carriage::PlainText, Vec::new())],
                leaving::Out::Kernel => leaving::by_the_kernel(state, around, &source, *destination),
            };
            for way in of_one {
                if !ways.contains(&way) {
                    ways.push(way);
                }
            }
        }
    }
    let (verdict, reason) = altogether(&ways);
    let from = format!("{}/{}", source.namespace, source.name);
    Ok(Explanation { from, to: question.to(), verdict, reason, steps, ways, assumed: Vec::new() })
}

/// What the proxy of `endpoint` decides about a tunnel of `waypoint` (`namespace/name` of its pod), whatever was asked of the waypoint; nothing
/// when they are not of the mesh, or no proxy decides there.
#[must_use]
pub fn beyond(state: &MeshState, around: &dyn Surroundings, waypoint: &str, endpoint: SocketAddr) -> Option<Step> {
    let waypoint = state.workloads().find(|workload| name::full_name(workload) == waypoint)?;
    let workload = state.workload_at(&NetworkAddress::new(waypoint.network.clone(), endpoint.ip()))?;
    arriving::from_waypoint(state, around, waypoint, workload, endpoint.port())
}

/// What all ways have in common.
fn altogether(ways: &[Way]) -> (Verdict, Option<Reason>) {
    let Some(first) = ways.first() else { return (Verdict::Unknown, None) };
    let verdict = if ways.iter().all(|way| way.verdict == first.verdict) { first.verdict } else { Verdict::Unknown };
    let reason = first.reason.filter(|_| ways.iter().all(|way| way.reason == first.reason));
    (verdict, reason)
}

impl Way {
    /// A way on which these decisions are made: the first that refuses or doubts decides.
    fn of(to: Option<&Workload>, dial: Option<SocketAddr>, carriage: Carriage, steps: Vec<Step>) -> Self {
        let mut way = Self::ending(carriage, &steps);
        way.to = to.map(|workload| format!("{}/{}", workload.namespace, workload.name));
        way.dial = dial;
        way.steps = steps;
        way
    }

    fn ending(carriage: Carriage, steps: &[Step]) -> Self {
        let decisive = steps.iter().find(|step| step.refusal.is_some() || step.doubt.is_some());
        let refusal = decisive.and_then(|step| step.refusal.as_ref());
        let (verdict, reason) = match (decisive, refusal) {
            (None, _) => (Verdict::Allowed, Some(Reason::Ok)),
            (Some(_), Some(refusal)) => (Verdict::Refused, Some(refusal.reason)),
            (Some(_), None) => (Verdict::Unknown, None),
        };
        let policy = refusal.and_then(|refusal| refusal.policy.as_ref()).map(ToString::to_string);
        Self { to: None, dial: None, carriage, asked: None, verdict, reason, policy, steps: Vec::new() }
    }

    /// What the first proxy that decides logs: what is decided beyond a waypoint it does not see.
    #[must_use]
    pub fn logged(&self) -> Option<Reason> {
        let seen: Vec<Step> = self.steps.iter().filter(|step| step.stage != Stage::Beyond).cloned().collect();
        if self.carriage == Carriage::Nothing { self.reason } else { Self::ending(self.carriage, &seen).reason }
    }
}

#[cfg(test)]
mod tests;
