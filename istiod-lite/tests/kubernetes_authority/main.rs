//! The certificate authority on a real API server, with the rights that an installation gives it: real tokens, real Secrets, several
//! replicas.

mod bed;
mod refused;
#[path = "../clusters/role.rs"]
mod role;
mod roots;
