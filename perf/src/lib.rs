//! Measures what the mesh costs, beside no mesh and beside Envoy, on local nodes and in one run.

#![forbid(unsafe_code)]

pub mod envoy;
pub mod figure;
pub mod load;
pub mod manifests;
pub mod paths;
pub mod process;
pub mod quick;
pub mod report;
pub mod serve;
pub mod stats;
