//! Whether the mesh is still installed: what the API server says of the DaemonSet that this process is a pod of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use kube::{
    Api,
    api::{DynamicObject, WatchEvent, WatchParams},
    core::Status,
};
use tokio::time::{Instant, sleep, timeout};

use crate::install::kinds::Known;

/// Pause before the API server is asked again after it refused.
const AGAIN: Duration = Duration::from_millis(500);
/// Pause before it is watched again.
const WATCH_AGAIN: Duration = Duration::from_secs(5);
/// How long it may take to answer; less than the pod's time to end.
const ANSWER: Duration = Duration::from_secs(15);
/// For so long it has to refuse until that counts as an answer: a server that has just started does not know its roles yet.
const REFUSED: Duration = Duration::from_secs(6);

/// The DaemonSet.
#[derive(Debug)]
pub struct DaemonSet<'a> {
    name: &'a str,
    namespace: &'a str,
    /// Whether it was seen to go.
    gone: AtomicBool,
}

/// What an error of the API server means for the DaemonSet that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// There is none of that name.
    Gone,
    /// The rights to ask are gone, which are made with it; or they are not known yet.
    Refused,
    /// Nothing.
    Nothing,
}

impl<'a> DaemonSet<'a> {
    /// The DaemonSet of this name.
    #[must_use]
    pub fn new(name: &'a str, namespace: &'a str) -> Self {
        Self { name, namespace, gone: AtomicBool::new(false) }
    }

    /// Watches it, for ever. Once it is taken out of the cluster, its service account may be, too, before this process is told to end:
    /// then nobody answers any more.
    pub async fn follow(&self) {
        loop {
            if let Err(error) = self.watch().await {
                tracing::debug!(error, "the DaemonSet is not watched; trying again");
            }
            sleep(WATCH_AGAIN).await;
        }
    }

    async fn watch(&self) -> Result<(), String> {
        // With bookmarks a watch that begins anywhere wants more of etcd than all versions of it have (`RequestWatchProgress`).
        let how = WatchParams::default().fields(&format!("metadata.name={}", self.name)).disable_bookmarks();
        let api = self.api().await?;
        let events = api.watch_metadata(&how, "0").await.map_err(|error| error.to_string())?;
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.try_next().await.map_err(|error| error.to_string())? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.gone.store(object.metadata.deletion_timestamp.is_some(), Ordering::Relaxed);
                }
                WatchEvent::Deleted(_) => self.gone.store(true, Ordering::Relaxed),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) => return Err(status.message),
            }
        }
        Ok(())
    }

    /// Whether the mesh is taken out of the cluster: its DaemonSet is gone or going, or the rights to ask are gone, as they are made with it.
    /// When nobody answers, or something else is wrong, it is not: without the plugin pods would start in clear.
    pub async fn uninstalled(&self) -> bool {
        if self.gone.load(Ordering::Relaxed) {
            return true;
        }
        match timeout(ANSWER, self.ask()).await {
            Ok(Ok(uninstalled)) => uninstalled,
            Ok(Err(error)) => {
                tracing::warn!(error, "the API server does not say whether the mesh is still installed");
                false
            }
            Err(_) => {
                tracing::warn!("the API server does not say in time whether the mesh is still installed");
                false
            }
        }
    }

    async fn ask(&self) -> Result<bool, String> {
        let api = self.api().await?;
        let began = Instant::now();
        loop {
            let error = match api.get(self.name).await {
                Ok(object) => return Ok(object.metadata.deletion_timestamp.is_some()),
                Err(error) => error,
            };
            let meaning = match &error {
                kube::Error::Api(status) => means(status, self.name),
                _ => Means::Nothing,
            };
            match meaning {
                Means::Gone => return Ok(true),
                Means::Refused if began.elapsed() >= REFUSED => return Ok(true),
                Means::Refused => sleep(AGAIN).await,
                Means::Nothing => return Err(error.to_string()),
            }
        }
    }

    async fn api(&self) -> Result<Api<DynamicObject>, String> {
        let client = kube::Client::try_default().await.map_err(|error| error.to_string())?;
        let known = Known::named("DaemonSet").ok_or("DaemonSet is not a known kind")?;
        Ok(known.api(&client, Some(self.namespace)))
    }
}

/// A server that does not know who asks (401) has said nothing: the token of a pod that was deleted by force ends at once, in a mesh that stays.
fn means(status: &Status, name: &str) -> Means {
    match status.code {
        403 => Means::Refused,
        // Of this object, and not of a path that somebody in between does not know.
        404 if status.details.as_ref().is_some_and(|details| details.name == name) => Means::Gone,
        _ => Means::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_is_said_of_the_daemon_set_says_that_the_mesh_is_gone() {
        let said = |code: u16, name: &str| {
            let status = json!({"status": "Failure", "code": code, "message": "", "reason": "", "details": {"name": name, "kind": "daemonsets"}});
            means(&serde_json::from_value(status).unwrap(), "ambit-node")
        };
        assert_eq!(said(404, "ambit-node"), Means::Gone);
        assert_eq!(said(404, "another"), Means::Nothing);
        assert_eq!(said(403, "ambit-node"), Means::Refused);
        // As of a pod that was deleted by force.
        assert_eq!(said(401, "ambit-node"), Means::Nothing);
        assert_eq!(said(500, "ambit-node"), Means::Nothing);
    }
}
