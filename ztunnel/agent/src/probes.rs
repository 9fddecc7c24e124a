//! Probes of the kubelet: what a program of the node opens to a captured pod comes from an address that the pod's rules let pass.
//!
//! So does everything else that runs on the node itself, outside of pods: it is as trusted as the kubelet.

use std::{collections::BTreeSet, net::IpAddr, os::fd::AsFd};

use ambit_runtime::netns::NetNs;
use nlink::{
    Connection, Nftables,
    netlink::nftables::{BaseChain, Chain, Expr, Family, MetaKey, NatHook, NatStatement, Priority, Register, Rule},
};

use crate::{
    Agent, Error,
    rules::table::{PROBE_V4, PROBE_V6},
};

const TABLE: &str = "ambit-probes";
const CHAIN: &str = "postrouting";
const TCP: u8 = 6;
/// Before the rules of others that would give these connections the node's own address: the first translation counts.
const BEFORE_OTHERS: i32 = 99;

/// Keeps the node's rules equal to the pods of the agent, for ever.
pub async fn follow(host: &NetNs, agent: &Agent) {
    let mut statuses = agent.statuses();
    let mut written = None;
    loop {
        let pods: BTreeSet<IpAddr> = agent.namespaces().iter().flat_map(addresses).collect();
        if written.as_ref() != Some(&pods) {
            match write(host, &pods).await {
                Ok(()) => written = Some(pods),
                Err(error) => tracing::error!(%error, "probes of the pods will be refused"),
            }
        }
        // Also without news: an address may come late.
        if let Ok(Err(_)) = tokio::time::timeout(std::time::Duration::from_secs(1), statuses.changed()).await {
            return;
        }
    }
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
    let fail = |error: nlink::Error| Error::Rules(format!("on the node: {error}"));
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
