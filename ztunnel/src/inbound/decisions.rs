//! Decisions that hold until something changes: a client that connects again is let in without asking every policy again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ambit_model::{
    Refusal,
    authorize::{Allowed, Connection},
    workload::Workload,
};

/// Clients of one pod that are remembered; when there are more, all are forgotten.
const REMEMBERED: usize = 256;

/// Who is allowed to a pod, in one version of the state.
#[derive(Debug, Default)]
pub struct Decisions(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    version: u64,
    allowed: HashMap<Connection, Decided>,
}

/// A connection that may pass, and what is known of its client.
#[derive(Debug, Clone)]
pub(super) struct Decided {
    pub(super) allowed: Allowed,
    pub(super) source: Option<Arc<Workload>>,
}

impl Decisions {
    /// What holds for `connection` in this version of the state, by `decide` if it is not remembered. Refusals are decided each time.
    ///
    /// # Errors
    /// As `decide`.
    pub(super) fn get(
        &self,
        version: u64,
        connection: &Connection,
        decide: impl FnOnce() -> Result<Decided, Refusal>,
    ) -> Result<Decided, Refusal> {
        if let Some(decided) = self.held(version).and_then(|held| held.allowed.get(connection).cloned()) {
            return Ok(decided);
        }
        // Without the lock: a client that is refused again and again must not keep the others waiting.
        let decided = decide()?;
        if let Some(mut held) = self.held(version) {
            if held.allowed.len() >= REMEMBERED {
                held.allowed.clear();
            }
            held.allowed.insert(connection.clone(), decided.clone());
        }
        Ok(decided)
    }

    /// What is held for this version of the state; nothing when a later one is held already.
    fn held(&self, version: u64) -> Option<MutexGuard<'_, Held>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.version < version {
            // Its room is kept: versions follow each other fast when the mesh is large.
            held.allowed.clear();
            held.version = version;
        }
        (held.version == version).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use ambit_model::Reason;

    use super::*;

    fn from(ip: &str) -> Connection {
        let source = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
        Connection { source: Some(source), source_ip: ip.parse().unwrap(), destination: "10.0.0.2:80".parse().unwrap() }
    }

    #[test]
    fn a_decision_keeps_no_other_client_waiting_and_is_not_remembered_for_a_later_version() {
        let decisions = Decisions::default();
        let meanwhile = || {
            decisions.get(1, &from("10.0.0.9"), allow).unwrap();
            decisions.get(2, &from("10.0.0.9"), allow).unwrap();
            allow()
        };
        decisions.get(1, &from("10.0.0.1"), meanwhile).unwrap();
        let refuse = || Err(Refusal::new(Reason::PolicyDeniedExplicit, ""));
        decisions.get(2, &from("10.0.0.1"), refuse).unwrap_err();
    }

    fn allow() -> Result<Decided, Refusal> {
        Ok(Decided { allowed: Allowed::default(), source: None })
    }

    #[test]
    fn who_is_allowed_is_asked_once_for_each_version_and_client_and_who_is_refused_each_time() {
        let decisions = Decisions::default();
        let again = || -> Result<Decided, Refusal> { panic!("it is decided") };
        let refuse = || Err(Refusal::new(Reason::PolicyDeniedExplicit, ""));
        decisions.get(1, &from("10.0.0.1"), allow).unwrap();
        decisions.get(1, &from("10.0.0.1"), again).unwrap();
        decisions.get(1, &from("10.0.0.9"), refuse).unwrap_err();
        decisions.get(1, &from("10.0.0.9"), allow).unwrap();
        decisions.get(2, &from("10.0.0.1"), refuse).unwrap_err();
        decisions.get(2, &from("10.0.0.9"), allow).unwrap();
        for client in 0..1000 {
            decisions.get(2, &from(&format!("10.1.{}.{}", client / 250, client % 250)), allow).unwrap();
        }
        assert!(decisions.0.lock().unwrap().allowed.len() <= REMEMBERED);
    }
}
