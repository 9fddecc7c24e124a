//! Service addresses: one of each family that the nodes have and the service does not decline, kept as long as the service exists.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ambit_testbed::Families;
use istiod_lite::source::NamespacedName;
use k8s_openapi::api::core::v1::Service;

/// First address of the range of services, 10.96.0.0/16.
const FIRST_V4: u32 = u32::from_be_bytes([10, 96, 0, 0]);

/// First address of the range of services, fd96::/108.
const FIRST_V6: u128 = 0xfd96_u128 << 112;

/// Gives each service its addresses.
#[derive(Debug)]
pub struct Vips {
    families: Families,
    next: u16,
    given: BTreeMap<NamespacedName, Vec<IpAddr>>,
}

impl Vips {
    /// For nodes with these families.
    pub fn new(families: Families) -> Self {
        Self { families, next: 0, given: BTreeMap::new() }
    }

    /// The addresses of a service: those it asks for, none if it is headless, else one of each family, or of those that it asks for
    /// (`ipFamilies`, `ipFamilyPolicy`).
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
        let given = match self.given.get(name) {
            Some(given) => given.clone(),
            None => self.take(),
        };
        self.given.insert(name.clone(), given.clone());
        wanted(given, service)
    }

    /// An address of each family that no service has.
    pub fn take(&mut self) -> Vec<IpAddr> {
        // The first ten are left for services with fixed addresses.
        self.next = self.next.wrapping_add(1);
        let number = u32::from(self.next) + 10;
        self.families.of([Ipv4Addr::from(FIRST_V4 + number).into(), Ipv6Addr::from(FIRST_V6 + u128::from(number)).into()])
    }

    /// Forgets the addresses of services that are gone.
    pub fn retain(&mut self, exists: impl Fn(&NamespacedName) -> bool) {
        self.given.retain(|name, _| exists(name));
    }
}

/// Those of these addresses that the service asks for, the family named first before the other. Unlike in a cluster, a service that says
/// nothing has both families.
fn wanted(mut addresses: Vec<IpAddr>, service: &Service) -> Vec<IpAddr> {
    let Some(spec) = &service.spec else { return addresses };
    let listed = spec.ip_families.clone().unwrap_or_default();
    let place = |ip: &IpAddr| listed.iter().position(|family| family == if ip.is_ipv4() { "IPv4" } else { "IPv6" });
    addresses.sort_by_key(|ip| place(ip).unwrap_or(usize::MAX));
    match spec.ip_family_policy.as_deref() {
        Some("PreferDualStack" | "RequireDualStack") => {}
        Some("SingleStack") => addresses.truncate(1),
        _ if listed.is_empty() => {}
        _ => addresses.retain(|ip| place(ip).is_some()),
    }
    addresses
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
        let mut vips = Vips::new(Families::Dual);
        let (a, b) = (NamespacedName::new("x", "a"), NamespacedName::new("x", "b"));
        let first = vips.of(&a, &service("{}"));
        assert_eq!(first, ["10.96.0.11".parse::<IpAddr>().unwrap(), "fd96::b".parse().unwrap()]);
        assert_ne!(vips.of(&b, &service("{}")), first);
        assert_eq!(vips.of(&a, &service("{}")), first);
    }

    #[test]
    fn a_service_has_the_families_that_it_and_the_nodes_have() {
        let check = |families, spec: &str, expected: &[&str]| {
            let found = Vips::new(families).of(&NamespacedName::new("x", "a"), &service(spec));
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), expected, "{families:?} {spec}");
        };
        check(Families::Dual, "{}", &["10.96.0.11", "fd96::b"]);
        check(Families::Dual, "{ipFamilies: [IPv6]}", &["fd96::b"]);
        check(Families::Dual, "{ipFamilies: [IPv6, IPv4]}", &["fd96::b", "10.96.0.11"]);
        check(Families::Dual, "{ipFamilyPolicy: SingleStack}", &["10.96.0.11"]);
        check(Families::Dual, "{ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]}", &["fd96::b"]);
        check(Families::Dual, "{ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv6]}", &["fd96::b", "10.96.0.11"]);
        check(Families::Ipv6, "{}", &["fd96::b"]);
        check(Families::Ipv6, "{ipFamilies: [IPv4]}", &[]);
    }

    #[test]
    fn headless_services_have_none_and_fixed_addresses_are_kept() {
        let mut vips = Vips::new(Families::Dual);
        let name = NamespacedName::new("x", "a");
        assert!(vips.of(&name, &service("{clusterIP: None}")).is_empty());
        assert_eq!(vips.of(&name, &service("{clusterIP: 10.96.0.3}")), ["10.96.0.3".parse::<IpAddr>().unwrap()]);
    }
}
