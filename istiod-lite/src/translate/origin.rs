//! What a pod belongs to: the workload that made it, and the canonical service it is counted under.

use ambit_api::workload::WorkloadType;

use crate::source::Pod;

/// Name and kind of what made a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) name: String,
    pub(super) kind: WorkloadType,
    pub(super) canonical_name: String,
    pub(super) canonical_revision: String,
}

impl Origin {
    /// From the pod's controlling owner and its labels.
    pub(super) fn of(pod: &Pod) -> Self {
        let (name, kind) = workload_of(pod);
        let labels = pod.metadata.labels.as_ref();
        let first = |keys: [&str; 3]| {
            keys.into_iter().find_map(|key| labels.and_then(|labels| labels.get(key)).filter(|value| !value.is_empty())).cloned()
        };
        let canonical_name = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let canonical_revision = first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Self {
            canonical_name: canonical_name.unwrap_or_else(|| name.clone()),
            canonical_revision: canonical_revision.unwrap_or_else(|| "latest".to_owned()),
            name,
            kind,
        }
    }
}

fn workload_of(pod: &Pod) -> (String, WorkloadType) {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
        return (pod.metadata.name.clone().unwrap_or_default(), WorkloadType::Pod);
    };
    match owner.kind.as_str() {
        // A ReplicaSet of a Deployment is named `<deployment>-<pod-template-hash>`.
        "ReplicaSet" => {
            let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
            let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
            match deployment {
                Some(deployment) => (deployment.to_owned(), WorkloadType::Deployment),
                None => (owner.name.clone(), WorkloadType::Pod),
            }
        }
        "Deployment" => (owner.name.clone(), WorkloadType::Deployment),
        // A Job of a CronJob is named `<cronjob>-<minutes since the epoch>`.
        "Job" => match owner.name.rsplit_once('-') {
            Some((cron_job, time)) if time.len() >= 8 && time.bytes().all(|byte| byte.is_ascii_digit()) => {
                (cron_job.to_owned(), WorkloadType::Cronjob)
            }
            _ => (owner.name.clone(), WorkloadType::Job),
        },
        "CronJob" => (owner.name.clone(), WorkloadType::Cronjob),
        // The wire knows no other kinds; a StatefulSet's pods go under its name.
        _ => (owner.name.clone(), WorkloadType::Pod),
    }
}
