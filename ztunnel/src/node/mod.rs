//! What happens on the node: pods come and go, their namespaces are handed over by a node agent, their connections are accepted.

mod accept;
pub mod client;
pub mod pods;
