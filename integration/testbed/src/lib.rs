//! Nodes and pods out of network namespaces, inside one private bed that vanishes with the program however it ends.
//!
//! Needs only the kernel: namespaces by system calls; links, addresses, routes and nftables rules over netlink. Works as root, and
//! as an ordinary user where the kernel allows user namespaces.
//!
//! ```no_run
//! use ambit_testbed::{Bed, BedConfig, Command, Output, PodSpec, bed};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     bed::enter()?; // first thing in main, before any thread is started
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let bed = Bed::new(BedConfig::default()).await?;
//!         let one = bed.add_node("node-1").await?;
//!         let two = bed.add_node("node-2").await?;
//!         let server = two.add_pod(PodSpec::new("shop", "storage")).await?;
//!         let client = one.add_pod(PodSpec::new("shop", "web").host(server.ip(), ["storage", "storage.shop"])).await?;
//!         let nginx = server.spawn(Command::new("nginx").arg("-g").arg("daemon off;").output(Output::File("/run/nginx.log".into())))?;
//!         let stream = client.connect((server.ip(), 80).into()).await?; // an in-process client, inside the pod
//!         println!("nginx uses {:?}", nginx.usage()?);
//!         drop(stream);
//!         bed.shutdown().await;
//!         Ok(())
//!     })
//! }
//! ```
//!
//! # The network
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | node N (1 to 99), device `eth0` | 172.30.0.N/24 | fd30::N/64 |
//! | pods of node N, bridge `pods0` with address .1 / ::1 | 10.244.N.0/24 | fd44:0:0:N::/64 |
//! | service addresses ([`Node::set_services`]) | 10.96.0.0/16 | fd96::/108 |
//! | the node of the control plane ([`Bed::control_plane`], N = 100) | 172.30.0.100 | fd30::100 |
//!
//! A bed of [`Families::Ipv6`] has only the right column. Each pod has one device `eth0` with a /32 and a /128 and a default route through its node, so that also two pods of one node
//! talk through the node's IP stack. The `eth0`s of all nodes meet on one bridge, in a namespace of its own, which is the wire that
//! [`wire::Capture`] watches. IPv6 host parts of nodes are written like the decimal number (fd30::100 is node 100).
//!
//! # What is inside
//!
//! * [`bed::enter`] puts the program into namespaces of its own: user (unless root), pid, mount, net, host name. In it `/run` is a
//!   private tmpfs; everything the bed writes is below [`Bed::dir`] in it. Files to be kept must be written elsewhere.
//! * [`Node`] and [`Pod`] both are a [`Place`] (by `Deref`): `spawn`, `run`, `connect`, `listen`, `netns`, `set_hosts`.
//! * [`Process`] is a program in a place: `signal`, `kill`, `stop`, `wait`, `usage`. It is killed when its pod is removed or the bed ends;
//!   dropping the handle does not end it.
//! * [`capture`] starts the node agent and the CNI plugin for the suites.
//! * Programs are children with their own `/etc/hosts`, `/etc/resolv.conf` and host name, in a process group of their own, so that
//!   Ctrl-C at the terminal reaches only the program that made the bed, which then ends them in order.

#![forbid(unsafe_code)]

pub mod bed;
pub mod capture;
mod error;
mod families;
mod hosts;
mod net;
mod node;
mod place;
mod pod;
pub mod process;
mod service;
#[cfg(feature = "trial")]
pub mod trial;
pub mod wire;

pub use bed::{Bed, BedConfig};
pub use error::Error;
pub use families::Families;
pub use hosts::HostEntry;
pub use node::Node;
pub use place::{NO_RESOLVER, Place};
pub use pod::{Pod, PodSpec};
pub use process::{Command, Output, Process, Usage};
pub use service::{Protocol, ServiceRule};
