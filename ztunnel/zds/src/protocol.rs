//! The packets between node agent and node proxy (wire contract, section 5).

use std::os::fd::OwnedFd;

use ambit_api::workload::zds::{
    Ack, AddWorkload, DelWorkload, SnapshotSent, Version, WorkloadInfo, WorkloadRequest, WorkloadResponse, ZdsHello,
    workload_request::Payload, workload_response,
};
use ambit_identity::{Namespace, ServiceAccount};
use prost::Message;

use crate::{Error, seqpacket::Packet};

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

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> PodInfo {
        PodInfo {
            uid: "u".to_owned(),
            name: "web-1".to_owned(),
            namespace: "shop".parse().unwrap(),
            service_account: "web".parse().unwrap(),
        }
    }

    fn packet(bytes: Vec<u8>, descriptors: usize) -> Packet {
        let descriptor = |_| OwnedFd::from(tempfile::tempfile().unwrap());
        Packet { bytes, descriptors: (0..descriptors).map(descriptor).collect() }
    }

    #[test]
    fn what_the_agent_writes_the_proxy_reads() {
        match read_request(packet(add(&info()), 1)).unwrap() {
            Request::Add { info: read, .. } => assert_eq!(read, info()),
            other => panic!("{other:?}"),
        }
        assert!(matches!(read_request(packet(delete("u"), 0)), Ok(Request::Delete(uid)) if uid == "u"));
        let keep = request(Payload::Keep(ambit_api::workload::zds::KeepWorkload { uid: "u".to_owned() }));
        assert!(matches!(read_request(packet(keep, 0)), Ok(Request::Keep(uid)) if uid == "u"));
        assert!(matches!(read_request(packet(snapshot_sent(), 0)), Ok(Request::SnapshotSent)));
        assert!(read_hello(&packet(hello(), 0)).is_ok());
        assert_eq!(read_ack(&packet(ack(Ok(())), 0)).unwrap(), Ok(()));
        assert_eq!(read_ack(&packet(ack(Err("full".to_owned())), 0)).unwrap(), Err("full".to_owned()));
    }

    #[test]
    fn a_pod_without_exactly_one_namespace_or_without_a_valid_name_is_refused() {
        for descriptors in [0, 2] {
            assert!(read_request(packet(add(&info()), descriptors)).is_err(), "{descriptors} descriptors");
        }
        let with = |workload_info| request(Payload::Add(AddWorkload { uid: "u".to_owned(), workload_info }));
        assert!(read_request(packet(with(None), 1)).is_err());
        for (namespace, service_account) in [("", "web"), ("shop", ""), ("Shop", "web"), ("shop", "a/b")] {
            let bad = WorkloadInfo {
                name: "web-1".to_owned(),
                namespace: namespace.to_owned(),
                service_account: service_account.to_owned(),
            };
            assert!(read_request(packet(with(Some(bad)), 1)).is_err(), "{namespace:?} {service_account:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        for bytes in [vec![], vec![0xff; 4], vec![8]] {
            assert!(read_request(packet(bytes.clone(), 0)).is_err(), "{bytes:?}");
            assert!(read_ack(&packet(bytes.clone(), 0)).is_err(), "{bytes:?}");
            assert!(read_hello(&packet(bytes.clone(), 0)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_longest_error_fits_a_packet() {
        assert!(ack(Err("ü".repeat(4096))).len() <= crate::seqpacket::MAX_PACKET);
    }
}
