//! The rules over netlink, as one table of nftables. No program is run.

use std::{fmt::Write, os::fd::AsFd};

use ambit_runtime::{netns::NetNs, socket::VOUCHED};
use nlink::{
    Connection, Nftables,
    netlink::{
        nftables::{
            BaseChain, Chain, CmpOp, Expr, Family, FibFlags, FilterHook, MetaKey, NFT_TABLE_F_DORMANT, NatHook, Priority,
            Register, Rule, Table, TcpFlags,
        },
        types::route::RouteType,
    },
};

use super::table::{Action, Line, MASK, Match, Place};

/// The table that holds all rules of the capture, in the `inet` family.
const TABLE: &str = "ambit-capture";
const TCP: u8 = 6;
/// `NFPROTO_IPV6`.
const SIX: u8 = 10;

/// Writes the rules in place of those that an earlier call wrote. Either all are in force or none.
pub(super) async fn install(netns: &NetNs, lines: &[Line]) -> nlink::Result<()> {
    let nft = Connection::<Nftables>::new_in(netns.as_fd())?;
    // What is there goes in the same transaction. (Adding a table that exists is refused, so it is not added to be deleted.)
    let there = the_table(&nft, TABLE).await?.is_some();
    let transaction = nft.transaction();
    let transaction = if there { transaction.del_table(TABLE, Family::Inet) } else { transaction };
    let mut transaction = transaction.add_table(TABLE, Family::Inet);
    let mut places: Vec<Place> = lines.iter().map(|line| line.place).collect();
    places.sort();
    places.dedup();
    for place in places {
        let (name, base) = chain(place);
        transaction = transaction.add_chain(Chain::new(TABLE, name)?.family(Family::Inet).base(base));
    }
    for line in lines {
        transaction = transaction.add_rule(rule(line).family(Family::Inet));
    }
    transaction.commit(&nft).await
}

/// Removes the rules. That they are not there is no error.
pub(super) async fn remove(netns: &NetNs) -> nlink::Result<()> {
    let nft = Connection::<Nftables>::new_in(netns.as_fd())?;
    // What the kernel is asked for in vain is in the log.
    if the_table(&nft, TABLE).await?.is_none() {
        return Ok(());
    }
    nft.del_table_if_exists(TABLE, Family::Inet).await.map(drop)
}

/// A table of the `inet` family, if it is there.
async fn the_table(nft: &Connection<Nftables>, name: &str) -> nlink::Result<Option<Table>> {
    Ok(nft.list_tables_in(Family::Inet).await?.into_iter().find(|table| table.name == name))
}

/// What the kernel shows of the rules, in a form that is equal where the rules are.
pub(super) async fn shown(netns: &NetNs) -> nlink::Result<Vec<String>> {
    shown_of(netns, TABLE).await
}

/// What the kernel shows of a table of the `inet` family: nothing when it is not there.
pub(crate) async fn shown_of(netns: &NetNs, table: &str) -> nlink::Result<Vec<String>> {
    let nft = Connection::<Nftables>::new_in(netns.as_fd())?;
    let Some(found) = the_table(&nft, table).await? else { return Ok(Vec::new()) };
    // A table that is dormant has all its rules, and does nothing.
    let mut shown = vec![format!("table {:#x}", found.flags)];
    match nft.list_chains_in(table, Family::Inet).await {
        Ok(chains) => shown.extend(chains.into_iter().map(|chain| {
            format!("chain {} {:?} at {:?} {:?} {:?}", chain.name, chain.chain_type, chain.hook, chain.priority, chain.policy)
        })),
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    shown.sort();
    let rules = match nft.list_rules(table, Family::Inet).await {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        rules => rules?,
    };
    let mut rules: Vec<(String, String)> = rules
        .into_iter()
        .filter(|rule| rule.table == table)
        .map(|rule| {
            let mut text = String::new();
            rule.expression_bytes.iter().for_each(|byte| _ = write!(text, "{byte:02x}"));
            (rule.chain, text)
        })
        .collect();
    // Within a chain the order decides, between chains it means nothing.
    rules.sort_by(|one, other| one.0.cmp(&other.0));
    shown.extend(rules.into_iter().map(|(chain, text)| format!("rule {chain} {text}")));
    Ok(shown)
}

/// The number of changes that were ever made to the rules of the namespace, by anybody: while it stays, nothing has to be compared.
pub(crate) async fn generation(netns: &NetNs) -> nlink::Result<u32> {
    Connection::<Nftables>::new_in(netns.as_fd())?.generation().await
}

/// Which of the tables that `iptables-nft` writes are dormant: it does not show that, nor would it change it.
pub(super) async fn dormant(netns: &NetNs, names: &[&str]) -> nlink::Result<Vec<Table>> {
    let nft = Connection::<Nftables>::new_in(netns.as_fd())?;
    let mut tables = nft.list_tables().await?;
    tables.retain(|table| {
        [Family::Ip, Family::Ip6].contains(&table.family)
            && names.contains(&table.name.as_str())
            && table.flags & NFT_TABLE_F_DORMANT != 0
    });
    Ok(tables)
}

/// Wakes tables up.
pub(super) async fn wake(netns: &NetNs, tables: Vec<Table>) -> nlink::Result<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let nft = Connection::<Nftables>::new_in(netns.as_fd())?;
    let change = tables.into_iter().fold(nft.transaction(), |change, table| {
        change.update_table(&table.name, table.family, table.flags & !NFT_TABLE_F_DORMANT)
    });
    change.commit(&nft).await
}

fn chain(place: Place) -> (&'static str, BaseChain) {
    match place {
        Place::RawIn => ("raw-prerouting", BaseChain::filter(FilterHook::Prerouting, Priority::Raw)),
        Place::RawOut => ("raw-output", BaseChain::filter(FilterHook::Output, Priority::Raw)),
        Place::MarkIn => ("mangle-prerouting", BaseChain::filter(FilterHook::Prerouting, Priority::Mangle)),
        Place::MarkOut => ("mangle-output", BaseChain::route(Priority::Mangle)),
        Place::NatIn => ("nat-prerouting", BaseChain::nat(NatHook::Prerouting, Priority::DstNat)),
        Place::NatOut => ("nat-output", BaseChain::nat(NatHook::Output, Priority::DstNat)),
        Place::Leave => ("leave", BaseChain::filter(FilterHook::Output, Priority::Filter)),
    }
}

fn rule(line: &Line) -> Rule {
    let rule = line.matches.iter().fold(Rule::new(TABLE, chain(line.place).0), |rule, wanted| match *wanted {
        Match::Mark(mark) => rule.match_mark_masked(mark, MASK),
        Match::Vouched => rule.match_mark_masked(VOUCHED, VOUCHED),
        Match::ConnectionMark(mark) => rule.match_ct_mark(mark),
        Match::From(ip, length) => rule.match_saddr(ip, length),
        Match::To(ip, length) => rule.match_daddr(ip, length),
        Match::OutLoopback => rule.match_oif("lo"),
        Match::ToOwn => rule.match_fib_type(FibFlags::DADDR, RouteType::Local),
        Match::Six => {
            let family = Expr::Meta { dreg: Register::R0, key: MetaKey::NfProto };
            rule.expr(family).expr(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: vec![SIX] })
        }
        Match::Tcp => rule.match_l4proto(TCP),
        Match::Reset => rule.match_tcp_flags(TcpFlags::RST, TcpFlags::RST),
        Match::TcpTo(port) => rule.match_tcp_dport(port),
        Match::TcpNotTo(port) => rule.match_tcp_dport_not(port),
        Match::UdpTo(port) => rule.match_udp_dport(port),
        Match::UdpFrom(port) => rule.match_udp_sport(port),
    });
    match line.action {
        Action::Pass => rule.accept(),
        Action::Redirect(port) => rule.redirect(Some(port)),
        Action::MarkConnection(mark) => rule.set_ct_mark(mark),
        Action::MarkPacket(mark) => rule.set_mark_masked(mark, MASK),
        Action::Zone(zone) => rule.set_ct_zone(zone),
        Action::Refuse => rule.reject_tcp_reset(),
    }
}
