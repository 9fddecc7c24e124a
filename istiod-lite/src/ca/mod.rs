//! The certificate service, who may ask it for what, and the certificate of the discovery server itself.

mod caller;
mod rules;
mod service;
mod serving;
#[cfg(test)]
mod tests;

pub use caller::{Caller, Tokens};
pub use rules::{Denied, Rules};
pub use service::CertificateService;
pub use serving::Serving;
