//! Service addresses: one IPv4 and one IPv6 address for each service, kept as long as the service exists.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use istiod_lite::source::NamespacedName;
use k8s_openapi::api::core::v1::Service;

/// First address of the range of services, 10.96.0.0/16.
const FIRST_V4: u32 = u32::from_be_bytes([10, 96, 0, 0]);

/// First address of the range of services, fd96::/108.
const FIRST_V6: u128 = 0xfd96_u128 << 112;

/// Gives each service its addresses.
#[derive(Debug, Default)]
pub struct Vips {
    next: u16,
    given: BTreeMap<NamespacedName, Vec<IpAddr>>,
}

impl Vips {
    /// The addresses of a service: those it asks for, none if it is headless, else a pair of its own.
    pub fn of(&mut self, name: &NamespacedName, service: &Service) -> Vec<IpAddr> {
        let spec = service.spec.as_ref();
        let asked = spec.and_then(|spec| spec.cluster_ips.clone()).unwrap_or_default();
        let asked: Vec<String> = asked.into_iter().chain(spec.and_then(|spec| spec.cluster_ip.clone())).collect();
        if asked.iter().any(|address| address == "None") || is_external(service) {
            return Vec::new();
        }
        let mut fixed: Vec<IpAddr> = asked.iter().filter_map(|address| address.parse().ok()).collect();
        fixed.dedup();
        if !fixed.is_empty() {
            return fixed;
        }
        if let Some(given) = self.given.get(name) {
            return given.clone();
        }
        let pair = self.next_pair();
        self.given.insert(name.clone(), pair.clone());
        pair
    }

    /// A pair of addresses that no service has.
    pub fn next_pair(&mut self) -> Vec<IpAddr> {
        // The first ten are left for services with fixed addresses.
        self.next = self.next.wrapping_add(1);
        let number = u32::from(self.next) + 10;
        vec![Ipv4Addr::from(FIRST_V4 + number).into(), Ipv6Addr::from(FIRST_V6 + u128::from(number)).into()]
    }

    /// Forgets the addresses of services that are gone.
    pub fn retain(&mut self, exists: impl Fn(&NamespacedName) -> bool) {
        self.given.retain(|name, _| exists(name));
    }
}

fn is_external(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &str) -> Service {
        serde_saphyr::from_str(&format!("{{metadata: {{name: a}}, spec: {spec}}}")).unwrap()
    }

    #[test]
    fn each_service_keeps_a_pair_of_addresses_of_its_own() {
        let mut vips = Vips::default();
        let (a, b) = (NamespacedName::new("x", "a"), NamespacedName::new("x", "b"));
        let first = vips.of(&a, &service("{}"));
        assert_eq!(first, ["10.96.0.11".parse::<IpAddr>().unwrap(), "fd96::b".parse().unwrap()]);
        assert_ne!(vips.of(&b, &service("{}")), first);
        assert_eq!(vips.of(&a, &service("{}")), first);
    }

    #[test]
    fn headless_services_have_none_and_fixed_addresses_are_kept() {
        let mut vips = Vips::default();
        let name = NamespacedName::new("x", "a");
        assert!(vips.of(&name, &service("{clusterIP: None}")).is_empty());
        assert_eq!(vips.of(&name, &service("{clusterIP: 10.96.0.3}")), ["10.96.0.3".parse::<IpAddr>().unwrap()]);
    }
}
