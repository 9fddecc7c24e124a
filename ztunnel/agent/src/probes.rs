//! Probes of the kubelet: what a program of the node opens to a captured pod comes from an address that the pod's rules let pass.
//!
//! So does everything else that runs on the node itself, outside of pods: it is as trusted as the kubelet.

use std::{collections::BTreeSet, net::IpAddr, os::fd::AsFd, time::Duration};

use ambit_runtime::netns::NetNs;
use nlink::{
    Connection, Nftables,
    netlink::nftables::{BaseChain, Chain, Expr, Family, MetaKey, NatHook, NatStatement, Priority, Register, Rule},
};

use crate::{
    Agent, Error,
    rules::{
        nftables,
        table::{PROBE_V4, PROBE_V6},
    },
};

const TABLE: &str = "ambit-probes";
const CHAIN: &str = "postrouting";
const TCP: u8 = 6;
/// Before the rules of others that would give these connections the node's own address: the first translation counts.
const BEFORE_OTHERS: i32 = 99;

/// Pause between two looks: pods that change all the time do not keep the agent from all else.
const APART: Duration = Duration::from_millis(100);
/// How often it is looked without news: an address may come late, and others flush the node's rules.
const CHECK: Duration = Duration::from_secs(1);

/// What was written, and how the kernel shows it.
struct Written {
    pods: BTreeSet<IpAddr>,
    shown: Vec<String>,
    /// The number of changes ever made to the node's packet filter.
    generation: u32,
}

/// Keeps the node's rules equal to the pods of the agent, for ever; what somebody else removes or changes is written again.
pub async fn follow(host: &NetNs, agent: &Agent) {
    let mut statuses = agent.statuses();
    let mut written = None;
    loop {
        let pods: BTreeSet<IpAddr> = agent.namespaces().iter().flat_map(addresses).collect();
        if let Err(error) = keep(host, pods, &mut written).await {
            tracing::error!(%error, "probes of the pods will be refused");
        }
        tokio::time::sleep(APART).await;
        if let Ok(Err(_)) = tokio::time::timeout(CHECK, statuses.changed()).await {
            return;
        }
    }
}

async fn keep(host: &NetNs, pods: BTreeSet<IpAddr>, written: &mut Option<Written>) -> Result<(), Error> {
    let generation = nftables::generation(host).await.map_err(fail)?;
    if let Some(written) = written.as_mut().filter(|written| written.pods == pods) {
        if written.generation == generation {
            return Ok(());
        }
        if nftables::shown_of(host, TABLE).await.map_err(fail)? == written.shown {
            written.generation = generation;
            return Ok(());
        }
        tracing::warn!("the rules for probes were changed by somebody else, and are written again");
        metrics::counter!("ambit_capture_repairs_total", "what" => "probes").increment(1);
    }
    *written = None;
    write(host, &pods).await?;
    // The generation before what is shown: a change in between is looked at the next time.
    let generation = nftables::generation(host).await.map_err(fail)?;
    let shown = nftables::shown_of(host, TABLE).await.map_err(fail)?;
    // The table, its chain and a rule for each pod; otherwise somebody has been at it already, and it is written again.
    *written = (shown.len() == pods.len() + 2).then_some(Written { pods, shown, generation });
    Ok(())
}

fn fail(error: nlink::Error) -> Error {
    Error::Rules(format!("on the node: {error}"))
}

/// The addresses at which others reach the pod.
fn addresses(netns: &NetNs) -> Vec<IpAddr> {
    let reachable = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    netns.addresses().unwrap_or_default().into_iter().filter(reachable).collect()
}

/// Writes the rules for these pods, in place of those for others.
///
/// # Errors
/// When the kernel refuses.
pub async fn write(host: &NetNs, pods: &BTreeSet<IpAddr>) -> Result<(), Error> {
    let nft = Connection::<Nftables>::new_in(host.as_fd()).map_err(fail)?;
    let there = nft.list_tables_in(Family::Inet).await.map_err(fail)?.iter().any(|table| table.name == TABLE);
    let transaction = nft.transaction();
    let transaction = if there { transaction.del_table(TABLE, Family::Inet) } else { transaction };
    let base = BaseChain::nat(NatHook::Postrouting, Priority::Custom(BEFORE_OTHERS));
    let chain = Chain::new(TABLE, CHAIN).map_err(fail)?.family(Family::Inet).base(base);
    let mut transaction = transaction.add_table(TABLE, Family::Inet).add_chain(chain);
    for pod in pods {
        let (probe, length) = if pod.is_ipv4() { (IpAddr::from(PROBE_V4), 32) } else { (PROBE_V6.into(), 128) };
        // Only what has a socket here has a user: what is forwarded for others is none of the node's own.
        let own = Rule::new(TABLE, CHAIN).expr(Expr::Meta { dreg: Register::R0, key: MetaKey::SkUid });
        let rule = own.match_l4proto(TCP).match_daddr(*pod, length).nat(NatStatement::snat(probe));
        transaction = transaction.add_rule(rule.family(Family::Inet));
    }
    transaction.commit(&nft).await.map_err(fail)
}
