//! Packets between node agent and proxy.

use std::os::fd::OwnedFd;

use ambit_fuzz::{Corpus, Target};
use ambit_zds::{
    protocol::{self, PodInfo, Request},
    seqpacket::{MAX_PACKET, Packet},
};

use crate::corpus;

fn pod() -> PodInfo {
    PodInfo {
        uid: "3b241101-e2bb-4255-8caf-4136c566a962".to_owned(),
        name: "web-0".to_owned(),
        namespace: "shop".parse().unwrap(),
        service_account: "web".parse().unwrap(),
    }
}

fn packet(bytes: &[u8], descriptors: usize) -> Packet {
    let descriptor = |_| OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    Packet { bytes: bytes.to_vec(), descriptors: (0..descriptors).map(descriptor).collect() }
}

pub fn requests() {
    let corpus = Corpus::read(corpus("zds.txt"))
        .with("a pod", protocol::add(&pod()))
        .with("a pod is gone", protocol::delete(&pod().uid))
        .with("all are told", protocol::snapshot_sent());
    let target = Target::new("packets of a node agent", corpus).least_read(0.01).tokens([
        &b"\x0a"[..],
        b"\x12",
        b"\x1a\x00",
        b"\x2a",
        b"shop",
    ]);
    target.longest(MAX_PACKET).run(|bytes, dice| {
        let descriptors = [1, 1, 1, 0, 2][dice.usize(..5)];
        match protocol::read_request(packet(bytes, descriptors)) {
            Err(error) => assert!(error.to_string().len() < 2 * MAX_PACKET),
            Ok(Request::Add { info, .. }) => {
                assert_eq!(descriptors, 1);
                // What is understood says the same when it is said again.
                match protocol::read_request(packet(&protocol::add(&info), 1)) {
                    Ok(Request::Add { info: again, .. }) => assert_eq!(again, info),
                    other => panic!("{info:?} became {other:?}"),
                }
                return true;
            }
            Ok(Request::Delete(uid)) => {
                assert!(matches!(protocol::read_request(packet(&protocol::delete(&uid), 0)), Ok(Request::Delete(again)) if again == uid));
                return true;
            }
            Ok(Request::Keep(_) | Request::SnapshotSent) => return true,
        }
        false
    });
}

pub fn answers() {
    let corpus = Corpus::new()
        .with("hello", protocol::hello())
        .with("yes", protocol::ack(Ok(())))
        .with("no", protocol::ack(Err("the port is taken".to_owned())));
    Target::new("packets of a proxy", corpus).longest(MAX_PACKET).run(|bytes, _| {
        let hello = protocol::read_hello(&packet(bytes, 0)).is_ok();
        let Ok(answer) = protocol::read_ack(&packet(bytes, 0)) else { return hello };
        let again = protocol::ack(answer.clone());
        assert!(again.len() <= MAX_PACKET);
        let again = protocol::read_ack(&packet(&again, 0)).unwrap();
        assert_eq!(again.is_ok(), answer.is_ok());
        true
    });
}
