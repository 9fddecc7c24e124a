//! The capture rules of a pod, written into its network namespace over netlink (wire contract, section 5).
//!
//! They belong to the pod, not to the proxy: while no proxy listens, captured connections are refused and never go in clear.
//! TCP is captured, and DNS over UDP; other UDP is left alone.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
};

use ambit_model::address::port;
use ambit_runtime::{netns::NetNs, socket::PROXY_MARK};
use nlink::{
    Connection, Ipv4Route, Ipv6Route, Nftables, Route, RuleBuilder,
    netlink::{
        nftables::{BaseChain, Chain, Family, FilterHook, NatHook, Priority, Rule},
        types::route::{RouteScope, RouteType},
    },
};

use crate::Error;

/// The table that holds all rules of the capture, in the `inet` family.
const TABLE: &str = "ambit-capture";
/// The bits of a mark that are ours.
const MASK: u32 = 0xfff;
/// The mark of connections that the proxy opened to the pod with the client's address: their answers go back to the proxy.
const LOCAL_MARK: u32 = 0x111;
/// The routing table that delivers to the pod itself whatever the destination is.
const LOCAL_TABLE: u32 = 100;
/// The preference of the routing rule, before the main table's.
const LOCAL_PREFERENCE: u32 = 32764;
const TCP: u8 = 6;
/// The port of resolvers.
const DNS: u16 = 53;
/// What the proxy asks resolvers is tracked apart from what is redirected to it, which may have the same addresses and ports.
const DNS_ZONE: u16 = 1;

/// The source address that the node gives to its own probes of a pod, so that they are not captured.
pub const PROBE_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 7, 127);
/// As [`PROBE_V4`], for IPv6.
pub const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff);

/// Writes the rules into the namespace, in place of those that an earlier call wrote. Either all rules are in force or none.
///
/// # Errors
/// When the kernel refuses: no permission, or no nftables.
pub async fn install(netns: &NetNs) -> Result<(), Error> {
    let fail = |error: nlink::Error| Error::Rules(error.to_string());
    let route = Connection::<Route>::new_in(netns.as_fd()).map_err(fail)?;
    route.set_link_up("lo").await.map_err(fail)?;
    let v4 = Ipv4Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local).scope(RouteScope::Host);
    route.replace_route(v4).await.map_err(fail)?;
    let v6 = Ipv6Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local);
    route.replace_route(v6).await.map_err(fail)?;
    for rule in local_rules() {
        match route.add_rule(rule).await {
            Err(error) if !error.is_already_exists() => return Err(fail(error)),
            _ => {}
        }
    }
    let nft = Connection::<Nftables>::new_in(netns.as_fd()).map_err(fail)?;
    // What is there goes in the same transaction. (Adding a table that exists is refused, so it is not added to be deleted.)
    let there = nft.list_tables_in(Family::Inet).await.map_err(fail)?.iter().any(|table| table.name == TABLE);
    let transaction = nft.transaction();
    let transaction = if there { transaction.del_table(TABLE, Family::Inet) } else { transaction };
    let mut transaction = transaction.add_table(TABLE, Family::Inet);
    for chain in chains().map_err(fail)? {
        transaction = transaction.add_chain(chain);
    }
    for rule in rules() {
        transaction = transaction.add_rule(rule.family(Family::Inet));
    }
    transaction.commit(&nft).await.map_err(fail)
}

/// Removes the rules. That they are not there is no error.
///
/// # Errors
/// When the kernel refuses.
pub async fn remove(netns: &NetNs) -> Result<(), Error> {
    let fail = |error: nlink::Error| Error::Rules(error.to_string());
    let nft = Connection::<Nftables>::new_in(netns.as_fd()).map_err(fail)?;
    nft.del_table_if_exists(TABLE, Family::Inet).await.map_err(fail)?;
    let route = Connection::<Route>::new_in(netns.as_fd()).map_err(fail)?;
    for rule in local_rules() {
        route.del_rule_if_exists(rule).await.map_err(fail)?;
    }
    let v4 = Ipv4Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local).scope(RouteScope::Host);
    route.del_route_if_exists(v4).await.map_err(fail)?;
    let v6 = Ipv6Route::default_route().dev("lo").table(LOCAL_TABLE).route_type(RouteType::Local);
    route.del_route_if_exists(v6).await.map_err(fail)?;
    Ok(())
}

/// Whether the rules are in the namespace, with as many rules as [`install`] writes.
///
/// # Errors
/// When the kernel refuses.
pub async fn installed(netns: &NetNs) -> Result<bool, Error> {
    let fail = |error: nlink::Error| Error::Rules(error.to_string());
    let nft = Connection::<Nftables>::new_in(netns.as_fd()).map_err(fail)?;
    match nft.list_rules(TABLE, Family::Inet).await {
        Ok(found) => Ok(found.len() == rules().len()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(fail(error)),
    }
}

fn local_rules() -> [RuleBuilder; 2] {
    [RuleBuilder::v4(), RuleBuilder::v6()]
        .map(|rule| rule.priority(LOCAL_PREFERENCE).fwmark_mask(LOCAL_MARK, MASK).table(LOCAL_TABLE))
}

fn chains() -> Result<Vec<Chain>, nlink::Error> {
    let chain = |name: &str, base: BaseChain| Ok::<_, nlink::Error>(Chain::new(TABLE, name)?.family(Family::Inet).base(base));
    Ok(vec![
        chain("raw-prerouting", BaseChain::filter(FilterHook::Prerouting, Priority::Raw))?,
        chain("raw-output", BaseChain::filter(FilterHook::Output, Priority::Raw))?,
        chain("mangle-prerouting", BaseChain::filter(FilterHook::Prerouting, Priority::Mangle))?,
        chain("mangle-output", BaseChain::route(Priority::Mangle))?,
        chain("nat-prerouting", BaseChain::nat(NatHook::Prerouting, Priority::DstNat))?,
        chain("nat-output", BaseChain::nat(NatHook::Output, Priority::DstNat))?,
    ])
}

fn rules() -> Vec<Rule> {
    let rule = |chain: &str| Rule::new(TABLE, chain);
    let proxy = |chain: &str| rule(chain).match_mark_masked(PROXY_MARK, MASK);
    let loopback = |chain: &str| {
        [
            rule(chain).match_daddr(IpAddr::from([127, 0, 0, 0]), 8).accept(),
            rule(chain).match_daddr(Ipv6Addr::LOCALHOST.into(), 128).accept(),
        ]
    };
    let mut rules = vec![
        rule("raw-prerouting").match_udp_sport(DNS).set_ct_zone(DNS_ZONE),
        proxy("raw-output").match_udp_dport(DNS).set_ct_zone(DNS_ZONE),
        // What the proxy sends to the pod comes back in here over the loopback device: remember the connection, and send its answers,
        // which are addressed to the client, to the proxy.
        proxy("mangle-prerouting").set_ct_mark(LOCAL_MARK),
        rule("mangle-output").match_ct_mark(LOCAL_MARK).set_mark_masked(LOCAL_MARK, MASK),
        rule("nat-prerouting").match_saddr(PROBE_V4.into(), 32).accept(),
        rule("nat-prerouting").match_saddr(PROBE_V6.into(), 128).accept(),
        proxy("nat-prerouting").accept(),
        rule("nat-output").match_daddr(PROBE_V4.into(), 32).accept(),
        rule("nat-output").match_daddr(PROBE_V6.into(), 128).accept(),
        proxy("nat-output").accept(),
        // Also to the loopback device: what listens there asks the cluster's resolver in turn, and knows less than the proxy.
        rule("nat-output").match_udp_dport(DNS).redirect(Some(port::DNS)),
        rule("nat-output").match_mark_masked(LOCAL_MARK, MASK).accept(),
    ];
    rules.extend(loopback("nat-prerouting"));
    rules.push(rule("nat-prerouting").match_tcp_dport_not(port::HBONE).redirect(Some(port::INBOUND_PLAINTEXT)));
    // The pod to itself, by whichever of its addresses.
    rules.push(rule("nat-output").match_oif("lo").accept());
    rules.extend(loopback("nat-output"));
    rules.push(rule("nat-output").match_tcp_dport(DNS).redirect(Some(port::DNS)));
    rules.push(rule("nat-output").match_l4proto(TCP).redirect(Some(port::OUTBOUND)));
    rules
}
