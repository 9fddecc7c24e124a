//! Waits until the parts of the mesh are ready, and says what they wait for.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, api::ListParams};
use serde_json::Value;
use tokio::time::Instant;

use super::{apply, cluster::failed, kinds::Name};
use crate::error::{Error, Result};

const LOOK: Duration = Duration::from_millis(500);

/// What a Deployment or DaemonSet waits for; nothing when it is ready as it is written now.
#[must_use]
pub fn waits_for(object: &Value) -> Option<String> {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let generation = number("/metadata/generation");
    if object.pointer("/status/observedGeneration").and_then(Value::as_i64).is_none_or(|seen| seen < generation) {
        return Some("not yet seen by its controller".to_owned());
    }
    let (wanted, updated, ready, old, of) = if object.get("kind").is_some_and(|kind| kind == "DaemonSet") {
        let wanted = number("/status/desiredNumberScheduled");
        (wanted, number("/status/updatedNumberScheduled"), number("/status/numberReady"), 0, "nodes")
    } else {
        let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
        let updated = number("/status/updatedReplicas");
        (wanted, updated, number("/status/readyReplicas").min(updated), number("/status/replicas") - updated, "replicas")
    };
    if updated < wanted {
        Some(format!("{updated} of {wanted} {of} have the new version"))
    } else if ready < wanted {
        Some(format!("{ready} of {wanted} {of} are ready"))
    } else if old > 0 {
        Some(format!("{old} of the old version still to end"))
    } else {
        None
    }
}

/// Waits until all of these are ready, and tells of each change.
///
/// # Errors
/// When the time is over; says why the pods do not start.
pub(super) async fn ready(client: &Client, names: &[Name], patience: Duration, mut tell: impl FnMut(String)) -> Result<()> {
    let until = Instant::now() + patience;
    let mut said: BTreeMap<String, Option<String>> = BTreeMap::new();
    loop {
        let mut waiting = Vec::new();
        for name in names {
            let object = apply::get(client, name).await?;
            let reason = match object.map(serde_json::to_value) {
                Some(Ok(mut object)) => {
                    // An object that is read alone does not say its kind.
                    object["kind"] = Value::from(name.kind);
                    waits_for(&object)
                }
                _ => Some("it is not there".to_owned()),
            };
            if said.insert(name.to_string(), reason.clone()).is_none_or(|before| before != reason) {
                tell(format!("{name}: {}", reason.as_deref().unwrap_or("ready")));
            }
            waiting.extend(reason.map(|reason| (name, reason)));
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            let mut text = format!("not ready after {} s:", patience.as_secs());
            for (name, reason) in waiting {
                text.push_str(&format!("\n  {name}: {reason}"));
                for reason in pods(client, name).await.unwrap_or_default() {
                    text.push_str(&format!("\n    {reason}"));
                }
            }
            return Err(Error::NotReady(text));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Why the pods of a part are not ready, each in one line.
async fn pods(client: &Client, name: &Name) -> Result<Vec<String>> {
    let Some(namespace) = &name.namespace else { return Ok(Vec::new()) };
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let listed = api.list(&ListParams::default().labels(&format!("app.kubernetes.io/name={}", name.name))).await;
    let pods = listed.map_err(|error| failed("listing pods", error))?.items;
    let mut told: Vec<String> = pods.iter().filter_map(stuck).collect();
    if pods.is_empty() {
        told.push(format!("it has no pods: `kubectl -n {namespace} get events` says why they are not made"));
    }
    Ok(told)
}

/// What a pod that is not ready waits for, as far as its status says.
pub(crate) fn stuck(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    if conditions.clone().any(|condition| condition.type_ == "Ready" && condition.status == "True") {
        return None;
    }
    let containers = status.container_statuses.iter().flatten();
    let waiting = containers.clone().filter_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        Some(format!("{} waits: {} {}", container.name, text(&waiting.reason), text(&waiting.message)))
    });
    let unready =
        containers.clone().filter(|container| !container.ready).map(|container| format!("{} is not ready", container.name));
    let unscheduled = conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let reason = unscheduled.filter_map(|condition| condition.message.clone()).chain(waiting).chain(unready).next();
    Some(format!("pod {name}: {}", reason.unwrap_or_else(|| status.phase.clone().unwrap_or_default()).trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_part_is_ready_when_all_of_it_is_new_and_ready_and_nothing_old_is_left() {
        let deployment = |seen: i64, updated: i64, ready: i64, all: i64| {
            waits_for(&json!({
                "kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2},
                "status": {"observedGeneration": seen, "updatedReplicas": updated, "readyReplicas": ready, "replicas": all},
            }))
        };
        assert_eq!(deployment(2, 2, 2, 2), None);
        assert_eq!(deployment(1, 2, 2, 2).unwrap(), "not yet seen by its controller");
        assert_eq!(deployment(2, 1, 2, 3).unwrap(), "1 of 2 replicas have the new version");
        assert_eq!(deployment(2, 2, 1, 3).unwrap(), "1 of 2 replicas are ready");
        assert_eq!(deployment(2, 2, 3, 3).unwrap(), "1 of the old version still to end");
        let daemons = |updated: i64, ready: i64| {
            waits_for(&json!({
                "kind": "DaemonSet", "metadata": {"generation": 1},
                "status": {"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated, "numberReady": ready},
            }))
        };
        assert_eq!(daemons(3, 3), None);
        assert_eq!(daemons(3, 2).unwrap(), "2 of 3 nodes are ready");
        assert_eq!(
            waits_for(&json!({"kind": "DaemonSet", "metadata": {"generation": 1}})).unwrap(),
            "not yet seen by its controller"
        );
    }
}
