//! The way out of a pod by IPv4: by which device, and from which address.

use std::net::{IpAddr, Ipv4Addr};

use nlink::netlink::{
    messages::{AddressMessage, RouteMessage},
    types::{addr::Scope, route::RouteType},
};

use super::LOOPBACK;

const MAIN_TABLE: u32 = 254;

/// A device and the address that packets by it come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// The index of the device.
    pub(super) device: u32,
    /// The address.
    pub(super) source: Ipv4Addr,
}

/// The way that the pod's own routing takes to what is far; where it has no such route, the first device that is up and has an address.
pub(super) fn find(routes: &[RouteMessage], addresses: &[AddressMessage], up: &[u32]) -> Option<Way> {
    let far = |route: &&RouteMessage| {
        route.is_ipv4() && route.table_id() == MAIN_TABLE && route.is_default() && route.route_type() == RouteType::Unicast
    };
    let by = |route: &RouteMessage| route.oif().or_else(|| Some(route.multipath()?.first()?.ifindex));
    let default = routes.iter().filter(far).filter(|route| by(route).is_some_and(|device| up.contains(&device)));
    let default = default.min_by_key(|route| route.priority().unwrap_or_default());
    let device = default.and_then(by);
    let usable = |address: &&AddressMessage| {
        let device = address.ifindex();
        device != LOOPBACK && up.contains(&device) && address.scope() == Scope::Universe && !address.is_secondary()
    };
    let address = |of: Option<u32>| {
        let of_device = addresses.iter().filter(usable).filter(|address| of.is_none_or(|device| address.ifindex() == device));
        of_device.filter_map(|address| Some((address.ifindex(), v4(address.primary_address())?))).next()
    };
    let (found_on, found) = address(device).or_else(|| address(None))?;
    let source = default.and_then(|route| v4(route.prefsrc())).unwrap_or(found);
    Some(Way { device: device.unwrap_or(found_on), source })
}

fn v4(ip: Option<&IpAddr>) -> Option<Ipv4Addr> {
    match ip? {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use nlink::netlink::messages::{AddressMessageBuilder, RouteMessageBuilder};

    use super::*;

    const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

    fn address(device: u32, ip: Ipv4Addr) -> AddressMessage {
        let message = AddressMessageBuilder::new().ipv4().ifindex(device).prefix_len(24).scope(Scope::Universe);
        message.address(ip.into()).local(ip.into()).build()
    }

    fn default(device: u32, metric: u32) -> RouteMessageBuilder {
        RouteMessageBuilder::new().ipv4().oif(device).priority(metric).table(MAIN_TABLE).route_type(RouteType::Unicast)
    }

    #[test]
    fn the_way_out_is_that_of_the_best_default_route() {
        let addresses = [address(LOOPBACK, Ipv4Addr::LOCALHOST), address(3, OTHER), address(2, NEAR)];
        let routes = [default(3, 100).build(), default(2, 50).build()];
        assert_eq!(find(&routes, &addresses, &[1, 2, 3]), Some(Way { device: 2, source: NEAR }));
        assert_eq!(
            find(&routes, &addresses, &[1, 3]),
            Some(Way { device: 3, source: OTHER }),
            "a device that is down leads nowhere"
        );
        let told = [default(2, 50).prefsrc(OTHER.into()).build()];
        assert_eq!(find(&told, &addresses, &[1, 2, 3]), Some(Way { device: 2, source: OTHER }));
    }

    #[test]
    fn without_a_default_route_there_is_one_as_long_as_there_is_an_address() {
        let addresses = [address(LOOPBACK, Ipv4Addr::LOCALHOST), address(3, OTHER)];
        assert_eq!(find(&[], &addresses, &[1, 3]), Some(Way { device: 3, source: OTHER }));
        assert_eq!(find(&[], &addresses, &[1]), None);
        assert_eq!(find(&[], &addresses[..1], &[1, 3]), None);
        // A device of which only the far end has an address.
        assert_eq!(find(&[default(7, 0).build()], &addresses, &[1, 3, 7]), Some(Way { device: 7, source: OTHER }));
    }
}
