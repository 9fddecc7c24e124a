//! `/explain?from=POD&to=HOST:PORT`: what this proxy would do with a connection, by the decisions that it makes, on the state that it
//! holds. `ambit explain connection` asks it.

use std::sync::Arc;

use ambit_identity::SpiffeId;
use ambit_model::{
    arrive::Knowledge,
    explain::{self, Capture, Certificate, Explanation, Question, Surroundings},
    plan::{Observed, Unobserved},
    state::MeshState,
    workload::Workload,
};
use ambit_runtime::admin::{Query, Reply};
use ambit_tls::SvidStore;
use http::StatusCode;
use serde::Serialize;

use crate::{endpoints::Endpoints, node::pods::Pods, proxy::Pod, worker::Workers};

/// An answer, for programs and for people.
#[derive(Debug, Serialize)]
struct Answer {
    explanation: Explanation,
    /// The same as text.
    text: String,
}

/// Why there is none.
#[derive(Debug, Serialize)]
struct NoAnswer {
    error: String,
}

pub(super) fn page(node: &str, workers: &Workers, pods: &Pods, query: &Query) -> Reply {
    let asked = |name| query.get(name).filter(|value| !value.is_empty());
    let (Some(from), Some(to)) = (asked("from"), asked("to")) else {
        let error = "ask for /explain?from=NAMESPACE/POD&to=HOST:PORT".to_owned();
        return Reply::json(&NoAnswer { error }).status(StatusCode::BAD_REQUEST);
    };
    let proxy = &workers.first().shared;
    let around = Running {
        node,
        knowledge: proxy.state.changes().knowledge(),
        pods: pods.list(),
        certificates: &proxy.certificates,
        endpoints: &proxy.endpoints,
    };
    // Off the lock: an explanation makes many decisions, and connections must not wait for it.
    let explained = Question::new(from, to).and_then(|question| {
        let mesh = proxy.state.read(MeshState::clone);
        explain::connection(&mesh, &around, &question)
    });
    match explained {
        Ok(explanation) => Reply::json(&Answer { text: explanation.to_string(), explanation }),
        Err(error) => Reply::json(&NoAnswer { error: error.to_string() }).status(StatusCode::NOT_FOUND),
    }
}

/// What a running proxy knows besides the state of the mesh.
struct Running<'a> {
    node: &'a str,
    knowledge: Knowledge,
    pods: Vec<Arc<Pod>>,
    certificates: &'a SvidStore,
    endpoints: &'a Endpoints,
}

impl Running<'_> {
    /// The pods of this name; while one follows another, both may be there.
    fn served<'a>(&'a self, workload: &Workload) -> impl Iterator<Item = &'a Arc<Pod>> {
        let called = move |pod: &&Arc<Pod>| pod.name == *workload.name && *pod.identity.namespace() == workload.namespace;
        self.pods.iter().filter(called)
    }
}

impl Surroundings for Running<'_> {
    fn knowledge(&self) -> Knowledge {
        self.knowledge
    }

    fn capture(&self, workload: &Workload) -> Capture {
        // Of other nodes this proxy knows what the control plane tells.
        if *workload.node != *self.node {
            return Capture::AsTold;
        }
        let Some(first) = self.served(workload).next() else { return Capture::Missing };
        let same = self.served(workload).find(|pod| pod.identity == workload.identity);
        Capture::Served(same.unwrap_or(first).identity.clone())
    }

    fn observed<'a>(&'a self, pod: &Workload) -> Box<dyn Observed + 'a> {
        match self.served(pod).find(|served| served.identity == pod.identity) {
            Some(served) => Box::new(self.endpoints.seen_by(&served.standings)),
            None => Box::new(Unobserved),
        }
    }

    fn certificate(&self, id: &SpiffeId) -> Certificate {
        if self.certificates.current(id).is_some() {
            return Certificate::Held;
        }
        let failed = self.certificates.status().into_iter().find(|held| held.id == *id).and_then(|held| held.error);
        failed.map_or(Certificate::OnDemand, |error| Certificate::Failed(error.to_string()))
    }
}
