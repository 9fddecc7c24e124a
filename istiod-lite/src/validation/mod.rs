//! The validating webhook: what would be ignored, or do harm, is refused before it is stored, with the fix in the message.
//!
//! Every replica answers, by a function of the object alone, and of whose the Gateways are that are its parents; `ambit check FILE` says the same
//! without a cluster. It helps those
//! who write objects and is no boundary: while nobody answers, objects pass (`failurePolicy: Ignore`), and what the control plane makes of
//! them is as safe as ever. Rules: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.
//!
//! | module | purpose |
//! |---|---|
//! | `judge` | what is wrong with one object |
//! | `labels` | what is wrong with its labels |
//! | `review` | a review that the API server sends, and the answer |
//! | `worse` | what a change makes worse, which alone is refused |
//! | `serve` | HTTPS |
//! | `lines` | how much of it is logged |
//! | `bundle` | the roots by which the API server knows us, kept right by the leader |

mod bundle;
mod judge;
mod labels;
mod lines;
mod review;
mod serve;
mod worse;

pub use bundle::CONFIGURATION;
pub(crate) use bundle::keep;
pub(crate) use judge::{AtEdge, Findings, beyond, concerns};
pub use serve::PATH;
pub(crate) use serve::serve;
