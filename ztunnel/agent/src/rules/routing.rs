//! The routing that belongs to the capture, and the routing that cuts a pod off.

use std::{io, os::fd::AsFd};

use ambit_runtime::netns::NetNs;
use nlink::{
    AddressFamily, Connection, Ipv4Route, Ipv6Route, Route, RuleBuilder,
    netlink::types::route::{RouteScope, RouteType},
};

use super::table::{LOCAL_MARK, MASK};

/// The routing table that delivers to the pod itself whatever the destination is.
const LOCAL_TABLE: u32 = 100;
/// The preference of the routing rule, before the main table's.
const LOCAL_PREFERENCE: u32 = 32764;
/// The preference of the rule that cuts a pod off: right after the one for the pod's own addresses, before all others.
const CUT_PREFERENCE: u32 = 1;
/// The index of the loopback device, in every namespace.
const LOOPBACK: u32 = 1;

/// Whether the namespace has IPv6. Where it is switched off nothing leaves over it, and routes cannot be made.
fn has_six(netns: &NetNs) -> io::Result<bool> {
    let setting = netns.run(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6"))?;
    Ok(setting.is_ok_and(|text| text.trim() == "0"))
}

fn v4() -> Ipv4Route {
    Ipv4Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local).scope(RouteScope::Host)
}

fn v6() -> Ipv6Route {
    Ipv6Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local)
}

fn rules(six: bool, rule: impl Fn(RuleBuilder) -> RuleBuilder) -> Vec<RuleBuilder> {
    let families = [RuleBuilder::v4(), RuleBuilder::v6()].into_iter().take(if six { 2 } else { 1 });
    families.map(rule).collect()
}

fn local(rule: RuleBuilder) -> RuleBuilder {
    rule.priority(LOCAL_PREFERENCE).fwmark_mask(LOCAL_MARK, MASK).table(LOCAL_TABLE)
}

/// Of both families, whatever is switched off on which device.
fn cuts() -> Vec<RuleBuilder> {
    rules(true, cutting)
}

fn cutting(rule: RuleBuilder) -> RuleBuilder {
    rule.priority(CUT_PREFERENCE).prohibit()
}

async fn add(route: &Connection<Route>, rules: Vec<RuleBuilder>) -> nlink::Result<()> {
    for rule in rules {
        match route.add_rule(rule).await {
            // A kernel without IPv6 at all.
            Err(error) if error.errno() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {}
            Err(error) if !error.is_already_exists() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Makes the table and the rules that lead to it.
pub(super) async fn install(netns: &NetNs) -> nlink::Result<()> {
    let six = has_six(netns)?;
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    route.set_link_up("lo").await?;
    route.replace_route(v4()).await?;
    if six {
        route.replace_route(v6()).await?;
    }
    add(&route, rules(six, local)).await
}

/// Removes what [`install`] and [`cut`] made. That it is not there is no error.
pub(super) async fn remove(netns: &NetNs) -> nlink::Result<()> {
    let six = has_six(netns)?;
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    for rule in rules(six, local) {
        route.del_rule_if_exists(rule).await?;
    }
    let joined = join(netns).await;
    route.del_route_if_exists(v4()).await?;
    if six {
        route.del_route_if_exists(v6()).await?;
    }
    joined
}

/// What is missing of what [`install`] made.
pub(super) async fn missing(netns: &NetNs) -> nlink::Result<Vec<String>> {
    let six = has_six(netns)?;
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    let routes = route.get_routes_for_table(LOCAL_TABLE).await?;
    let mut missing = Vec::new();
    for (name, family, v6) in [("IPv4", AddressFamily::v4(), false), ("IPv6", AddressFamily::v6(), true)] {
        if v6 && !six {
            continue;
        }
        let leads = route.get_rules_for_family(family).await?.iter().any(|rule| {
            rule.priority() == LOCAL_PREFERENCE
                && rule.is_lookup()
                && rule.table_id() == LOCAL_TABLE
                && rule.fwmark() == Some(LOCAL_MARK)
                && rule.fwmask() == Some(MASK)
                && (rule.src_len(), rule.dst_len()) == (0, 0)
        });
        if !leads {
            missing.push(format!("the {name} routing rule to table {LOCAL_TABLE}"));
        }
        let delivers = routes.iter().any(|route| {
            route.is_ipv6() == v6
                && route.dst_len() == 0
                && route.route_type() == RouteType::Local
                && route.oif() == Some(LOOPBACK)
        });
        if !delivers {
            missing.push(format!("the {name} route in table {LOCAL_TABLE}"));
        }
    }
    Ok(missing)
}

/// Lets nothing out of the pod but to itself: routing forbids it, whatever becomes of the packet filter. What stands already is cut too.
pub(super) async fn cut(netns: &NetNs) -> nlink::Result<()> {
    add(&Connection::<Route>::new_in(netns.as_fd())?, cuts()).await
}

/// Undoes [`cut`].
pub(super) async fn join(netns: &NetNs) -> nlink::Result<()> {
    let route = Connection::<Route>::new_in(netns.as_fd())?;
    for rule in cuts() {
        match route.del_rule_if_exists(rule).await {
            Err(error) if error.errno() != Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
