//! The wire contract of the mesh: messages and services generated from our own `.proto` files, and Envoy's.
//!
//! No logic lives here. Conversion to the types the programs reason about is in `ambit-model`.

#![forbid(unsafe_code)]
#![allow(missing_docs, unused_qualifications, clippy::all)]

pub use envoy_types as envoy;

/// Workload discovery (`istio.workload`).
pub mod workload {
    tonic::include_proto!("istio.workload");
    /// Node agent to node proxy handover (`istio.workload.zds`).
    pub mod zds {
        tonic::include_proto!("istio.workload.zds");
    }
}

/// L4 authorization (`istio.security`).
pub mod security {
    tonic::include_proto!("istio.security");
}

/// The certificate service (`istio.v1.auth`).
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// The address matcher of filter chains.
pub mod matcher;

/// What describes Envoy's messages, as an encoded `google.protobuf.FileDescriptorSet`: those of its admin pages, and of what resources are made
/// of. By it they are written as JSON.
pub const ENVOY_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy.bin"));

/// Type URLs of the resources served over xDS.
pub mod type_url {
    /// A workload or service, for node proxies.
    pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
    /// An L4 authorization policy, for node proxies.
    pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
}
