//! Writes status to the API server, on the leader.
//!
//! Level-triggered: whenever the mesh has changed, what should be said is held against what the index shows to be said.
//! Where they differ the object is read afresh, and patched under the resource version that was read, so that what other
//! controllers wrote meanwhile is never lost: a conflict is one more look. A writer that is killed leaves some objects
//! written and some not, and the next one starts with the same comparison.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::discovery::ApiResource;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{ObjectStatus, of, patch::patch, policy, rate::Rate, speaks_of, traffic};
use crate::deploy::Reports;
use crate::mesh::Mesh;
use crate::retry;
use crate::source::{Kind, Object, ObjectKey};

/// The name under which the API server notes who wrote.
const FIELD_MANAGER: &str = "istiod-lite";
/// Changes that follow each other within this time are written together.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a look and a write may take, more than the 30 s that the API server gives a webhook: an answer, however late, is about this
/// object, and silence about all.
const REQUEST: Duration = Duration::from_secs(40);
/// How long the index may take to show what was written or read; then it is looked at again.
const SETTLE: Duration = Duration::from_secs(15);
/// Objects that are looked at under one lock of the index.
const CHUNK: usize = 256;

/// Writes the status of all objects that the mesh has anything to say about.
pub struct Writer {
    client: kube::Client,
    mesh: Arc<Mesh>,
    reports: watch::Receiver<Reports>,
    rate: Rate,
    waiting: HashMap<ObjectKey, Waiting>,
}

/// An object that differs from what should be said of it, and is not to be looked at before some time.
#[derive(Debug)]
struct Waiting {
    until: Instant,
    /// What should be said when this was noted; other words are tried at once after a success.
    wanted: Option<u64>,
    /// Failures in a row.
    failures: u32,
}

/// What became of one object.
enum Outcome {
    /// It says what it should, by our hand or as it was read.
    Settled,
    /// It is gone, or another one of that name, or changes under our hands: the index will show.
    Moved,
    /// The API server refused a request.
    Failed(String),
    /// The API server did not answer.
    Away(String),
}

impl From<kube::Error> for Outcome {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_conflict() || status.is_not_found() => Self::Moved,
            kube::Error::Api(status) => Self::Failed(status.message.clone()),
            error => Self::Away(error.to_string()),
        }
    }
}

impl Writer {
    /// A writer that has not written yet. `reports` are the deployer's.
    #[must_use]
    pub fn new(client: kube::Client, mesh: Arc<Mesh>, reports: watch::Receiver<Reports>) -> Self {
        Self { client, mesh, reports, rate: Rate::new(), waiting: HashMap::new() }
    }

    /// Writes until it is dropped, which it may be at any point.
    pub async fn run(mut self) {
        let mut generation = self.mesh.generation();
        if generation.wait_for(|generation| *generation > 0).await.is_err() {
            return;
        }
        let mut away = 0_u32;
        loop {
            generation.mark_unchanged();
            self.reports.mark_unchanged();
            let looked = Instant::now();
            let todo = self.differences();
            let cost = looked.elapsed();
            if let Err(error) = self.write_all(todo).await {
                if away == 0 {
                    tracing::warn!(%error, "cannot write status while the API server is away");
                }
                away += 1;
                sleep(retry::after(away.min(4))).await;
                continue;
            }
            away = 0;
            // Looking costs more the larger the mesh is; it takes at most a fifth of one thread.
            sleep(PAUSE.max(4 * cost)).await;
            let due = retry::at(self.waiting.values().map(|waiting| waiting.until).min());
            tokio::select! {
                changed = generation.changed() => if changed.is_err() { return },
                changed = self.reports.changed() => if changed.is_err() { return },
                () = due => {}
            }
        }
    }

    /// Writes one object after the other. The error is that the API server is away, which holds for all that are left.
    async fn write_all(&mut self, todo: Vec<ObjectStatus>) -> Result<(), String> {
        for wanted in todo {
            self.rate.wait().await;
            match timeout(REQUEST, self.write(&wanted)).await {
                Ok(Outcome::Away(error)) => return Err(error),
                Ok(outcome) => self.note(&wanted, outcome),
                Err(_) => return Err("it did not answer in time".into()),
            }
        }
        Ok(())
    }

    /// What should be said of each object that the index does not show to say it, but for those that wait.
    fn differences(&mut self) -> Vec<ObjectStatus> {
        let now = Instant::now();
        let (reports, problems) = (self.reports.borrow().clone(), self.mesh.problems());
        let unreadable = |key: &ObjectKey| {
            let mut problems = problems.iter().filter(|problem| problem.is_error());
            problems.find(|problem| problem.object.as_ref() == Some(key))
        };
        let keys: Vec<ObjectKey> = self.mesh.index().objects().keys().filter(|key| speaks_of(key.kind)).collect();
        let (mut todo, mut differing) = (Vec::new(), HashMap::new());
        for keys in keys.chunks(CHUNK) {
            let index = self.mesh.index();
            for key in keys {
                let Some(object) = index.objects().get(key) else { continue };
                let Some(mut wanted) = of(&index, key, Some(&reports)) else { continue };
                match key.kind {
                    Kind::AuthorizationPolicy | Kind::RequestAuthentication => {
                        if let Some(problem) = unreadable(key) {
                            wanted.conditions = vec![policy::unreadable(key.kind, problem)];
                        }
                    }
                    Kind::TrafficPolicy
                    | Kind::BackendTrafficPolicy
                    | Kind::RequestPolicy
                    | Kind::DestinationRule
                    | Kind::VirtualService
                    | Kind::ServiceEntry
                    | Kind::WorkloadEntry => {
                        if let Some(problem) = unreadable(key) {
                            traffic::unreadable(&mut wanted.conditions, problem);
                        }
                    }
                    _ => {}
                }
                if patch(held(&object).as_ref(), &wanted, "").is_none() {
                    continue;
                }
                let hash = hash(&wanted);
                match self.waiting.remove(key) {
                    Some(waiting) if waiting.until > now && waiting.wanted.is_none_or(|noted| noted == hash) => {
                        differing.insert(key.clone(), waiting);
                    }
                    Some(waiting) => {
                        differing.insert(key.clone(), Waiting { until: now, ..waiting });
                        todo.push(wanted);
                    }
                    None => todo.push(wanted),
                }
            }
        }
        self.waiting = differing;
        todo
    }

    /// Reads one object afresh and patches its status where it still has to be.
    async fn write(&self, wanted: &ObjectStatus) -> Outcome {
        let key = &wanted.object;
        let api = self.api(key);
        let object = match api.get_opt(&key.name.name).await {
            Ok(Some(object)) => object,
            Ok(None) => return Outcome::Moved,
            Err(error) => return error.into(),
        };
        let known = self.mesh.index().objects().get(key).and_then(|known| known.metadata().uid.clone());
        if object.metadata.uid != known {
            return Outcome::Moved;
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Some(status) = patch(object.data.get("status"), wanted, &now) else { return Outcome::Settled };
        let patch = json!({"metadata": {"resourceVersion": object.metadata.resource_version}, "status": status});
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let result = api.patch_status(&key.name.name, &parameters, &Patch::Merge(patch)).await;
        let outcome = match result {
            Ok(_) => {
                tracing::debug!(object = %key, "status written");
                Outcome::Settled
            }
            Err(error) => error.into(),
        };
        let label = match &outcome {
            Outcome::Settled => "written",
            Outcome::Moved => "conflict",
            Outcome::Failed(_) | Outcome::Away(_) => "failed",
        };
        metrics::counter!("istiod_status_writes", "kind" => key.kind.as_str(), "outcome" => label).increment(1);
        outcome
    }

    /// Notes when an object is to be looked at again, should the index go on differing.
    fn note(&mut self, wanted: &ObjectStatus, outcome: Outcome) {
        let now = Instant::now();
        let failed_before = self.waiting.get(&wanted.object).map_or(0, |waiting| waiting.failures);
        let waiting = match outcome {
            Outcome::Settled => Waiting { until: now + SETTLE, wanted: Some(hash(wanted)), failures: 0 },
            Outcome::Moved | Outcome::Away(_) => Waiting { until: now + retry::FIRST, wanted: None, failures: 0 },
            Outcome::Failed(error) => {
                if failed_before == 0 {
                    tracing::warn!(object = %wanted.object, %error, "cannot write the status; trying again");
                }
                let failures = failed_before + 1;
                Waiting { until: now + retry::after(failures), wanted: None, failures }
            }
        };
        self.waiting.insert(wanted.object.clone(), waiting);
    }

    fn api(&self, key: &ObjectKey) -> Api<DynamicObject> {
        let resource = resource(key.kind);
        if key.kind.namespaced() {
            Api::namespaced_with(self.client.clone(), &key.name.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }
}

/// Where the API server has objects of a kind.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    let version = kind.versions().first().copied().unwrap_or("v1");
    let api_version = if kind.group().is_empty() { version.to_owned() } else { format!("{}/{version}", kind.group()) };
    ApiResource {
        group: kind.group().into(),
        version: version.into(),
        api_version,
        kind: kind.as_str().into(),
        plural: kind.plural().into(),
    }
}

/// What should be said, but for times.
fn hash(wanted: &ObjectStatus) -> u64 {
    let mut hasher = DefaultHasher::new();
    patch(None, wanted, "").map(|value| value.to_string()).hash(&mut hasher);
    hasher.finish()
}

/// The status of an object of the index as a tree of values.
fn held(object: &Object) -> Option<Value> {
    let status = match object {
        Object::Service(service) => serde_json::to_value(service.status.as_ref()?),
        Object::ServiceEntry(entry) => serde_json::to_value(entry.status.as_ref()?),
        Object::WorkloadEntry(entry) => serde_json::to_value(entry.status.as_ref()?),
        Object::AuthorizationPolicy(policy) => serde_json::to_value(policy.status.as_ref()?),
        Object::RequestAuthentication(policy) => serde_json::to_value(policy.status.as_ref()?),
        Object::BackendTlsPolicy(policy) => serde_json::to_value(policy.status.as_ref()?),
        Object::RequestPolicy(policy) => serde_json::to_value(policy.status.as_ref()?),
        Object::Telemetry(telemetry) => serde_json::to_value(telemetry.status.as_ref()?),
        Object::TrafficPolicy(policy) => serde_json::to_value(policy.status.as_ref()?),
        Object::BackendTrafficPolicy(policy) => serde_json::to_value(policy.status.as_ref()?),
        Object::DestinationRule(rule) => serde_json::to_value(rule.status.as_ref()?),
        Object::VirtualService(object) => serde_json::to_value(object.status.as_ref()?),
        Object::HttpRoute(route) => serde_json::to_value(route.status.as_ref()?),
        Object::GrpcRoute(route) => serde_json::to_value(route.status.as_ref()?),
        Object::TlsRoute(route) => serde_json::to_value(route.status.as_ref()?),
        Object::TcpRoute(route) => serde_json::to_value(route.status.as_ref()?),
        Object::Gateway(gateway) => serde_json::to_value(gateway.status.as_ref()?),
        Object::GatewayClass(class) => serde_json::to_value(class.status.as_ref()?),
        _ => return None,
    };
    status.ok()
}
