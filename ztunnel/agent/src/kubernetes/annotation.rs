//! The annotation by which others know that a pod is captured: `pending` until a proxy has it, then `enabled` as long as it is in the mesh.

use std::{collections::BTreeSet, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    Kubernetes,
    pauses::Pauses,
    store::{Annotated, REDIRECTION},
    write::attempt,
};
use crate::{
    node::Node,
    status::{PodStatus, Statuses},
};

const ENABLED: &str = "enabled";
const PENDING: &str = "pending";

/// Annotations that are written at once.
const AT_ONCE: usize = 4;
/// What changes within this time is written together.
const APART: Duration = Duration::from_millis(50);

/// What the annotation of a pod is to be, from what it is, whether the pod is wanted in the mesh, and what is said of its capture.
///
/// Once `enabled` it stays: while a proxy is replaced the rules go on, and peers that were told that the pod takes no tunnels any more would
/// speak to it in clear. It goes with the rules, when the pod has left the mesh.
///
/// `alien` is a pod of an excluded namespace that was never captured here: another program may capture it, and say so.
fn decide(now: Option<&str>, wanted: Option<bool>, status: Option<&PodStatus>, alien: bool) -> Option<String> {
    let now = now.map(str::to_owned);
    match (status, wanted) {
        (None, _) if alien => now,
        (Some(status), _) if status.is_captured() => Some(ENABLED.to_owned()),
        // Nobody captures it yet: what an agent before had said is as it was.
        (_, None) | (None, Some(true)) => now,
        (Some(_), Some(_)) => now.filter(|now| now == ENABLED).or_else(|| Some(PENDING.to_owned())),
        (None, Some(false)) => None,
    }
}

/// What is written on a pod; its UID in it makes the API server refuse another pod of the same name.
fn patch(uid: &str, value: Option<&str>) -> Value {
    json!({ "metadata": { "uid": uid, "annotations": { REDIRECTION: value } } })
}

/// The pods whose annotation is to be another one, by UID, and what it is to be. Of those that are `ours` something was said since the agent
/// runs.
fn due(node: &Node, pods: &[Annotated], said: &Statuses, ours: &BTreeSet<String>) -> Vec<(String, Option<String>)> {
    let of = |pod: &Annotated| {
        let uid = &pod.facts.uid;
        let alien = node.excludes(&pod.facts) && !ours.contains(uid);
        let value = decide(pod.redirection.as_deref(), node.wanted(&pod.facts), said.get(uid), alien);
        (value != pod.redirection).then(|| (uid.clone(), value))
    };
    pods.iter().filter_map(of).collect()
}

/// Keeps the annotations of the node's pods as they are to be, for ever. Written is only what is different.
pub(super) async fn follow(source: &Kubernetes, node: &Node) {
    let (mut changed, mut statuses) = (source.changed.subscribe(), node.agent().statuses());
    let (mut pauses, mut ours) = (Pauses::new(), BTreeSet::<String>::new());
    loop {
        changed.mark_unchanged();
        let said = statuses.borrow_and_update().clone();
        ours.extend(said.keys().cloned());
        let pods = source.state().annotated().ok();
        if let Some(pods) = &pods {
            ours.retain(|uid| said.contains_key(uid) || pods.iter().any(|pod| pod.facts.uid == *uid));
        }
        let due = due(node, pods.as_deref().unwrap_or_default(), &said, &ours);
        let written = stream::iter(due).map(async |(uid, _)| settle(source, node, &ours, &uid).await);
        let well = written.buffer_unordered(AT_ONCE).fold(true, async |well, one| well && one).await;
        tokio::select! {
            () = pauses.again(well) => {}
            Ok(()) = changed.changed() => {}
            Ok(()) = statuses.changed() => {}
        }
        tokio::time::sleep(APART).await;
    }
}

/// Writes what the annotation of a pod is to be by now: others may have taken their time since it was found to be due. Whether that is
/// settled.
async fn settle(source: &Kubernetes, node: &Node, ours: &BTreeSet<String>, uid: &str) -> bool {
    let Some(pod) = source.state().one(uid) else { return true };
    let due = due(node, std::slice::from_ref(&pod), &node.agent().statuses().borrow(), ours);
    match due.into_iter().next() {
        Some((_, value)) => write(source, &pod, value.as_deref()).await,
        None => true,
    }
}

/// Writes the annotation of a pod; whether that is settled.
async fn write(source: &Kubernetes, pod: &Annotated, value: Option<&str>) -> bool {
    let facts = &pod.facts;
    let api = Api::<Pod>::namespaced(source.client.clone(), &facts.namespace);
    let (options, patch) = (PatchParams::default(), Patch::Merge(patch(&facts.uid, value)));
    // Of the status: the right to write that is narrower than the right to change a pod.
    let Err(failure) = attempt(api.patch_status(&facts.name, &options, &patch)).await else {
        source.state().annotate(&facts.uid, value);
        return true;
    };
    // It is gone, or another pod has its name, as the watch tells before long. Any other refusal may be over the next time, whatever its
    // code is.
    if source.state().one(&facts.uid).is_none() {
        return true;
    }
    failure.count("annotation");
    let (namespace, name) = (&facts.namespace, &facts.name);
    tracing::warn!(namespace, name, error = failure.why, "the annotation {REDIRECTION} of a pod is not written");
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::State;

    fn status(state: State) -> PodStatus {
        PodStatus {
            uid: "u".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            service_account: "web".to_owned(),
            netns: 1,
            state,
            reason: String::new(),
            repairs: 0,
        }
    }

    #[test]
    fn a_pod_is_enabled_when_a_proxy_has_it_and_stays_so_until_it_has_left_the_mesh() {
        let check = |now, wanted, state: Option<State>, expected: Option<&str>| {
            let found = decide(now, wanted, state.map(status).as_ref(), false);
            assert_eq!(found.as_deref(), expected, "{now:?} {wanted:?} {state:?}");
        };
        let mesh = Some(true);
        check(None, mesh, Some(State::Pending), Some("pending"));
        check(Some("pending"), mesh, Some(State::Captured), Some("enabled"));
        for state in [State::Pending, State::CutOff, State::Exposed, State::Repaired] {
            check(Some("enabled"), mesh, Some(state), Some("enabled"));
        }
        for state in [State::CutOff, State::Exposed] {
            check(None, mesh, Some(state), Some("pending"));
        }
        // The agent is back, and has not seen to it yet; or nobody has started it yet.
        check(Some("enabled"), mesh, None, Some("enabled"));
        check(None, mesh, None, None);
        // Its label went: it is enabled until it is let go.
        check(Some("enabled"), Some(false), Some(State::Captured), Some("enabled"));
        check(Some("enabled"), Some(false), None, None);
        check(None, Some(false), None, None);
        // Its namespace is not known.
        check(Some("enabled"), None, None, Some("enabled"));
        check(None, None, Some(State::Captured), Some("enabled"));
    }

    #[test]
    fn what_others_say_of_their_pods_stays_and_what_we_said_goes_when_a_namespace_is_excluded() {
        let excluded = Some(false);
        assert_eq!(decide(Some("enabled"), excluded, None, true).as_deref(), Some("enabled"));
        assert_eq!(decide(None, excluded, None, true), None);
        // It was ours when the agent began with the new list.
        assert_eq!(decide(Some("enabled"), excluded, Some(&status(State::Captured)), false).as_deref(), Some("enabled"));
        assert_eq!(decide(Some("enabled"), excluded, None, false), None);
    }

    #[test]
    fn what_is_written_names_the_pod_by_its_uid_and_takes_away_what_is_not_to_be() {
        assert_eq!(
            patch("u", None).to_string(),
            r#"{"metadata":{"uid":"u","annotations":{"ambient.istio.io/redirection":null}}}"#
        );
    }
}
