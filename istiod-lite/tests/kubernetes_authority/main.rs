//! The certificate authority on a real API server: real tokens, real Secrets, several replicas.

mod bed;
mod refused;
mod roots;
