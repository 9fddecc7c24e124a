//! The document that `ambit up --json` prints.

use std::time::Duration;

use serde::Serialize;

use super::shown::Shown;
use crate::error::{Error, Result};
use crate::local::edges::Edge;
use crate::local::{ProcessUse, Wire};

/// One run of a mesh.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// From the start of the program to everything being ready; the start of a cluster is part of it.
    pub ready_seconds: f64,
    /// How long it was observed after that.
    pub observed_seconds: f64,
    /// Nodes by name.
    pub nodes: Vec<String>,
    /// Pods.
    pub pods: Vec<PodReport>,
    /// Who talked to whom.
    pub edges: Vec<Edge>,
    /// Traffic between the nodes, the start included; nothing on a cluster whose wire nobody watches.
    pub wire: Option<Wire>,
    /// Waypoints, `namespace/name`.
    pub waypoints: Vec<String>,
    /// The mesh's programs and the pods'.
    pub processes: Vec<ProcessUse>,
    /// What is wrong with the directory, and what was left out.
    pub notices: Vec<String>,
}

/// One pod of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PodReport {
    /// `namespace/name`.
    pub name: String,
    /// Node.
    pub node: String,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Whether the mesh carries its traffic.
    pub enrolled: bool,
    /// Whether it serves.
    pub ready: bool,
}

impl Report {
    /// Takes stock of a mesh.
    pub(super) async fn of(mesh: &impl Shown, edges: Vec<Edge>, ready: Duration, observed: Duration) -> Self {
        let topology = mesh.topology();
        let pods = topology.pods.iter().map(|(name, facts)| PodReport {
            name: name.to_string(),
            node: facts.node.clone(),
            addresses: facts.addresses.iter().map(ToString::to_string).collect(),
            enrolled: facts.enrolled,
            ready: facts.ready,
        });
        Self {
            ready_seconds: round(ready),
            observed_seconds: round(observed),
            nodes: topology.nodes.clone(),
            pods: pods.collect(),
            edges,
            wire: mesh.wire().await,
            waypoints: topology.waypoints.iter().map(ToString::to_string).collect(),
            processes: mesh.usage().await,
            notices: mesh.notices().await,
        }
    }

    /// Prints it as one JSON document.
    pub(super) fn print(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| Error::part("writing the report", error))?;
        println!("{text}");
        Ok(())
    }
}

fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}
