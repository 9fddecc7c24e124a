//! Waiting for a waypoint, with a line for each thing that is missing.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::time::{Instant, sleep};

use super::cluster::Cluster;
use super::gateway::{Progress, progress};
use crate::error::{Error, Result};

/// How often the API server is asked.
const POLL: Duration = Duration::from_millis(500);

/// Waits until a waypoint can be used.
pub async fn until_ready(cluster: &Cluster, name: &str, timeout: Duration) -> Result<()> {
    let (start, mut told) = (Instant::now(), String::new());
    let label = format!("{}/{name}", cluster.namespace);
    loop {
        let missing = match progress(&cluster.gateway(name).await?) {
            Progress::Ready => {
                eprintln!("waypoint {label} is ready after {:.1} s", start.elapsed().as_secs_f32());
                return Ok(());
            }
            Progress::Stuck(why) => {
                return Err(Error::NotReady(format!("waypoint {label} will not become ready by itself: {why}")));
            }
            Progress::Waiting(why) => {
                let pods: Vec<String> = cluster.pods(name).await?.iter().filter_map(trouble).collect();
                if pods.is_empty() { why } else { format!("{why} ({})", pods.join("; ")) }
            }
        };
        if start.elapsed() >= timeout {
            let more = format!("`kubectl describe deployment {name} -n {}` tells more", cluster.namespace);
            return Err(Error::NotReady(format!(
                "waypoint {label} is not ready after {} s: {missing}; {more}",
                timeout.as_secs()
            )));
        }
        if told != missing {
            eprintln!("{:5.1} s  {label}: {missing}", start.elapsed().as_secs_f32());
            told = missing;
        }
        sleep(POLL).await;
    }
}

/// Waits until a Gateway is gone.
pub async fn until_gone(cluster: &Cluster, name: &str, timeout: Duration) -> Result<()> {
    let (start, label) = (Instant::now(), format!("{}/{name}", cluster.namespace));
    loop {
        let gateway = cluster.gateways().get_opt(name).await.map_err(|error| super::cluster::failed("get gateways", &error))?;
        let pods = cluster.pods(name).await?.len();
        if gateway.is_none() && pods == 0 {
            eprintln!("waypoint {label} is gone after {:.1} s", start.elapsed().as_secs_f32());
            return Ok(());
        }
        if start.elapsed() >= timeout {
            let left = if gateway.is_some() { "its Gateway".into() } else { format!("{pods} pods") };
            let message = format!("waypoint {label} is not gone after {} s: {left} remain", timeout.as_secs());
            return Err(Error::NotReady(format!("{message}; is the cluster's controller-manager running?")));
        }
        sleep(POLL).await;
    }
}

/// Why a pod does not run, in the words of its node or of the scheduler.
pub fn trouble(pod: &Pod) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = pod.status.as_ref()?;
    let of_container = status.container_statuses.iter().flatten().find_map(|container| {
        let state = container.state.as_ref()?;
        let waiting = state.waiting.as_ref().filter(|waiting| waiting.reason.as_deref() != Some("ContainerCreating"))?;
        Some((waiting.reason.clone()?, waiting.message.clone()))
    });
    let unscheduled = || {
        let condition = status.conditions.iter().flatten().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
        Some((condition.reason.clone()?, condition.message.clone()))
    };
    let (reason, message) = of_container.or_else(unscheduled)?;
    Some(match message {
        Some(message) => format!("pod {name}: {reason}: {message}"),
        None => format!("pod {name}: {reason}"),
    })
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
