//! The certificate service, who may ask it for what, and the certificate of the discovery server itself.
//!
//! | module | purpose |
//! |---|---|
//! | `tokens` | the token of a request, and who verifies it: a key of ours, or the API server (`review`) |
//! | `rules` | for which identity a caller may have a certificate |
//! | `limits` | how often |
//! | `issuing` | the authority that signs now |
//! | `signing` | how many signatures at once |
//! | `service` | all of it, as a gRPC service |
//! | `refusals` | who was refused what, and why |
//! | `lines` | how much of that is logged |
//! | `serving` | TLS of the discovery server |

mod caller;
mod issuing;
mod limits;
mod lines;
mod refusals;
mod review;
mod rules;
mod service;
mod serving;
mod signing;
#[cfg(test)]
mod tests;
mod tokens;

pub use caller::Caller;
pub use issuing::Issuing;
pub use limits::{Limits, Rate};
pub use refusals::{Refusal, Refusals};
pub(crate) use refusals::{Who, short};
pub use rules::{Denied, Rules};
pub use service::CertificateService;
pub use serving::Serving;
pub(crate) use tokens::claimed;
pub use tokens::{TokenError, Tokens};
