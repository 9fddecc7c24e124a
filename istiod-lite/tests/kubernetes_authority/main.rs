//! The certificate authority on a real API server, with the rights that an installation gives it: real tokens, real Secrets, several
//! replicas. And that each of these rights is needed for something.

mod bed;
mod refused;
mod rights;
mod roots;
