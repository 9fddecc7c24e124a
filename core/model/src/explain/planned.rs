//! The ways that the plan may choose, each with what the proxy behind it decides.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{Asked, Carriage, Certificate, Stage, Step, Surroundings, Way, arriving, leaving::by_the_kernel, name::full_name};
use crate::{
    address::NetworkAddress,
    plan::{self, Hbone, Hop, Plan, Request, Verdict},
    reason::{Reason, Refusal},
    service::{Mode, Service},
    state::MeshState,
    workload::{Tunnel, Uid, Workload},
};

/// How many random numbers are tried to find every way that the plan may choose.
const TRIED: u64 = 256;
/// Of a service with more equal endpoints than this, only those are told that so many random numbers choose.
const EQUALS: usize = 64;

/// The ways that the proxy may choose for a connection to `destination`, with what comes of each.
pub(super) fn planned(state: &MeshState, around: &dyn Surroundings, source: &Workload, destination: SocketAddr) -> Vec<Way> {
    let observed = around.observed(source);
    let asked = |random| Request { source, destination, random, avoid: &[], observed: &*observed };
    let mut plans: Vec<Plan> = (0..TRIED).map(|number| plan::plan(state, asked(spread(number)))).collect();
    plans.extend(equals(state, asked(0), &plans));
    let mut seen = BTreeSet::new();
    // The same plan is explained once.
    plans.retain(|plan| seen.insert(key(plan)));
    let mut ways: Vec<Way> = plans.into_iter().map(|plan| way(state, around, asked(0), plan)).collect();
    ways.sort_by(|a, b| a.to.cmp(&b.to));
    ways
}

/// The plans by which each endpoint is chosen that is as good as those of `plans`: one with a small share, or with many connections now,
/// may not have come up.
fn equals(state: &MeshState, request: Request<'_>, plans: &[Plan]) -> Vec<Plan> {
    let Some(target) = plans.first().filter(|plan| to_an_endpoint(plan)).map(Plan::target) else { return Vec::new() };
    let (Some(service), Some(_)) = (&target.service, &target.workload) else { return Vec::new() };
    let may = |verdict| matches!(verdict, Verdict::Usable | Verdict::Named);
    let mut usable: Vec<_> = plan::candidates(state, request, service).filter(|candidate| may(candidate.verdict)).collect();
    let best = usable.iter().map(|candidate| candidate.rank).max();
    usable.retain(|candidate| Some(candidate.rank) == best);
    if usable.len() > EQUALS {
        return Vec::new();
    }
    let equal: Vec<Uid> = usable.iter().map(|candidate| candidate.workload.uid.clone()).collect();
    let alone = |uid: &Uid| {
        let others: Vec<Uid> = equal.iter().filter(|other| *other != uid).cloned().collect();
        plan::plan(state, Request { avoid: &others, ..request })
    };
    equal.iter().map(alone).collect()
}

const fn to_an_endpoint(plan: &Plan) -> bool {
    match plan {
        Plan::Hbone(plan) => matches!(plan.hop, Hop::Endpoint),
        Plan::Passthrough(_) | Plan::Resolve(_) => true,
        Plan::Deny(_) => false,
    }
}

fn way(state: &MeshState, around: &dyn Surroundings, request: Request<'_>, plan: Plan) -> Way {
    match plan {
        Plan::Hbone(plan) => tunnel(state, around, request, &plan),
        Plan::Passthrough(plan) => in_clear(state, around, request, &plan),
        Plan::Resolve(plan) => by_name(state, request, &plan),
        Plan::Deny(denied) => {
            let step = Step::new(Stage::Way, "it goes nowhere").because(denied.refusal.to_string()).refused(denied.refusal);
            Way::of(None, None, Carriage::Nothing, vec![step])
        }
    }
}

/// Numbers that are spread evenly in their high bits, in turn with such that are spread in all of them.
fn spread(number: u64) -> u64 {
    if number.is_multiple_of(2) {
        return number.wrapping_mul(u64::MAX / TRIED);
    }
    plan::further(number)
}

fn key(plan: &Plan) -> (u8, Option<SocketAddr>, String) {
    match plan {
        Plan::Hbone(plan) => (0, Some(plan.dial), plan.authority.to_string()),
        Plan::Passthrough(plan) => (1, Some(plan.dial), String::new()),
        Plan::Resolve(plan) => (2, None, plan.hostname.to_string()),
        Plan::Deny(denied) => (3, None, denied.refusal.to_string()),
    }
}

fn tunnel(state: &MeshState, around: &dyn Surroundings, request: Request<'_>, plan: &Hbone) -> Way {
    let source = request.source;
    let workload = plan.target.workload.as_deref();
    let name = workload.map_or_else(|| plan.dial.ip().to_string(), full_name);
    let mut step = match plan.hop {
        Hop::Waypoint => Step::new(Stage::Way, format!("through the waypoint {name}, HBONE to {}", plan.dial)),
        Hop::Endpoint => Step::new(Stage::Way, format!("to {name}, HBONE to {} for {}", plan.dial, plan.authority)),
    };
    step.because = grounds(state, request, plan.hop, plan.target.service.as_deref());
    let mut steps = vec![step, proved(around, source, plan)];
    let from = arriving::source_ip(source, plan.dial.ip());
    match (plan.hop, workload) {
        (Hop::Endpoint, Some(workload)) => {
            steps.extend(arriving::through_a_tunnel(state, around, source, from, workload, plan.authority))
        }
        (Hop::Waypoint, Some(workload)) => steps.extend(arriving::beyond(state, around, workload, plan)),
        (_, None) => {}
    }
    let through_a_waypoint = plan.hop == Hop::Waypoint;
    let carriage = if through_a_waypoint { Carriage::Waypoint } else { Carriage::Hbone };
    let asked = Asked { identity: source.identity.clone(), address: from, destination: plan.authority };
    Way { asked: through_a_waypoint.then_some(asked), ..Way::of(workload, Some(plan.dial), carriage, steps) }
}

/// What both sides prove to each other.
fn proved(around: &dyn Surroundings, source: &Workload, plan: &Hbone) -> Step {
    let expected: Vec<String> = plan.expected.iter().map(ToString::to_string).collect();
    let step = Step::new(Stage::Identity, format!("{} proves itself to {}", source.identity, expected.join(" or ")));
    let step = match around.certificate(&source.identity) {
        Certificate::OnDemand => step.because("the client's certificate is asked for when it is needed"),
        Certificate::Held => step.because("the client's certificate is held and valid"),
        Certificate::Failed(error) => {
            let refusal = Refusal::new(Reason::CertificateUnavailable, error);
            return step.because(refusal.to_string()).refused(refusal);
        }
    };
    match plan.expected.iter().all(|id| id.trust_domain() == source.identity.trust_domain()) {
        true => step.because(format!("both are of the trust domain {}", source.identity.trust_domain())),
        false => step.doubted("they are of different trust domains, and it is not known here which ones the other side accepts"),
    }
}

fn in_clear(state: &MeshState, around: &dyn Surroundings, request: Request<'_>, plan: &plan::Passthrough) -> Way {
    let source = request.source;
    let workload = plan.target.workload.as_deref();
    let step = match (workload, &plan.target.service) {
        (Some(workload), _) => Step::new(Stage::Way, format!("to {} in plain text, at {}", full_name(workload), plan.dial))
            .because("it is not in the mesh, so it takes no tunnel"),
        (None, Some(service)) => Step::new(Stage::Way, format!("to {} as it was dialled, in plain text", plan.dial))
            .because(format!("{} says that connections pass as they are", service.key.hostname)),
        (None, None) => Step::new(Stage::Way, format!("to {} in plain text, past the mesh", plan.dial))
            .because("no service and no workload of the mesh has this address"),
    };
    if workload.is_none() && plan.target.service.is_some() {
        // Which endpoint the kernel picks is not known here.
        let mut ways = by_the_kernel(state, around, source, request.destination);
        let mut first = ways.pop().unwrap_or_else(|| Way::of(None, Some(plan.dial), Carriage::PlainText, Vec::new()));
        let alike = ways.iter().all(|way| (way.verdict, way.reason) == (first.verdict, first.reason));
        first.steps.insert(0, if alike { step } else { step.doubted("its endpoints do not all answer alike") });
        return Way::of(None, Some(plan.dial), Carriage::PlainText, first.steps);
    }
    let mut steps = vec![step];
    steps.extend(arriving::in_plain_text(state, around, source, plan.dial));
    Way::of(workload, Some(plan.dial), Carriage::PlainText, steps)
}

/// An endpoint that is known by its host name alone, which this proxy has not resolved.
fn by_name(state: &MeshState, request: Request<'_>, plan: &plan::Resolve) -> Way {
    let workload = plan.target.workload.as_deref();
    let name = workload.map_or_else(|| plan.hostname.to_string(), full_name);
    let mut step = Step::new(Stage::Way, format!("to {name}, at what its host name {} stands for", plan.hostname));
    step.because = grounds(state, request, Hop::Endpoint, plan.target.service.as_deref());
    let step = step.because(
        "the proxy resolves the name when it is needed: whether it resolves, and to a pod of the mesh, is not known here",
    );
    let through_the_mesh = workload.is_some_and(|workload| workload.tunnel == Tunnel::Hbone);
    let step = if through_the_mesh { step.doubted("what the proxy of that address decides") } else { step };
    let carriage = if through_the_mesh { Carriage::Hbone } else { Carriage::PlainText };
    Way::of(workload, None, carriage, vec![step])
}

/// On what grounds the plan goes there, told from the state.
fn grounds(state: &MeshState, request: Request<'_>, hop: Hop, service: Option<&Service>) -> Vec<String> {
    let mut grounds = Vec::new();
    let Some(service) = service else {
        let address = NetworkAddress::new(request.source.network.clone(), request.destination.ip());
        let waypoint = state.workload_at(&address).and_then(|workload| workload.waypoint.as_deref());
        grounds.push(match (hop, waypoint) {
            (Hop::Waypoint, Some(waypoint)) => format!("the pod that was dialled asks for the waypoint {waypoint}"),
            (Hop::Endpoint, Some(_)) => "the client is the waypoint of the pod that was dialled".to_owned(),
            _ => "it was dialled by its own address, and is in the mesh".to_owned(),
        });
        return grounds;
    };
    let name = &service.key.hostname;
    let waypoints: Vec<String> = service.waypoints.iter().map(|weighted| weighted.waypoint.to_string()).collect();
    if hop == Hop::Waypoint {
        grounds.push(format!("{name} asks for the waypoint {}", waypoints.join(" or ")));
        return grounds;
    }
    if !waypoints.is_empty() {
        grounds.push(format!("the client is the waypoint of {name}"));
    }
    grounds.push(endpoints(state, request, service));
    let balancing = &service.load_balancing;
    if balancing.allow_unhealthy {
        grounds.push("it takes endpoints that are not ready as well".to_owned());
    }
    let preferences =
        balancing.preferences.iter().map(|scope| format!("{scope:?}").to_lowercase()).collect::<Vec<_>>().join(", ");
    match balancing.mode {
        Mode::Strict => grounds.push(format!("it takes endpoints only of the client's own {preferences}")),
        Mode::Failover => grounds.push(format!("it prefers endpoints of the client's own {preferences}")),
        Mode::Any | Mode::Passthrough => {}
    }
    grounds
}

/// How many endpoints there are, and how many of them may be chosen.
fn endpoints(state: &MeshState, request: Request<'_>, service: &Service) -> String {
    let verdicts: Vec<Verdict> = plan::candidates(state, request, service).map(|candidate| candidate.verdict).collect();
    let endpoints = if verdicts.len() == 1 { "endpoint" } else { "endpoints" };
    format!("{} has {} {endpoints}: {}", service.key.hostname, verdicts.len(), plan::counted(verdicts.clone()))
}
