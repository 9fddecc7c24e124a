//! Single objects: applied where they are not as they should be, deleted where they are not wanted any more.

use std::collections::HashMap;
use std::time::Duration;

use gateway_api::gateways::Gateway;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::owned::Owned;
use super::{APPLIED, CLASS_LABEL, MANAGED_BY, MANAGER, Manifest, Part, covers};
use crate::source::NamespacedName;
use crate::status::rate::Rate;

/// How long a request may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Corrections of one object within [`CORRECTIONS_WITHIN`] after which somebody else must be changing it.
const CORRECTIONS: u32 = 10;
const CORRECTIONS_WITHIN: Duration = Duration::from_secs(60);

/// The field manager of replicas whose number nobody asks for any more.
const REPLICAS: &str = "istiod-lite-replicas";

/// Writes objects, and knows those that are there.
pub(super) struct Applier {
    client: kube::Client,
    rate: Rate,
    pub(super) owned: Owned,
    /// Corrections of each object of late, and since when they are counted.
    corrections: HashMap<(Part, NamespacedName), (Instant, u32)>,
}

impl Applier {
    pub(super) fn new(client: kube::Client) -> Self {
        Self { client, rate: Rate::new(), owned: Owned::default(), corrections: HashMap::new() }
    }

    /// Applies one object where it is not as it should be. A sentence when one of its name is in the way.
    pub(super) async fn apply(&mut self, gateway: &Gateway, manifest: &Manifest) -> Result<Option<String>, String> {
        let (part, name) = (manifest.part, &manifest.name);
        let label = format!("{} {name}", part.kind());
        let api = self.api(part, &name.namespace);
        let difference = match self.owned.get(part, name) {
            Some(live) if !is_of(live, gateway) => return Ok(Some(in_the_way(&label, live))),
            Some(live) => match difference(live, &manifest.value) {
                None => return Ok(None),
                Some(path) => Some(path),
            },
            None => {
                // What does not bear the label is not watched; it may be ours without it, or anybody's.
                let there = request(&format!("reading {label}"), api.get_opt(&name.name)).await?;
                let there = there.and_then(|object| serde_json::to_value(object).ok());
                match there {
                    Some(live) if !is_of(&live, gateway) => return Ok(Some(in_the_way(&label, &live))),
                    Some(_) => Some(format!("metadata.labels.{}", MANAGED_BY)),
                    None => None,
                }
            }
        };
        let replicas = self.owned.get(part, name).and_then(|live| left_replicas(live, manifest));
        if let Some(replicas) = replicas {
            self.leave_replicas(&label, &api, &name.name, &replicas).await?;
        }
        self.rate.wait().await;
        // Without force a new object loses against one that somebody makes at the same moment.
        let parameters = PatchParams { force: difference.is_some(), ..PatchParams::apply(MANAGER) };
        let patch = Patch::Apply(&manifest.value);
        let applied = request(&format!("applying {label}"), api.patch(&name.name, &parameters, &patch)).await;
        count(part, if applied.is_ok() { "applied" } else { "failed" });
        let applied = applied?;
        match &difference {
            None => tracing::info!(object = %label, "made"),
            Some(path) => tracing::info!(object = %label, %path, "was not as its Gateway wants it; corrected"),
        }
        self.owned.insert(part, applied);
        let again = difference.and_then(|path| self.contested(part, name).then_some(path));
        // A webhook that changes what is applied, or a controller that changes it back, is not to be fought with.
        let changed = self.owned.get(part, name).and_then(|live| covers(live, &manifest.value).err()).or(again);
        changed.map_or(Ok(None), |path| Err(format!("{label}: something on this cluster changes {path} back each time")))
    }

    /// Deletes the parts of a Gateway's waypoint that it does not want any more. `None` wants nothing, as it is no waypoint: then those go
    /// that were made for another class than it has now, for a class of ours may only be away for a moment.
    pub(super) async fn prune(
        &mut self,
        gateway: &Gateway,
        name: &NamespacedName,
        wanted: Option<&[Part]>,
    ) -> Result<(), String> {
        let class = Some(gateway.spec.gateway_class_name.as_str());
        let is_stale = |part: &Part, value: &Value| match wanted {
            Some(wanted) => !wanted.contains(part),
            None => value.pointer("/metadata/labels").and_then(|labels| labels.get(CLASS_LABEL)).and_then(Value::as_str) != class,
        };
        let stale: Vec<(Part, Option<String>)> = self
            .owned
            .iter()
            .filter(|((part, of), value)| of == name && is_owned_by(value, gateway) && is_stale(part, value))
            .map(|((part, _), value)| (*part, text(value, "/metadata/uid").map(str::to_owned)))
            .collect();
        for (part, uid) in stale {
            self.rate.wait().await;
            let label = format!("{} {name}", part.kind());
            let parameters =
                DeleteParams { preconditions: Some(Preconditions { uid, resource_version: None }), ..DeleteParams::background() };
            let api = self.api(part, &name.namespace);
            let deleted = timeout(REQUEST, api.delete(&name.name, &parameters)).await;
            let result = match deleted {
                Ok(Ok(_)) => Ok(()),
                // Gone, or another of that name by now.
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() || status.is_conflict() => Ok(()),
                Ok(Err(error)) => Err(format!("deleting {label}: {error}")),
                Err(_) => Err(format!("deleting {label}: the API server did not answer in time")),
            };
            count(part, if result.is_ok() { "deleted" } else { "failed" });
            result?;
            tracing::info!(object = %label, "deleted, as its Gateway does not want it any more");
            self.owned.remove(part, name);
        }
        Ok(())
    }

    /// Keeps the replicas of a Deployment as they are when their number is given up. Without force: what somebody else has set by now is theirs.
    async fn leave_replicas(
        &mut self,
        label: &str,
        api: &Api<DynamicObject>,
        name: &str,
        replicas: &Value,
    ) -> Result<(), String> {
        self.rate.wait().await;
        let kept = timeout(REQUEST, api.patch(name, &PatchParams::apply(REPLICAS), &Patch::Apply(replicas))).await;
        match kept {
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => Ok(()),
            Ok(kept) => kept.map(|_| ()).map_err(|error| format!("leaving the replicas of {label} as they are: {error}")),
            Err(_) => Err(format!("leaving the replicas of {label} as they are: the API server did not answer in time")),
        }
    }

    /// Counts a correction; whether there were too many of late.
    fn contested(&mut self, part: Part, name: &NamespacedName) -> bool {
        let now = Instant::now();
        self.corrections.retain(|_, (since, _)| now.duration_since(*since) < CORRECTIONS_WITHIN);
        let (_, count) = self.corrections.entry((part, name.clone())).or_insert((now, 0));
        *count += 1;
        *count > CORRECTIONS
    }

    fn api(&self, part: Part, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &part.resource())
    }
}

/// Why a live object has to be applied again: the first field that differs.
fn difference(live: &Value, desired: &Value) -> Option<String> {
    let hash = |value: &Value| value.pointer("/metadata/annotations").and_then(|all| all.get(APPLIED)).cloned();
    match covers(live, desired) {
        Err(path) => Some(path),
        // A field that was applied once and is not wished for any more shows in the hash alone.
        Ok(()) => (hash(live) != hash(desired)).then(|| format!("metadata.annotations.{APPLIED}")),
    }
}

/// What leaves the replicas of a live Deployment as they are although the desired one has no number of them any more. A field that nobody
/// applies goes back to its default, 1: that would end all other pods at once, until an autoscaler has seen its first metrics.
fn left_replicas(live: &Value, desired: &Manifest) -> Option<Value> {
    if desired.part != Part::Deployment || desired.value.pointer("/spec/replicas").is_some() {
        return None;
    }
    let replicas = live.pointer("/spec/replicas")?.as_i64().filter(|replicas| *replicas != 1)?;
    Some(json!({
        "apiVersion": desired.part.api_version(),
        "kind": desired.part.kind(),
        // By the uid it is not made where it is gone.
        "metadata": { "name": &*desired.name.name, "namespace": &*desired.name.namespace, "uid": text(live, "/metadata/uid")? },
        "spec": { "replicas": replicas },
    }))
}

/// Whether an object was made for a Gateway of this name, be it one that has been made anew since.
fn is_of(live: &Value, gateway: &Gateway) -> bool {
    owner(live).is_some_and(|owner| text(owner, "/name") == gateway.metadata.name.as_deref())
}

/// Whether an object belongs to this very Gateway.
fn is_owned_by(live: &Value, gateway: &Gateway) -> bool {
    owner(live).is_some_and(|owner| text(owner, "/uid") == gateway.metadata.uid.as_deref())
}

/// The Gateway that controls an object.
fn owner(live: &Value) -> Option<&Value> {
    let owners = live.pointer("/metadata/ownerReferences")?.as_array()?;
    owners.iter().find(|owner| {
        owner.get("controller") == Some(&Value::Bool(true))
            && text(owner, "/kind") == Some("Gateway")
            && text(owner, "/apiVersion").is_some_and(|version| version.starts_with("gateway.networking.k8s.io/"))
    })
}

fn in_the_way(label: &str, live: &Value) -> String {
    let of = text(live, "/metadata/ownerReferences/0/name").map(|name| format!(" (it belongs to {name})")).unwrap_or_default();
    format!("{label} exists and is not this Gateway's{of}; give the Gateway another name, or delete it")
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// A request with an end, and what was being done in its error.
pub(super) async fn request<T>(doing: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match timeout(REQUEST, request).await {
        Ok(result) => result.map_err(|error| format!("{doing}: {error}")),
        Err(_) => Err(format!("{doing}: the API server did not answer in time")),
    }
}

fn count(part: Part, outcome: &'static str) {
    metrics::counter!("istiod_waypoint_writes", "kind" => part.kind(), "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_stay_as_they_are_when_their_number_is_given_up() {
        let live = |replicas: u32| json!({"metadata": {"uid": "u"}, "spec": {"replicas": replicas}});
        let desired =
            |part, spec: Value| Manifest { part, name: NamespacedName::new("shop", "gate"), value: json!({ "spec": spec }) };
        let left = left_replicas(&live(7), &desired(Part::Deployment, json!({}))).unwrap();
        assert_eq!((&left["spec"], &left["metadata"]["uid"]), (&json!({"replicas": 7}), &json!("u")));
        assert_eq!(left_replicas(&live(1), &desired(Part::Deployment, json!({}))), None, "it is the default");
        assert_eq!(left_replicas(&live(7), &desired(Part::Deployment, json!({"replicas": 3}))), None);
        assert_eq!(left_replicas(&live(7), &desired(Part::Service, json!({}))), None);
    }
}
