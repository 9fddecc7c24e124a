use super::*;
use crate::{test_support::workload, workload::ApplicationTunnel};

fn pod() -> Workload {
    workload("api", "10.0.0.2,fd00::2")
}

fn to(address: &str) -> Target {
    Target::Address(address.parse().unwrap())
}

#[track_caller]
fn refused(pod: &Workload, target: &Target) -> Reason {
    admit(pod, target).unwrap_err().reason
}

#[test]
fn each_of_the_pods_own_addresses_is_admitted() {
    for address in ["10.0.0.2:8080", "[fd00::2]:8080"] {
        let admitted = admit(&pod(), &to(address)).unwrap();
        assert_eq!((admitted.destination, admitted.upstream), (address.parse().unwrap(), address.parse().unwrap()));
    }
    let mapped = admit(&pod(), &to("[::ffff:10.0.0.2]:8080")).unwrap();
    assert_eq!(mapped.upstream, "10.0.0.2:8080".parse().unwrap());
}

#[test]
fn other_addresses_names_and_the_proxys_ports_are_refused() {
    for address in ["10.0.0.3:8080", "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080", "169.254.169.254:80", "[fd00::3]:8080"] {
        assert_eq!(refused(&pod(), &to(address)), Reason::AuthorityNotThisPod, "{address}");
    }
    for address in ["10.0.0.2:15001", "10.0.0.2:15006", "[fd00::2]:15008"] {
        assert_eq!(refused(&pod(), &to(address)), Reason::LoopGuard, "{address}");
    }
    assert_eq!(refused(&pod(), &to("10.0.0.2:0")), Reason::AuthorityInvalid);
    assert_eq!(refused(&pod(), &Target::Host("api.shop".to_owned(), 80)), Reason::AuthorityInvalid);
}

#[test]
fn an_application_tunnel_takes_every_address_at_its_own_port() {
    let mut pod = pod();
    pod.application_tunnel = Some(ApplicationTunnel { proxy_protocol: true, port: 15088 });
    let admitted = admit(&pod, &to("[fd96::1]:80")).unwrap();
    assert_eq!((admitted.upstream, admitted.proxy_protocol), ("[fd00::2]:15088".parse().unwrap(), true));
    assert_eq!(admitted.destination, "[fd96::1]:80".parse().unwrap());
    pod.application_tunnel = Some(ApplicationTunnel { proxy_protocol: false, port: 15008 });
    assert_eq!(refused(&pod, &to("10.0.0.9:80")), Reason::LoopGuard);
    pod.addresses.clear();
    assert_eq!(refused(&pod, &to("10.0.0.9:80")), Reason::DestinationUnknown);
}

#[test]
fn plain_text_is_held_to_the_same() {
    assert!(admit_plaintext(&pod(), "10.0.0.2:80".parse().unwrap()).is_ok());
    assert_eq!(admit_plaintext(&pod(), "10.0.0.9:80".parse().unwrap()).unwrap_err().reason, Reason::AuthorityNotThisPod);
    assert_eq!(admit_plaintext(&pod(), "10.0.0.2:15006".parse().unwrap()).unwrap_err().reason, Reason::LoopGuard);
}
