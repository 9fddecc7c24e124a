//! What could hurt though nothing of it is wrong: retries of writes, retries on several layers, times that are over before what they are for.
//! A pure pass over all objects together; each warning names the field, what comes of it, and what to write instead.
//!
//! It says what the mesh does, so some that looks like several layers is none: routes are not merged, the route of a client's namespace holds in the
//! place of the Service's own (GEP-1294), and neither a waypoint nor a Gateway of the mesh goes on through the waypoint of another Service.
//! Who calls whom is not in YAML, but for a route of the client's namespace, which says that its pods do.
//!
//! | module | purpose |
//! |---|---|
//! | `rule` | rules of HTTPRoutes and VirtualServices as one form |
//! | `scene` | all routes, and whose requests they are for |
//! | `policies` | which RequestPolicy has the writes of a rule sent again |
//! | `writes` | retries of writes, and those that do less for writes than they say |
//! | `times` | a rule's time and those of its tries |
//! | `layers` | one route below another |

mod layers;
mod policies;
mod rule;
mod scene;
#[cfg(test)]
mod tests;
mod times;
mod writes;

use std::collections::HashSet;

use crate::source::{FieldError, Object};
use crate::validation::AtEdge;
use scene::Scene;

/// The warnings, each with the position of its object.
pub(super) fn hazards(objects: &[Object], at_edge: AtEdge<'_>) -> Vec<(usize, FieldError)> {
    let scene = Scene::of(objects, at_edge);
    let mut found = Vec::new();
    for route in scene.routes.iter().filter(|route| route.ours) {
        for rule in &route.rules {
            let warnings = [writes::sent_again(&scene, rule), times::within(rule)];
            found.extend(warnings.into_iter().flatten().map(|warning| (route.at, warning)));
        }
    }
    found.extend(layers::through_gateways(&scene));
    found.extend(layers::of_clients(&scene));
    // Of two ports of a Service the same may be said.
    let mut said = HashSet::new();
    found.retain(|one| said.insert(one.clone()));
    found
}
