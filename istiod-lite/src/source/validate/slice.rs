//! Values of EndpointSlices.

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::Errors;

/// Endpoints of one slice (the limit of the Kubernetes API).
const MAX_ENDPOINTS: usize = 1_000;
/// Ports of one slice, more than a Service without a selector has use for.
const MAX_PORTS: usize = 1_000;

pub(super) fn slice(slice: &EndpointSlice, errors: &mut Errors) {
    let v4 = match slice.address_type.as_str() {
        "IPv4" => Some(true),
        "IPv6" => Some(false),
        "FQDN" => None,
        other => return errors.add("addressType", format!("{other:?} is none of IPv4, IPv6, FQDN")),
    };
    errors.at_most(MAX_ENDPOINTS, "endpoints", slice.endpoints.len());
    errors.at_most(MAX_PORTS, "ports", slice.ports.as_ref().map_or(0, Vec::len));
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let path = format!("endpoints[{index}].addresses");
        errors.check(!endpoint.addresses.is_empty(), &path, || "must not be empty".into());
        let Some(v4) = v4 else { continue };
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match address.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.is_ipv4() == v4 => errors.elsewhere(&path, ip),
                _ => errors.add(path, format!("{address:?} is no {} address", slice.address_type)),
            }
        }
    }
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(port) = port.port {
            errors.port(&format!("ports[{index}].port"), port);
        }
    }
}
