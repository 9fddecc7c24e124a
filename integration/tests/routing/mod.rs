//! One suite for every waypoint: what is sent here gets the same answer from ours and from an unmodified Envoy.

mod access;
mod authorizer;
mod backends;
mod change;
mod edge;
mod filters;
mod limiter;
mod logs;
mod matches;
mod outcomes;
mod processor;
mod protocols;
mod requests;
mod sessions;
mod tokens;
mod traces;
mod traffic;
mod virtual_services;

use ambit_integration::SharedMesh;
use libtest_mimic::Trial;

/// The address of a service of the fixture, as its callers know it.
const ECHO: &str = "shop/echo";
/// The pod that calls.
const CLIENT: &str = "callers/client";
/// Another caller, with another identity and on the other node.
const OTHER: &str = "callers/other";

/// All tests, in an order in which those that change the mesh come last.
pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    [
        matches::tests(mesh),
        outcomes::tests(mesh),
        filters::tests(mesh),
        sessions::tests(mesh),
        protocols::tests(mesh),
        requests::tests(mesh),
        limiter::tests(mesh),
        access::tests(mesh),
        tokens::tests(mesh),
        traffic::tests(mesh),
        backends::tests(mesh),
        virtual_services::tests(mesh),
        authorizer::tests(mesh),
        processor::tests(mesh),
        logs::tests(mesh),
        traces::tests(mesh),
        edge::tests(mesh),
        change::tests(mesh),
    ]
    .into_iter()
    .flatten()
    .collect()
}
