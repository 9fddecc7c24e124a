//! The connections that are open now, for people and programs.

use std::{net::SocketAddr, time::Duration};

use ambit_runtime::telemetry::Direction;
use serde::{Serialize, Serializer};

use super::{
    Telemetry,
    open::{Open, bytes},
};

/// An open connection. The first three fields are those that `istioctl ztunnel-config connections` reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The client.
    pub src: SocketAddr,
    /// What the client dialled, as far as this proxy knows.
    pub original_dst: SocketAddr,
    /// Where it goes.
    pub actual_dst: SocketAddr,
    /// Who opened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src_identity: Option<Box<str>>,
    /// Who answers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_identity: Option<Box<str>>,
    /// Host name of the service it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Box<str>>,
    /// How it is protected: `mutual_tls`, `node_local` or `none`.
    pub security: &'static str,
    /// The ALLOW policy by which it may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Bytes from the client to the server.
    pub bytes_sent: u64,
    /// Bytes from the server to the client.
    pub bytes_received: u64,
    /// How long it stands.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub age: Duration,
}

fn seconds<S: Serializer>(age: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(age.as_secs())
}

/// The pod of this node whose connection it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// On which side of the connection it is.
    pub direction: Direction,
}

impl Telemetry {
    /// Up to `most` of the connections that are open now, each with the pod it belongs to, and how many more there are.
    #[must_use]
    pub fn connections(&self, most: usize) -> (Vec<(Owner, Connection)>, usize) {
        let (some, more) = self.0.open.some(most);
        (some.iter().filter_map(|open| told(open)).collect(), more)
    }
}

fn told(open: &Open) -> Option<(Owner, Connection)> {
    let kind = &open.series.kind;
    let workload = match kind.direction {
        Direction::Outbound => kind.source_workload.as_ref(),
        Direction::Inbound => kind.target.workload.as_ref(),
    }?;
    let owner = Owner { name: workload.name.to_string(), namespace: workload.namespace.to_string(), direction: kind.direction };
    let [src_identity, dst_identity] = open.series.identities.clone();
    let (bytes_sent, bytes_received) = bytes(&open.counters, open.counted);
    let connection = Connection {
        src: open.ends.source,
        original_dst: open.ends.destination,
        actual_dst: open.ends.reached.unwrap_or(open.ends.destination),
        src_identity,
        dst_identity,
        service: kind.target.service.as_ref().map(|service| (&*service.key.hostname).into()),
        security: kind.security.as_str(),
        policy: open.allowed().policy.as_ref().map(ToString::to_string),
        bytes_sent,
        bytes_received,
        age: open.ends.begun.elapsed(),
    };
    Some((owner, connection))
}
