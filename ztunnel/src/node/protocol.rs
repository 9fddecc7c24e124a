//! The packets between node agent and node proxy (wire contract, section 5).

use std::os::fd::OwnedFd;

use ambit_api::workload::zds::{
    Ack, AddWorkload, DelWorkload, SnapshotSent, Version, WorkloadInfo, WorkloadRequest, WorkloadResponse, ZdsHello,
    workload_request::Payload, workload_response,
};
use ambit_identity::{Namespace, ServiceAccount};
use prost::Message;

use super::seqpacket::Packet;
use crate::Error;

/// The longest error text that is sent with an acknowledgement, so that it fits a packet.
const MAX_ERROR: usize = 512;

/// What the agent asks of the proxy.
#[derive(Debug)]
pub enum Request {
    /// Capture the traffic of this pod.
    Add {
        /// The pod.
        info: PodInfo,
        /// Its network namespace.
        netns: OwnedFd,
    },
    /// The pod stays as it is.
    Keep(String),
    /// The pod is gone.
    Delete(String),
    /// Every pod there is has been told.
    SnapshotSent,
}

/// A pod as the node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInfo {
    /// The UID of the Kubernetes object.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: Namespace,
    /// Its service account.
    pub service_account: ServiceAccount,
}

/// The proxy's first packet.
#[must_use]
pub fn hello() -> Vec<u8> {
    ZdsHello { version: Version::V1.into() }.encode_to_vec()
}

/// Checks the proxy's first packet.
///
/// # Errors
/// When it is none, or of a version that is not known.
pub fn read_hello(packet: &Packet) -> Result<(), Error> {
    let hello = ZdsHello::decode(packet.bytes.as_slice()).map_err(|error| Error::Protocol(error.to_string()))?;
    if hello.version == i32::from(Version::V1) {
        Ok(())
    } else {
        Err(Error::Protocol(format!("unknown version {}", hello.version)))
    }
}

/// The packet that adds a pod; its namespace's descriptor goes with it.
#[must_use]
pub fn add(info: &PodInfo) -> Vec<u8> {
    let workload_info = WorkloadInfo {
        name: info.name.clone(),
        namespace: info.namespace.to_string(),
        service_account: info.service_account.to_string(),
    };
    request(Payload::Add(AddWorkload { uid: info.uid.clone(), workload_info: Some(workload_info) }))
}

/// The packet that removes a pod.
#[must_use]
pub fn delete(uid: &str) -> Vec<u8> {
    request(Payload::Del(DelWorkload { uid: uid.to_owned() }))
}

/// The packet after the last pod.
#[must_use]
pub fn snapshot_sent() -> Vec<u8> {
    request(Payload::SnapshotSent(SnapshotSent {}))
}

fn request(payload: Payload) -> Vec<u8> {
    WorkloadRequest { payload: Some(payload) }.encode_to_vec()
}

/// Reads what the agent asks.
///
/// # Errors
/// When it cannot be understood, or a pod comes without exactly one descriptor or without a name.
pub fn read_request(packet: Packet) -> Result<Request, Error> {
    let bad = |text: String| Error::Protocol(text);
    let request = WorkloadRequest::decode(packet.bytes.as_slice()).map_err(|error| bad(error.to_string()))?;
    match request.payload.ok_or_else(|| bad("an empty request".to_owned()))? {
        Payload::Add(add) => {
            let info = add.workload_info.ok_or_else(|| bad(format!("pod {} comes without its name and account", add.uid)))?;
            let netns = <[OwnedFd; 1]>::try_from(packet.descriptors)
                .map_err(|all| bad(format!("pod {} comes with {} descriptors, not 1", add.uid, all.len())))?;
            let [netns] = netns;
            let info = PodInfo {
                name: info.name,
                namespace: info.namespace.parse().map_err(|error| bad(format!("pod {}: {error}", add.uid)))?,
                service_account: info.service_account.parse().map_err(|error| bad(format!("pod {}: {error}", add.uid)))?,
                uid: add.uid,
            };
            Ok(Request::Add { info, netns })
        }
        Payload::Keep(keep) => Ok(Request::Keep(keep.uid)),
        Payload::Del(del) => Ok(Request::Delete(del.uid)),
        Payload::SnapshotSent(SnapshotSent {}) => Ok(Request::SnapshotSent),
    }
}

/// The answer to a request.
#[must_use]
pub fn ack(result: Result<(), String>) -> Vec<u8> {
    let mut error = result.err().unwrap_or_default();
    if error.len() > MAX_ERROR {
        error = error.chars().take(MAX_ERROR / 4).collect();
    }
    WorkloadResponse { payload: Some(workload_response::Payload::Ack(Ack { error })) }.encode_to_vec()
}

/// Reads an answer: nothing, or what the proxy says went wrong.
///
/// # Errors
/// When it cannot be understood.
pub fn read_ack(packet: &Packet) -> Result<Result<(), String>, Error> {
    let response = WorkloadResponse::decode(packet.bytes.as_slice()).map_err(|error| Error::Protocol(error.to_string()))?;
    match response.payload {
        Some(workload_response::Payload::Ack(ack)) if ack.error.is_empty() => Ok(Ok(())),
        Some(workload_response::Payload::Ack(ack)) => Ok(Err(ack.error)),
        None => Err(Error::Protocol("an empty answer".to_owned())),
    }
}
