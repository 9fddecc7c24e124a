//! A real Kubernetes on this machine, without Docker: for tests, and behind `ambit cluster`.
//!
//! | module | purpose |
//! |---|---|
//! | [`account`] | service accounts with the rights that an installation gives them |
//! | [`api_server`] | the small variant: etcd and an API server on loopback, for tests of a control plane; as any user, ready in about 3 s |
//! | [`audit`] | what is asked of an API server, held against roles |
//! | [`cluster`] | the large variant: a control plane and nodes with a kubelet, in namespaces; as root |
//! | [`control`] | what the programs of a control plane are told on their command lines |
//! | [`image`] | container images without a container engine |
//! | [`manifests`] | custom resource definitions that are not ours, such as those of the Gateway API |
//! | [`pki`] | certificates and kubeconfigs of a cluster |
//! | [`temporary`] | clusters that live as long as a process, and what is left of those whose process was killed |
//! | [`programs`] | Kubernetes and CoreDNS, built once from their Go modules and cached |
//!
//! ```no_run
//! # async fn example() -> Result<(), ambit_cluster::Error> {
//! let api = ambit_cluster::ApiServer::start().await?;
//! api.install_gateway_api(ambit_cluster::manifests::Channel::Experimental).await?;
//! println!("{}", api.kubectl(&["get", "namespaces"]).await?);
//! # Ok(()) }
//! ```

#![forbid(unsafe_code)]

pub mod account;
pub mod api_server;
pub mod audit;
pub mod cluster;
pub mod control;
pub mod daemon;
mod error;
pub mod image;
mod loopback;
pub mod manifests;
mod node;
pub mod pki;
pub mod programs;
pub mod temporary;

pub use account::Account;
pub use api_server::{ApiServer, ApiServerOptions};
pub use cluster::{Cluster, ClusterOptions};
pub use error::{Error, Result};
pub use node::ProxyMode;
