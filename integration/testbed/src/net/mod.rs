//! Links, addresses, routes and neighbours over netlink.

pub(crate) mod plan;
pub(crate) mod sysctl;

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use ambit_runtime::netns::NetNs;
use nlink::netlink::Connection;
use nlink::netlink::link::{BridgeLink, LinkCreateExt, VethLink};
use nlink::netlink::neigh::Neighbor;
use nlink::netlink::types::route::RouteType;
use nlink::{Ipv4Address, Ipv4Route, Ipv6Address, Ipv6Route, Route};

use crate::Error;

/// A pair of linked devices, one in each of two namespaces.
pub(crate) struct Veth<'a> {
    /// Name in the namespace of the [`Links`].
    pub(crate) name: &'a str,
    /// Bridge there that the near end joins.
    pub(crate) bridge: &'a str,
    /// Name of the far end.
    pub(crate) peer_name: &'a str,
    /// Hardware address of the far end.
    pub(crate) peer_mac: [u8; 6],
    /// Namespace of the far end.
    pub(crate) peer: &'a NetNs,
    /// Bytes.
    pub(crate) mtu: u32,
}

/// Changes to one network namespace.
pub(crate) struct Links {
    connection: Connection<Route>,
}

impl Links {
    pub(crate) fn open(netns: &NetNs) -> Result<Self, Error> {
        let connection = Connection::new_in(netns.as_fd()).map_err(Error::netlink("open a netlink socket"))?;
        Ok(Self { connection })
    }

    pub(crate) async fn up(&self, device: &str) -> Result<(), Error> {
        self.connection.set_link_up(device).await.map_err(Error::netlink(format!("bring up {device}")))
    }

    pub(crate) async fn index(&self, device: &str) -> Result<u32, Error> {
        let what = format!("find {device}");
        let link = self.connection.get_link_by_name(device).await.map_err(Error::netlink(what.clone()))?;
        link.map(|link| link.ifindex()).ok_or_else(|| Error::Plan(format!("cannot {what}: no such device")))
    }

    pub(crate) async fn down(&self, device: &str) -> Result<(), Error> {
        self.connection.set_link_down(device).await.map_err(Error::netlink(format!("take down {device}")))
    }

    pub(crate) async fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), Error> {
        let bridge = BridgeLink::new(name).address(mac).mtu(mtu).stp(false).forward_delay_ms(0).up();
        self.connection
            .add_link(bridge)
            .await
            .map_err(Error::netlink(format!("make the bridge {name} (kernel option CONFIG_BRIDGE)")))
    }

    pub(crate) async fn add_veth(&self, veth: &Veth<'_>) -> Result<(), Error> {
        let what = format!("make the pair of devices {} and {} (kernel option CONFIG_VETH)", veth.name, veth.peer_name);
        let link = VethLink::new(veth.name, veth.peer_name)
            .mtu(veth.mtu)
            .peer_mtu(veth.mtu)
            .peer_address(veth.peer_mac)
            .peer_netns_fd(veth.peer)
            .master(veth.bridge)
            .up();
        self.connection.add_link(link).await.map_err(Error::netlink(what))
    }

    pub(crate) async fn remove(&self, device: &str) -> Result<(), Error> {
        self.connection.del_link_if_exists(device).await.map(drop).map_err(Error::netlink(format!("remove {device}")))
    }

    pub(crate) async fn add_address(&self, device: &str, ip: IpAddr, length: u8) -> Result<(), Error> {
        let what = format!("give {device} the address {ip}/{length}");
        match ip {
            IpAddr::V4(ip) => self.connection.add_address(Ipv4Address::new(device, ip, length)).await,
            IpAddr::V6(ip) => self.connection.add_address(Ipv6Address::new(device, ip, length).nodad()).await,
        }
        .map_err(Error::netlink(what.clone()))?;
        if ip.is_ipv6() { self.settle(ip).await.map_err(Error::io(what)) } else { Ok(()) }
    }

    /// Waits until the kernel delivers packets to a new IPv6 address to itself: even without duplicate address detection it adds the
    /// route for that in the background (`addrconf_dad_work`), and what comes before is sent out or refused.
    async fn settle(&self, ip: IpAddr) -> io::Result<()> {
        let settled = async {
            loop {
                // Until then there may be no route at all, which is an error.
                if self.connection.lookup_route(ip).await.is_ok_and(|route| route.route_type() == RouteType::Local) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the kernel did not finish setting it up");
        tokio::time::timeout(Duration::from_secs(5), settled).await.map_err(late)
    }

    /// A route to a network, straight out of a device or through a gateway on it.
    pub(crate) async fn add_route(&self, to: (IpAddr, u8), device: &str, through: Option<IpAddr>) -> Result<(), Error> {
        let what = format!("add the route to {}/{} on {device}", to.0, to.1);
        match (to.0, through) {
            (IpAddr::V4(network), through) => {
                let mut route = Ipv4Route::from_addr(network, to.1).dev(device);
                if let Some(IpAddr::V4(gateway)) = through {
                    route = route.gateway(gateway);
                }
                self.connection.replace_route(route).await
            }
            (IpAddr::V6(network), through) => {
                let mut route = Ipv6Route::from_addr(network, to.1).dev(device);
                if let Some(IpAddr::V6(gateway)) = through {
                    route = route.gateway(gateway);
                }
                self.connection.replace_route(route).await
            }
        }
        .map_err(Error::netlink(what))
    }

    /// A permanent neighbour, so that the first packet need not wait for its hardware address.
    pub(crate) async fn add_neighbor(&self, device: &str, ip: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        let neighbor = Neighbor::new(device, ip).lladdr(mac).permanent();
        self.connection.replace_neighbor(neighbor).await.map_err(Error::netlink(format!("add the neighbour {ip} on {device}")))
    }
}
