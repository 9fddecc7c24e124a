//! The routing that belongs to the capture, and the routing that cuts a pod off.
//!
//! It is a second hold on what leaves: TCP that nobody of the mesh has marked does not find the way out of the pod, with or without the
//! rules of the packet filter. With them it is redirected to the proxy; without them it goes nowhere, until they are written again.

mod lead;
mod sources;
mod way;

use std::{io, os::fd::AsFd};

use ambit_runtime::netns::NetNs;
use nlink::{
    Connection, Ipv4Route, Ipv6Route, Route,
    netlink::{
        devconf::Ipv4Devconf,
        messages::{LinkMessage, RouteMessage},
        route::RouteMetrics,
        types::route::{RouteScope, RouteType},
    },
};

use lead::{LOCAL_TABLE, Lead, NOWHERE_TABLE};
use sources::{LOOSENED, Sources};
use way::Way;

/// The index of the loopback device, in every namespace.
const LOOPBACK: u32 = 1;

/// What the namespace has of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Six {
    /// Nothing: the kernel has none.
    None,
    /// It is switched off: routes cannot be made.
    Off,
    On,
}

impl Six {
    fn of(netns: &NetNs) -> io::Result<Self> {
        let setting = netns.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6"))?;
        Ok(match setting {
            Ok(text) if text.trim() == "0" => Self::On,
            Ok(_) => Self::Off,
            Err(_) => Self::None,
        })
    }

    fn leads(self) -> impl Iterator<Item = Lead> {
        let families = if self == Self::None { [false].as_slice() } else { [false, true].as_slice() };
        families.iter().flat_map(|six| lead::capture(*six))
    }
}

/// What is addressed to others is delivered in the pod: the answers of its programs to what the proxy brings them, and, until its destination
/// is translated, what they send.
///
/// By the device that leads out, so that the kernel finds the source of what comes in by it where it expects it (`rp_filter`). The source,
/// and the size of packets, are those that the pod's own routing would give: some of them leave after all.
fn stays_v4(way: Way, metrics: RouteMetrics) -> Ipv4Route {
    let route = Ipv4Route::default_route().dev_index(way.device).prefsrc(way.source).table(LOCAL_TABLE);
    route.route_type(RouteType::Local).scope(RouteScope::Host).metrics(metrics)
}

/// As [`stays_v4`], for the answers alone. IPv6 would let a program of the pod that listens have what another one sends to others.
fn stays_v6() -> Ipv6Route {
    Ipv6Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local)
}

/// A route that can be had and leads nowhere: a packet passes the rules, and if they do not translate its destination the kernel discards
/// it. (A route that says so, like `unreachable`, cannot be had in the first place.)
fn nowhere_v6(metrics: RouteMetrics) -> Ipv6Route {
    Ipv6Route::default_route().dev("lo").table(NOWHERE_TABLE).route_type(RouteType::Anycast).metrics(metrics)
}

/// What the kernel shows of a namespace.
struct Shown {
    six: Six,
    sources: Sources,
    way: Option<Way>,
    links: Vec<LinkMessage>,
    routes: Vec<RouteMessage>,
}

impl Shown {
    async fn read(netns: &NetNs, route: &Connection<Route>) -> nlink::Result<Self> {
        let (links, routes) = (route.get_links().await?, route.get_routes().await?);
        let up: Vec<u32> = links.iter().filter(|link| link.is_up()).map(LinkMessage::ifindex).collect();
        let way = way::find(&routes, &route.get_addresses().await?, &up);
        Ok(Self { six: Six::of(netns)?, sources: Sources::of(netns)?, way, links, routes })
    }

    /// The devices that lead out.
    fn devices(&self) -> impl Iterator<Item = &LinkMessage> {
        self.links.iter().filter(|link| link.is_up() && link.ifindex() != LOOPBACK)
    }

    /// The devices that lead out and whose setting `accept_local` is this. With 0 the kernel takes TCP that comes in for forged: where its
    /// source is to be found is, by [`stays_v4`], the pod itself.
    fn devices_that(&self, accept_local: u32) -> impl Iterator<Item = u32> {
        let set = move |link: &&LinkMessage| link.ipv4_devconf(Ipv4Devconf::AcceptLocal) == Some(accept_local);
        self.devices().filter(set).map(LinkMessage::ifindex)
    }

    /// The devices beside that of the way out that drop what comes in by them, for its source would be found there ([`sources`]).
    fn strict_devices(&self) -> impl Iterator<Item = u32> {
        let strict =
            |link: &&LinkMessage| link.ipv4_devconf(Ipv4Devconf::RpFilter).is_some_and(|setting| self.sources.is_strict(setting));
        let out = self.way.map(|way| way.device);
        self.devices().filter(strict).map(LinkMessage::ifindex).filter(move |device| Some(*device) != out)
    }

    /// What packets may be as large as, by whichever device they leave.
    fn metrics(&self) -> RouteMetrics {
        let smallest = self.devices().filter_map(LinkMessage::mtu).min();
        smallest.map_or_else(RouteMetrics::new, |mtu| RouteMetrics::new().mtu(mtu))
    }

    /// Whether there is a route of this kind for all destinations.
    fn has(&self, six: bool, table: u32, kind: RouteType, wanted: impl Fn(&RouteMessage) -> bool) -> bool {
        self.routes.iter().any(|route| {
            (route.is_ipv6(), route.table_id(), route.dst_len(), route.route_type()) == (six, table, 0, kind) && wanted(route)
        })
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let mut need = |there: bool, what: &str| {
            if !there {
                missing.push(format!("the {what}"));
            }
        };
        if let Some(way) = self.way {
            let same = |route: &RouteMessage| route.oif() == Some(way.device) && route.prefsrc() == Some(&way.source.into());
            need(self.has(false, LOCAL_TABLE, RouteType::Local, same), "IPv4 route in table 100");
            need(self.devices_that(0).next().is_none(), "setting accept_local of a device");
            need(self.strict_devices().next().is_none(), "setting rp_filter of a device");
        }
        if self.six == Six::On {
            let same = |route: &RouteMessage| route.oif() == Some(LOOPBACK);
            need(self.has(true, LOCAL_TABLE, RouteType::Local, same), "IPv6 route in table 100");
            need(self.has(true, NOWHERE_TABLE, RouteType::Anycast, same), "IPv6 route in table 101");
        }
        missing
    }
}

/// The setting `accept_local` that devices of the namespace have from the start.
fn accepts_local(netns: &NetNs) -> io::Result<bool> {
    let setting = netns.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/default/accept_local"))?;
    Ok(setting.is_ok_and(|text| text.trim() == "1"))
}

/// Of these rules those that are there, or those that are not. What the kernel need not be asked for in vain is not in its log.
async fn those(
    route: &Connection<Route>,
    leads: impl IntoIterator<Item = Lead>,
    there: bool,
) -> nlink::Result<impl Iterator<Item = Lead>> {
    let rules = route.get_rules().await?;
    Ok(leads.into_iter().filter(move |lead| rules.iter().any(|rule| lead.is(rule)) == there))
}

async fn add(route: &Connection<Route>, leads: impl IntoIterator<Item = Lead>) -> nlink::Result<()> {
    for lead in those(route, leads, false).await? {
        match route.add_rule(lead.rule()).await {
            // A kernel without IPv6 at all.
            Err(error) if error.errno() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {}
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes these rules; whether there were any.
async fn delete(route: &Connection<Route>, leads: impl IntoIterator<Item = Lead>) -> nlink::Result<bool> {
    let mut any = false;
    for lead in those(route, leads, true).await? {
        any = true;
        route.del_rule_if_exists(lead.rule()).await?;
    }
    Ok(any)
}

/// Makes the tables and the rules that lead to them.
pub(super) async fn install(netns: &NetNs) -> nlink::Result<()> {
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    route.set_link_up("lo").await?;
    let shown = Shown::read(netns, &route).await?;
    // Without a way out there is nothing to hold back, and the rules still end where nothing leads.
    if let Some(way) = shown.way {
        for device in shown.devices_that(0) {
            route.set_ipv4_devconf_by_index(device, &[(Ipv4Devconf::AcceptLocal, 1)]).await?;
        }
        for device in shown.strict_devices() {
            route.set_ipv4_devconf_by_index(device, &[(Ipv4Devconf::RpFilter, LOOSENED)]).await?;
        }
        route.replace_route(stays_v4(way, shown.metrics())).await?;
    }
    if shown.six == Six::On {
        route.replace_route(stays_v6()).await?;
        route.replace_route(nowhere_v6(shown.metrics())).await?;
    }
    add(&route, shown.six.leads()).await
}

/// Removes what [`install`] and [`cut`] made. That it is not there is no error.
pub(super) async fn remove(netns: &NetNs) -> nlink::Result<()> {
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    let shown = Shown::read(netns, &route).await?;
    // The last one first: it ends what those before it have led elsewhere.
    let mut leads: Vec<Lead> = shown.six.leads().collect();
    leads.reverse();
    let captured = delete(&route, leads).await?;
    let joined = join(netns).await;
    if shown.has(false, LOCAL_TABLE, RouteType::Local, |_| true) {
        let any_v4 = Ipv4Route::default_route().table(LOCAL_TABLE).route_type(RouteType::Local).scope(RouteScope::Host);
        route.del_route_if_exists(any_v4).await?;
    }
    if shown.six == Six::On && shown.has(true, LOCAL_TABLE, RouteType::Local, |_| true) {
        route.del_route_if_exists(stays_v6()).await?;
    }
    if shown.six == Six::On && shown.has(true, NOWHERE_TABLE, RouteType::Anycast, |_| true) {
        route.del_route_if_exists(nowhere_v6(RouteMetrics::new())).await?;
    }
    if captured && !accepts_local(netns)? {
        for device in shown.devices_that(1) {
            route.set_ipv4_devconf_by_index(device, &[(Ipv4Devconf::AcceptLocal, 0)]).await?;
        }
    }
    // Also of devices that are down by now.
    let loosened = shown.links.iter().filter(|link| link.ipv4_devconf(Ipv4Devconf::RpFilter) == Some(LOOSENED));
    for device in loosened.map(LinkMessage::ifindex) {
        route.set_ipv4_devconf_by_index(device, &[(Ipv4Devconf::RpFilter, shown.sources.before())]).await?;
    }
    joined
}

/// Whether there is a rule of ours: of the capture, or one that cuts off. Tables to which none leads do nothing.
pub(super) async fn traces(netns: &NetNs) -> nlink::Result<bool> {
    let rules = Connection::<Route>::new_in(netns.as_fd())?.get_rules().await?;
    let mut leads = Six::On.leads().chain(lead::cuts());
    Ok(leads.any(|lead| rules.iter().any(|rule| lead.is(rule))))
}

/// What is missing of what [`install`] made.
pub(super) async fn missing(netns: &NetNs) -> nlink::Result<Vec<String>> {
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    let (shown, rules) = (Shown::read(netns, &route).await?, route.get_rules().await?);
    let leads = shown.six.leads().filter(|lead| !rules.iter().any(|rule| lead.is(rule)));
    Ok(leads.map(|lead| format!("the {lead}")).chain(shown.missing()).collect())
}

/// Lets nothing out of the pod but to itself: routing forbids it, whatever becomes of the packet filter. What stands already is cut too.
pub(super) async fn cut(netns: &NetNs) -> nlink::Result<()> {
    add(&Connection::<Route>::new_in(netns.as_fd())?, lead::cuts()).await
}

/// Undoes [`cut`].
pub(super) async fn join(netns: &NetNs) -> nlink::Result<()> {
    delete(&Connection::<Route>::new_in(netns.as_fd())?, lead::cuts()).await.map(drop)
}
