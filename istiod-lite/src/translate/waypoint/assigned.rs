//! The endpoints of a cluster as they are sent.

use std::sync::Arc;

use super::endpoint::Made;
use super::wire::{Any, any_as};

/// The type of the endpoints.
const ASSIGNMENT: &str = "envoy.config.endpoint.v3.ClusterLoadAssignment";

/// The endpoints of a cluster.
#[derive(Debug)]
pub struct Assigned {
    /// What the cluster is called.
    pub cluster: String,
    /// As a waypoint has them of which it is not known where it runs, and where no service asks for it.
    pub everywhere: Any,
    /// As they are instead at some places, by what the place is called.
    pub placed: Vec<(Arc<str>, Any)>,
}

impl Assigned {
    pub(super) fn of(made: &Made) -> Self {
        let placed = made.placed.iter().map(|(place, made)| (Arc::clone(place), any_as(ASSIGNMENT, made)));
        Self {
            cluster: made.everywhere.cluster_name.clone(),
            everywhere: any_as(ASSIGNMENT, &made.everywhere),
            placed: placed.collect(),
        }
    }
}
