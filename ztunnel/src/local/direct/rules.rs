//! The rules that ask the proxy about each connection a pod opens or is to receive, in a table of the pod's namespace.
//!
//! The table belongs to the socket that made it: when the proxy ends, however it ends, the kernel removes it, and the capture rules alone
//! are in force again. What stays is the guard, a table by itself: it resets connections that go directly and that no living proxy vouches
//! for, at their next packet.

use std::net::{IpAddr, SocketAddr};

use ambit_model::address::port;
use ambit_runtime::{
    netns::NetNs,
    socket::{PROXY_MARK, VOUCHED},
};
use nlink::{
    Connection, Nftables,
    netlink::{
        nftables::{
            BaseChain, Chain, CmpOp, CtKey, DynsetExpr, DynsetOp, Expr, Family, FibFlags, FilterHook, LookupExpr, MetaKey,
            NFT_TABLE_F_OWNER, NatHook, PacketField, Priority, QueueExpr, RawExpr, Register, Rule, Set, SetDataType, SetElement,
            SetKeyType, TcpFlags,
        },
        types::route::RouteType,
    },
};
use std::os::fd::AsFd;

use super::netlink::attribute;
use crate::Error;

/// The bits of a mark that say what it means.
const MASK: u32 = 0xfff;
/// A packet that was allowed to go directly to where it is addressed. The capture rules take it for the proxy's own.
pub(super) const DIRECT: u32 = 0x1000_0000 | PROXY_MARK;
/// A packet that was allowed to go directly to the endpoint whose number is in the other bits.
const TO_ENDPOINT: u32 = 0x53a;
/// The connection mark of what goes directly; the number of the proxy is in the other bits.
const CONNECTION: u32 = 0x53b;
/// A packet whose address leads nowhere near: others to or from there need not be asked about for a while. As the mark of an endpoint, it
/// does not have the bit (1) by which routing lets a packet out of a captured pod.
pub(super) const FAR: u32 = 0x53c;
/// The bit of the mark of a packet that opens a connection although the kernel knows one that goes directly by its addresses and ports.
/// The kernel would treat it as it did that one, whatever is decided about it.
pub(super) const OLD: u32 = 0x4000_0000;
/// How long an address is known to be far.
pub(super) const FAR_FOR: std::time::Duration = std::time::Duration::from_secs(2);
/// Addresses known to be far.
const FAR_MOST: u32 = 4096;
/// After the capture rules that mark (-150) and before those that translate (-100).
const ASK: i32 = -149;
const NOTE: i32 = -148;
const GUARD: i32 = -147;
const TRANSLATE: i32 = -101;
/// Its number rises when its rules change, as it outlives the program that wrote it.
const GUARD_TABLE: &str = "ambit-near-guard-1";

/// The number of an endpoint of services, from which its mark is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EndpointNumber(u32);

impl EndpointNumber {
    /// The number that comes after this many others, while there are numbers.
    pub(super) fn after(others: usize) -> Option<Self> {
        u32::try_from(others + 1).ok().filter(|number| *number < 1 << 16).map(Self)
    }

    /// The mark of a packet that goes to it.
    pub(super) fn mark(self) -> u32 {
        self.0 << 12 | TO_ENDPOINT
    }
}

/// The number of a proxy among those that serve a pod, one after the other or for a while at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instance(u16);

impl Instance {
    pub(super) fn new() -> Self {
        Self(fastrand::u16(1..))
    }

    /// The number of its queues.
    pub(super) fn queue(self) -> u16 {
        self.0
    }

    fn connection_mark(self) -> u32 {
        u32::from(self.0) << 12 | CONNECTION
    }

    fn table(self) -> String {
        format!("ambit-near-{:04x}", self.0)
    }
}

/// The rules in one pod. Dropping it removes them.
pub(super) struct Rules {
    nft: Connection<Nftables>,
    table: String,
}

impl Rules {
    /// Writes the rules. Whoever listens to the queue must do so before.
    ///
    /// # Errors
    /// When the kernel refuses: no permission, no nftables, or none that can queue.
    pub(super) async fn install(netns: &NetNs, instance: Instance) -> Result<Self, Error> {
        let fail = |error: nlink::Error| Error::Rules(error.to_string());
        let nft = Connection::<Nftables>::new_in(netns.as_fd()).map_err(fail)?;
        guard(&nft).await.map_err(fail)?;
        let table = instance.table();
        // Kernels differ in what they can be asked to queue with.
        match write(&nft, &table, instance, queue(instance)).await {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, "no queue expression; the target of the same purpose is tried");
                write(&nft, &table, instance, queue_target(instance)).await.map_err(fail)?;
            }
        }
        Ok(Self { nft, table })
    }

    /// Makes an endpoint known, so that packets with its mark are translated to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) async fn add_endpoint(&self, number: EndpointNumber, endpoint: SocketAddr) -> Result<(), Error> {
        let (set, address) = match endpoint.ip() {
            IpAddr::V4(ip) => (endpoints(&self.table, false), SetElement::ipv4(ip)),
            IpAddr::V6(ip) => (endpoints(&self.table, true), SetElement::ipv6(ip)),
        };
        let value = SetElement::concat([address, SetElement::port(endpoint.port())]);
        let element = SetElement::mark(number.mark()).value(value);
        let adding = self.nft.transaction().add_set_elements(&set, &[element]);
        adding.commit(&self.nft).await.map_err(|error| Error::Rules(error.to_string()))
    }
}

async fn write(nft: &Connection<Nftables>, table: &str, instance: Instance, queue: Expr) -> Result<(), nlink::Error> {
    let mut transaction = nft.transaction().add_table_with_flags(table, Family::Inet, NFT_TABLE_F_OWNER);
    for set in [far(table, "far4", false), far(table, "far6", true), far(table, "strange4", false), far(table, "strange6", true)]
    {
        transaction = transaction.add_set(set);
    }
    for six in [false, true] {
        transaction = transaction.add_set(endpoints(table, six));
    }
    for (name, base) in [
        // What is vouched for is routed again: without a mark it does not leave the pod.
        ("ask-output", BaseChain::route(Priority::Custom(ASK))),
        ("note-output", BaseChain::filter(FilterHook::Output, Priority::Custom(NOTE))),
        ("translate", BaseChain::nat(NatHook::Output, Priority::Custom(TRANSLATE))),
        ("ask-prerouting", BaseChain::filter(FilterHook::Prerouting, Priority::Custom(ASK))),
        ("note-prerouting", BaseChain::filter(FilterHook::Prerouting, Priority::Custom(NOTE))),
    ] {
        transaction = transaction.add_chain(Chain::new(table, name)?.family(Family::Inet).base(base));
    }
    for rule in rules(table, instance, &queue) {
        transaction = transaction.add_rule(rule.family(Family::Inet));
    }
    transaction.commit(nft).await
}

fn far(table: &str, name: &str, six: bool) -> Set {
    let key = if six { SetKeyType::Ipv6Addr } else { SetKeyType::Ipv4Addr };
    Set::new(table, name).family(Family::Inet).key_type(key).dynamic().timeout(FAR_FOR).size(FAR_MOST)
}

fn endpoints(table: &str, six: bool) -> Set {
    let (name, address) = if six { ("endpoints6", SetKeyType::Ipv6Addr) } else { ("endpoints4", SetKeyType::Ipv4Addr) };
    let data = SetDataType::Value(SetKeyType::Concat(vec![address, SetKeyType::InetService]));
    Set::new(table, name).family(Family::Inet).key_type(SetKeyType::Mark).map(data)
}

fn rules(table: &str, instance: Instance, queue: &Expr) -> Vec<Rule> {
    let rule = |chain: &str| Rule::new(table, chain);
    let opening = |chain: &str| {
        let of = TcpFlags::SYN.bits() | TcpFlags::ACK.bits() | TcpFlags::RST.bits() | TcpFlags::FIN.bits();
        rule(chain).match_tcp_flags(TcpFlags::SYN, TcpFlags(of))
    };
    let marked = |chain: &str, mark| rule(chain).match_mark_masked(mark, MASK);
    let connection = instance.connection_mark();
    let mut rules = vec![
        rule("ask-output").match_ct_mark(connection).set_mark_masked(VOUCHED, VOUCHED),
        rule("ask-output").match_ct_mark(connection).match_tcp_flags(TcpFlags::RST, TcpFlags::RST).expr(queue.clone()),
        rule("ask-prerouting").match_ct_mark(connection).set_mark_masked(VOUCHED, VOUCHED),
    ];
    for (ask, sets, fields) in [
        ("ask-output", ["far4", "far6"], [PacketField::Ip4Daddr, PacketField::Ip6Daddr]),
        ("ask-prerouting", ["strange4", "strange6"], [PacketField::Ip4Saddr, PacketField::Ip6Saddr]),
    ] {
        // What was decided already, by the proxy that opens it or by another one.
        for mark in [PROXY_MARK, TO_ENDPOINT] {
            rules.push(marked(ask, mark).accept());
        }
        // What is captured leaves by the loopback device, too.
        let own = match ask {
            "ask-output" => rule(ask).match_fib_type(FibFlags::DADDR, RouteType::Local),
            _ => rule(ask).match_iif("lo"),
        };
        rules.push(own.accept());
        if ask == "ask-prerouting" {
            for port in [port::HBONE, port::INBOUND_PLAINTEXT, port::OUTBOUND] {
                rules.push(rule(ask).match_tcp_dport(port).accept());
            }
        }
        for (set, field) in sets.into_iter().zip(fields) {
            rules.push(opening(ask).match_in_set(field, set).match_ct_mark(0).accept());
        }
        let old = known_connection(opening(ask)).set_mark_masked(OLD, OLD);
        rules.extend([old, opening(ask).expr(queue.clone())]);
    }
    for (note, sets, fields) in [
        ("note-output", ["far4", "far6"], [PacketField::Ip4Daddr, PacketField::Ip6Daddr]),
        ("note-prerouting", ["strange4", "strange6"], [PacketField::Ip4Saddr, PacketField::Ip6Saddr]),
    ] {
        for (set, field) in sets.into_iter().zip(fields) {
            rules.push(marked(note, FAR).dynset(field, DynsetExpr::new(DynsetOp::Update, set, Register::R0)));
        }
        rules.push(rule(note).match_mark_masked(DIRECT, DIRECT | MASK).set_ct_mark(connection).set_mark_masked(VOUCHED, VOUCHED));
        rules.push(marked(note, TO_ENDPOINT).set_ct_mark(connection).set_mark_masked(VOUCHED, VOUCHED));
    }
    rules.extend([("endpoints4", 2, Register::Reg32_01), ("endpoints6", 10, Register::Reg32_04)].map(|(map, family, port)| {
        let guard: u8 = family;
        let nfproto = [
            Expr::Meta { dreg: Register::R0, key: MetaKey::NfProto },
            Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: vec![guard] },
        ];
        let rule = nfproto.into_iter().fold(rule("translate"), Rule::expr);
        // The mark is the key without the bit that vouches.
        rule.match_mark_masked(TO_ENDPOINT, MASK)
            .expr(Expr::Meta { dreg: Register::R0, key: MetaKey::Mark })
            .expr(Expr::Bitwise {
                sreg: Register::R0,
                dreg: Register::R0,
                len: 4,
                mask: (!(VOUCHED | OLD)).to_ne_bytes().to_vec(),
                xor: vec![0; 4],
            })
            .expr(LookupExpr::new(map, Register::R0).dreg(Register::R0))
            .expr(destination_nat(u32::from(family), Register::R0, port))
    }));
    rules
}

/// Matches what belongs to a connection that goes directly, whichever proxy let it.
fn known_connection(rule: Rule) -> Rule {
    rule.expr(Expr::Ct { dreg: Register::R0, key: CtKey::Mark })
        .expr(Expr::Bitwise {
            sreg: Register::R0,
            dreg: Register::R0,
            len: 4,
            mask: MASK.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        })
        .expr(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: CONNECTION.to_ne_bytes().to_vec() })
}

/// `dnat to` the address and port in these registers (`NFTA_NAT_*`).
fn destination_nat(family: u32, address: Register, port: Register) -> Expr {
    let (address, port) = (address as u32, port as u32);
    let mut data = Vec::new();
    for (kind, value) in [(1, 1), (2, family), (3, address), (4, address), (5, port), (6, port)] {
        attribute(&mut data, kind, &u32::to_be_bytes(value));
    }
    RawExpr::new("nat", data).into()
}

fn queue(instance: Instance) -> Expr {
    QueueExpr::num(instance.queue()).into()
}

/// As [`queue`], for kernels that have the queue only as a target of xtables (`NFTA_TARGET_*`, `struct xt_NFQ_info_v3`).
fn queue_target(instance: Instance) -> Expr {
    let mut data = Vec::new();
    attribute(&mut data, 1, b"NFQUEUE\0");
    attribute(&mut data, 2, &3_u32.to_be_bytes());
    let info = [instance.queue().to_ne_bytes(), 1_u16.to_ne_bytes(), [0; 2], [0; 2]].concat();
    attribute(&mut data, 3, &info);
    RawExpr::new("target", data).into()
}

/// Writes the guard, unless it is there: every proxy needs the same one.
async fn guard(nft: &Connection<Nftables>) -> Result<(), nlink::Error> {
    if nft.list_tables_in(Family::Inet).await?.iter().any(|table| table.name == GUARD_TABLE) {
        return Ok(());
    }
    let mut transaction = nft.transaction().add_table(GUARD_TABLE, Family::Inet);
    for (name, hook) in [("output", FilterHook::Output), ("prerouting", FilterHook::Prerouting)] {
        let base = BaseChain::filter(hook, Priority::Custom(GUARD));
        transaction = transaction.add_chain(Chain::new(GUARD_TABLE, name)?.family(Family::Inet).base(base));
        let vouched = Rule::new(GUARD_TABLE, name).match_mark_masked(VOUCHED, VOUCHED).accept();
        // That it is over may always be said, by the guard as well.
        let reset = Rule::new(GUARD_TABLE, name).match_tcp_flags(TcpFlags::RST, TcpFlags::RST).accept();
        let cut = known_connection(Rule::new(GUARD_TABLE, name));
        let cut = if name == "output" { cut.reject_tcp_reset() } else { cut.drop() };
        for rule in [vouched, reset, cut] {
            transaction = transaction.add_rule(rule.family(Family::Inet));
        }
    }
    transaction.commit(nft).await
}

/// Removes the guard from a pod that is no longer served. That it is not there is no error.
///
/// # Errors
/// When the kernel refuses.
pub(super) async fn remove_guard(netns: &NetNs) -> Result<(), Error> {
    let fail = |error: nlink::Error| Error::Rules(error.to_string());
    let nft = Connection::<Nftables>::new_in(netns.as_fd()).map_err(fail)?;
    nft.del_table_if_exists(GUARD_TABLE, Family::Inet).await.map(drop).map_err(fail)
}
