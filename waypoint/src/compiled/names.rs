//! What a workload is called where it is logged and counted.

use std::{ops::Deref, sync::Arc};

use serde::Serialize;

/// The names of a workload. It stands for its own, that of the pod; cloning shares them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WorkloadNames(Arc<Names>);

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Names {
    name: String,
    workload_name: String,
    canonical_name: String,
}

impl WorkloadNames {
    /// A workload `name` that `workload_name` made and that is counted under `canonical_name`.
    #[must_use]
    pub fn new(name: &str, workload_name: &str, canonical_name: &str) -> Self {
        let [name, workload_name, canonical_name] = [name, workload_name, canonical_name].map(str::to_owned);
        Self(Arc::new(Names { name, workload_name, canonical_name }))
    }

    /// What made it, such as its Deployment: what its pods have in common.
    #[must_use]
    pub fn workload_name(&self) -> &str {
        &self.0.workload_name
    }

    /// The service it is counted under.
    #[must_use]
    pub fn canonical_name(&self) -> &str {
        &self.0.canonical_name
    }
}

impl From<&str> for WorkloadNames {
    /// One that nothing made.
    fn from(name: &str) -> Self {
        Self::new(name, name, name)
    }
}

impl Deref for WorkloadNames {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0.name
    }
}
