//! Service addresses for those that no proxy captures: nftables rules on the node.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use ambit_runtime::netns::NetNs;
use nlink::netlink::nftables::{
    BaseChain, Chain, CmpOp, Expr, Family, FilterHook, NatHook, NatStatement, NumgenKind, Priority, Register, Rule, Transaction,
};
use nlink::netlink::{Connection, Nftables};

use crate::Error;
use crate::net::plan::{SERVICES_V4, SERVICES_V6};

/// Name of our table, in the families ip and ip6.
const TABLE: &str = "ambit-services";
/// Chains that translate: for what is routed through the node, and for what the node itself sends.
const TRANSLATE: [(&str, NatHook); 2] = [("prerouting", NatHook::Prerouting), ("output", NatHook::Output)];
/// The chain that lets a pod reach itself through a service address.
const HAIRPIN: &str = "hairpin";
/// Chains that refuse what was not translated.
const REFUSE: [(&str, FilterHook); 2] = [("refuse-forward", FilterHook::Forward), ("refuse-output", FilterHook::Output)];

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One port of one service address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRule {
    /// The service address, in 10.96.0.0/16 or fd96::/108.
    pub vip: IpAddr,
    /// The service port.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where connections go, each with equal chance. Those of another family than the service address are left out; with none
    /// left, connections are refused.
    pub endpoints: Vec<SocketAddr>,
}

impl ServiceRule {
    /// A TCP port.
    pub fn tcp(vip: IpAddr, port: u16, endpoints: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { vip, port, protocol: Protocol::Tcp, endpoints: endpoints.into_iter().collect() }
    }
}

/// Whether our tables are in a namespace yet. Held while they are changed, so that changes do not mix.
pub(crate) type Present = tokio::sync::Mutex<bool>;

/// Replaces all rules of a namespace in one transaction.
pub(crate) async fn apply(netns: &NetNs, present: &Present, rules: &[ServiceRule]) -> Result<(), Error> {
    let what = "set the rules for service addresses (kernel options CONFIG_NF_TABLES, CONFIG_NFT_NAT, CONFIG_NFT_NUMGEN)";
    let connection = Connection::<Nftables>::new_in(netns.as_fd()).map_err(Error::netlink(what))?;
    let mut present = present.lock().await;
    let mut transaction = connection.transaction();
    for family in [Family::Ip, Family::Ip6] {
        if *present {
            transaction = transaction.del_table(TABLE, family);
        }
        transaction = table(transaction, family, rules).map_err(Error::netlink(what))?;
    }
    transaction.commit(&connection).await.map_err(Error::netlink(what))?;
    *present = true;
    Ok(())
}

fn table(transaction: Transaction, family: Family, rules: &[ServiceRule]) -> nlink::Result<Transaction> {
    let mut transaction = transaction.add_table(TABLE, family);
    for (name, hook) in TRANSLATE {
        let chain = Chain::new(TABLE, name)?.family(family).base(BaseChain::nat(hook, Priority::DstNat));
        transaction = transaction.add_chain(chain);
        for rule in rules.iter().filter(|rule| rule.vip.is_ipv4() == (family == Family::Ip)) {
            for rule in translate(name, family, rule) {
                transaction = transaction.add_rule(rule);
            }
        }
    }
    let chain = Chain::new(TABLE, HAIRPIN)?.family(family).base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    transaction = transaction.add_chain(chain);
    for own in endpoint_addresses(family, rules) {
        transaction = transaction.add_rule(hairpin(family, own));
    }
    let (range, length) = match family {
        Family::Ip => (IpAddr::V4(SERVICES_V4.0), SERVICES_V4.1),
        _ => (IpAddr::V6(SERVICES_V6.0), SERVICES_V6.1),
    };
    for (name, hook) in REFUSE {
        let chain = Chain::new(TABLE, name)?.family(family).base(BaseChain::filter(hook, Priority::Filter));
        let refused = || Rule::new(TABLE, name).family(family).match_daddr(range, length);
        transaction = transaction
            .add_chain(chain)
            .add_rule(refused().match_l4proto(nix::libc::IPPROTO_TCP as u8).reject_tcp_reset())
            .add_rule(refused().reject());
    }
    Ok(transaction)
}

fn endpoint_addresses(family: Family, rules: &[ServiceRule]) -> BTreeSet<IpAddr> {
    let all = rules.iter().flat_map(|rule| &rule.endpoints).map(SocketAddr::ip);
    all.filter(|ip| ip.is_ipv4() == (family == Family::Ip)).collect()
}

/// A pod that was sent to itself must see another source than itself, or it would answer itself directly and not through the node.
fn hairpin(family: Family, own: IpAddr) -> Rule {
    let length = if own.is_ipv4() { 32 } else { 128 };
    Rule::new(TABLE, HAIRPIN).family(family).match_saddr(own, length).match_daddr(own, length).masquerade()
}

/// One rule per endpoint: the first takes 1 of n, the next 1 of the n - 1 left, and so on, so that each has an equal chance.
fn translate(chain: &str, family: Family, service: &ServiceRule) -> Vec<Rule> {
    let endpoints: Vec<_> = service.endpoints.iter().filter(|endpoint| endpoint.is_ipv4() == service.vip.is_ipv4()).collect();
    let length = if service.vip.is_ipv4() { 32 } else { 128 };
    let left = (1..=endpoints.len()).rev();
    left.zip(&endpoints)
        .map(|(left, endpoint)| {
            let mut rule = Rule::new(TABLE, chain).family(family).match_daddr(service.vip, length);
            rule = match service.protocol {
                Protocol::Tcp => rule.match_tcp_dport(service.port),
                Protocol::Udp => rule.match_udp_dport(service.port),
            };
            if left > 1 {
                let modulus = u32::try_from(left).unwrap_or(u32::MAX);
                rule = rule
                    .expr(Expr::Numgen { dreg: Register::R0, kind: NumgenKind::Random, modulus, offset: 0 })
                    .expr(Expr::Cmp { sreg: Register::R0, op: CmpOp::Eq, data: 0_u32.to_ne_bytes().to_vec() });
            }
            rule.nat(NatStatement::dnat(endpoint.ip()).port(endpoint.port()))
        })
        .collect()
}
