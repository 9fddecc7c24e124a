//! Measures what the mesh costs, beside no mesh and beside Envoy, on local nodes and in one run.
//!
//! | module | purpose |
//! |---|---|
//! | [`quick`], [`node`], [`waypoint`] | the runs; [`session`] is what they have in common |
//! | [`paths`], [`rig`], [`manifests`], [`envoy`] | what is compared, and how it is started |
//! | [`load`], [`serve`] | client and server, as they run in pods; [`load_check`] holds them against others |
//! | [`mod@bench`], [`process`] | one sample of load, and what the proxies used for it |
//! | [`control`], [`fairness`], [`growth`], [`routes`], [`storm`], [`start`], [`scale`], [`synthetic`], [`probe`] | what is not one load on one path |
//! | [`figure`], [`goals`], [`results`], [`stats`] | what is measured, what is to be reached, and the samples |
//! | [`document`], [`table`], [`markdown`], [`html`] | the run as a file, for a terminal, for the documentation, as a page; [`report`] tells a saved one, [`compare`] tells two apart, [`versus`] two programs |

#![forbid(unsafe_code)]

pub mod bench;
pub mod compare;
pub mod control;
pub mod document;
pub mod envoy;
pub mod fairness;
pub mod figure;
pub mod goals;
pub mod growth;
pub mod html;
pub mod load;
pub mod load_check;
pub mod manifests;
pub mod markdown;
pub mod node;
pub mod paths;
pub mod probe;
pub mod process;
pub mod quick;
pub mod report;
pub mod results;
pub mod rig;
pub mod routes;
pub mod scale;
pub mod serve;
pub mod session;
pub mod start;
pub mod stats;
pub mod storm;
pub mod synthetic;
pub mod table;
pub mod versus;
pub mod waypoint;
