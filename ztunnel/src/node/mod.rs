//! What happens on the node: pods come and go, their namespaces are handed over, their traffic is captured.

pub mod agent;
pub mod client;
pub mod pods;
pub mod protocol;
pub mod rules;
pub mod seqpacket;
