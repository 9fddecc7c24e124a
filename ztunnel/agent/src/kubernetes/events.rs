//! What is said on a pod, as a Kubernetes event, when its traffic is refused: the reason, and what helps.
//!
//! A pod that cannot be captured when it starts does not start; that is said by the kubelet, with the words of the CNI plugin.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::{sync::watch, time::Instant};

use super::{Kubernetes, pauses::Pauses, write::attempt};
use crate::status::{PodStatus, State, Statuses};

/// Who says it.
const REPORTER: &str = "ambit-node-agent";
/// How long a pod may be without a proxy before it is said: one is replaced by another within seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at those that wait.
const LOOK: Duration = Duration::from_secs(5);
/// What is said of a pod is at least so long after what was said before, but for what is bad and new.
const APART: Duration = Duration::from_secs(30);
/// The longest note that the API server takes, and of it what the agent found, in bytes: what helps comes after that.
const LONGEST: usize = 1024;
const WHY: usize = 400;
/// What the events say was done.
const ACTION: &str = "Capture";

/// What is said of a pod: the reason code of the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing leaves it.
    CutOff,
    /// It may be in clear.
    Exposed,
    /// No proxy serves it.
    NoProxy,
    /// All is well again.
    Captured,
}

impl Said {
    /// The reason code.
    const fn reason(self) -> &'static str {
        match self {
            Self::CutOff => "CaptureCutOff",
            Self::Exposed => "CaptureExposed",
            Self::NoProxy => "CaptureWithoutProxy",
            Self::Captured => "Captured",
        }
    }

    /// Whether it must be said at once: the pod's traffic is in danger.
    const fn is_urgent(self) -> bool {
        matches!(self, Self::CutOff | Self::Exposed)
    }

    /// What is the matter and what helps; `why` is what the agent found.
    fn note(self, why: &str, node: &str) -> String {
        let outside = "To run the pod outside of the mesh label it istio.io/dataplane-mode=none.";
        match self {
            Self::CutOff => format!(
                "Nothing leaves the pod: its capture rules cannot be written ({why}). Something else may own or change the packet filter \
                 in the pod's network namespace (nft list ruleset shows it there), or the node agent lacks NET_ADMIN or SYS_ADMIN. The pod \
                 goes on by itself as soon as the rules can be written. {outside}"
            ),
            Self::Exposed => format!(
                "The pod may send in clear: its capture rules cannot be written, nor can it be cut off ({why}). Delete the pod, then look \
                 at the log of the node agent on {node}."
            ),
            Self::NoProxy => format!(
                "All connections of the pod are refused: {why}. See that the node proxy on {node} (DaemonSet ztunnel) runs and is ready. \
                 {outside}"
            ),
            Self::Captured => "The mesh carries the pod's traffic again.".to_owned(),
        }
    }
}

/// What was said of a pod and when, and since when it waits for a proxy.
#[derive(Debug, Default)]
struct Memory {
    said: Option<(Said, Instant)>,
    waits: Option<Instant>,
}

impl Memory {
    /// What is to be said now, if it is not what was said last.
    fn decide(&mut self, status: &PodStatus, now: Instant) -> Option<Said> {
        if status.state != State::Pending {
            self.waits = None;
        }
        let say = match status.state {
            State::CutOff => Said::CutOff,
            State::Exposed => Said::Exposed,
            State::Pending => {
                let since = *self.waits.get_or_insert(now);
                if now.duration_since(since) < PATIENCE {
                    return None;
                }
                Said::NoProxy
            }
            // Of what was never bad nothing is said.
            State::Captured | State::Repaired => {
                self.said?;
                Said::Captured
            }
        };
        match self.said {
            Some((said, _)) if said == say => None,
            Some((_, at)) if !say.is_urgent() && now.duration_since(at) < APART => None,
            _ => Some(say),
        }
    }

    /// It was said.
    fn note(&mut self, said: Said, now: Instant) {
        self.said = Some((said, now));
    }
}

/// Says what becomes of the pods, for ever.
pub(super) async fn follow(source: &Kubernetes, mut statuses: watch::Receiver<Statuses>) {
    let reporter = Reporter { controller: REPORTER.to_owned(), instance: Some(source.node.clone()) };
    let recorder = Recorder::new(source.client.clone(), reporter);
    let (mut memory, mut pauses) = (BTreeMap::<String, Memory>::new(), Pauses::new());
    loop {
        let uids: Vec<String> = statuses.borrow_and_update().keys().cloned().collect();
        memory.retain(|uid, _| uids.contains(uid));
        let mut well = true;
        for uid in uids {
            // As it is by now: others may have taken their time.
            let Some(status) = statuses.borrow().get(&uid).cloned() else { continue };
            let memory = memory.entry(uid).or_default();
            let Some(said) = memory.decide(&status, Instant::now()) else { continue };
            let Err(failure) = attempt(recorder.publish(&event(said, &status, &source.node), &reference(&status))).await else {
                memory.note(said, Instant::now());
                continue;
            };
            well = false;
            failure.count("event");
            let (namespace, pod, reason) = (&status.namespace, &status.name, said.reason());
            tracing::warn!(namespace, pod, reason, error = failure.why, "the event of a pod is not written");
            if failure.late {
                break;
            }
        }
        tokio::select! {
            () = pauses.again(well) => {}
            changed = tokio::time::timeout(LOOK, statuses.changed()), if well => {
                if let Ok(Err(_)) = changed {
                    return;
                }
            }
        }
    }
}

fn event(said: Said, status: &PodStatus, node: &str) -> Event {
    let why = status.reason.get(..status.reason.floor_char_boundary(WHY)).unwrap_or_default();
    let mut note = said.note(why, node);
    note.truncate(note.floor_char_boundary(LONGEST));
    let type_ = if said == Said::Captured { EventType::Normal } else { EventType::Warning };
    Event { type_, reason: said.reason().to_owned(), note: Some(note), action: ACTION.to_owned(), secondary: None }
}

fn reference(status: &PodStatus) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(status.namespace.clone()),
        name: Some(status.name.clone()),
        uid: Some(status.uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: State, reason: &str) -> PodStatus {
        PodStatus {
            uid: "u".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            service_account: "web".to_owned(),
            netns: 1,
            state,
            reason: reason.to_owned(),
            repairs: 0,
        }
    }

    #[test]
    fn what_is_wrong_is_said_once_and_that_it_is_over_only_after_it_was() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        let mut decide = |state, seconds| {
            let at = now + Duration::from_secs(seconds);
            let said = memory.decide(&status(state, ""), at);
            said.inspect(|said| memory.note(*said, at))
        };
        assert_eq!(decide(State::Captured, 0), None);
        // A proxy is replaced by another.
        assert_eq!(decide(State::Pending, 1), None);
        assert_eq!(decide(State::Captured, 20), None);
        assert_eq!(decide(State::Pending, 25), None);
        assert_eq!(decide(State::Pending, 54), None);
        assert_eq!(decide(State::Pending, 55), Some(Said::NoProxy));
        assert_eq!(decide(State::Pending, 60), None);
        // What is bad is said at once, that it is over only when it is for a while.
        assert_eq!(decide(State::CutOff, 61), Some(Said::CutOff));
        assert_eq!(decide(State::Repaired, 62), None);
        assert_eq!(decide(State::CutOff, 63), None);
        assert_eq!(decide(State::Repaired, 91), Some(Said::Captured));
        assert_eq!(decide(State::Captured, 92), None);
        assert_eq!(decide(State::Exposed, 93), Some(Said::Exposed));
    }

    #[test]
    fn what_could_not_be_written_is_tried_again() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for _ in 0..2 {
            assert_eq!(memory.decide(&status(State::CutOff, ""), now), Some(Said::CutOff));
        }
        memory.note(Said::CutOff, now);
        assert_eq!(memory.decide(&status(State::CutOff, ""), now), None);
    }

    #[test]
    fn a_note_names_the_reason_and_the_fix_and_is_as_long_as_the_api_server_takes() {
        for said in [Said::CutOff, Said::Exposed, Said::NoProxy] {
            let event = event(said, &status(State::CutOff, &"ä".repeat(4000)), "node-1");
            let note = event.note.unwrap();
            assert!(note.len() < LONGEST && note.contains("ääää") && note.ends_with('.'), "{note}");
        }
        let short = Said::NoProxy.note("no node proxy is connected", "node-1");
        assert!(
            short.contains("no node proxy is connected") && short.contains("ztunnel") && short.contains("dataplane-mode=none")
        );
    }
}
