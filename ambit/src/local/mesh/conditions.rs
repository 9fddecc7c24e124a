//! What the control plane made of the user's objects: the conditions that a cluster would show on each.

use serde::Deserialize;
use serde_json::Value;

use super::LocalMesh;
use crate::error::{Error, Result};
use crate::local::probe;
use crate::local::programs::MONITORING;

#[derive(Deserialize)]
struct Status {
    object: String,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    status: String,
    reason: String,
    message: String,
}

impl LocalMesh {
    /// The conditions of all objects: the control plane's `/debug/status` page.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn status(&self) -> Result<Value> {
        let place = self.bed.control_plane().await.map_err(|error| Error::part("finding the control plane", error))?;
        let (_, body) = probe::get(place.netns(), MONITORING, "/debug/status").await?;
        serde_json::from_str(&body).map_err(|error| Error::part("reading the control plane's status", error))
    }

    /// A sentence for each condition that does not hold, such as that of a policy whose target does not exist. Nothing while the
    /// control plane does not answer.
    pub async fn unmet(&self) -> Vec<String> {
        match self.status().await {
            Ok(page) => sentences(page),
            Err(_) => Vec::new(),
        }
    }
}

fn sentences(page: Value) -> Vec<String> {
    let all: Vec<Status> = serde_json::from_value(page).unwrap_or_default();
    let unmet = all.iter().flat_map(|status| {
        let conditions = status.conditions.iter().filter(|condition| condition.status == "False");
        conditions.map(|condition| format!("{}: {} ({})", status.object, condition.message, condition.reason))
    });
    unmet.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_that_does_not_hold_is_a_sentence() {
        let page = serde_json::json!([
            {"object": "Gateway shop/gate", "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "fine"}]},
            {"object": "AuthorizationPolicy shop/p", "conditions": [
                {"type": "WaypointAccepted", "status": "False", "reason": "TargetNotFound", "message": "Service shop/gone does not exist"}
            ]},
        ]);
        assert_eq!(sentences(page), ["AuthorizationPolicy shop/p: Service shop/gone does not exist (TargetNotFound)"]);
        assert!(sentences(Value::Null).is_empty());
    }
}
