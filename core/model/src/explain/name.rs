//! What a question names: the pod that connects and the host that it dials.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Stage, Step};
use crate::{
    address::NetworkAddress,
    resolve::{Answer, Client, Family, resolve},
    service::Service,
    state::MeshState,
    workload::Workload,
};

/// How many near names are offered.
const NEAR: usize = 4;

/// Which connection is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    pod: String,
    host: String,
    port: u16,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// The text is no host with a port.
    #[error("{0:?} is not HOST:PORT, as api.shop:8080, 10.0.0.1:80 or [fd00::1]:80")]
    NoHostAndPort(String),
    /// There is no such pod.
    #[error("there is no pod {name}{}", offer(.near))]
    Pod {
        /// What was asked for.
        name: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// Several pods have this name.
    #[error("{name} is the name of several pods: {}", .all.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// Which they are.
        all: Vec<String>,
    },
    /// The pod has no address yet.
    #[error("{0} has no address")]
    NoAddress(String),
    /// No service and no pod has this name.
    #[error("{host} is no service or pod of the mesh{}; give the address if it is a host outside", offer(.near))]
    Host {
        /// What was asked for.
        host: String,
        /// Names like it.
        near: Vec<String>,
    },
}

fn offer(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!("; near are {}", names.join(", ")) }
}

impl Question {
    /// The connection from `pod` (`namespace/name`, or a name that no other pod has) to `to` (`host:port`).
    ///
    /// # Errors
    /// When `to` is not of that form.
    pub fn new(pod: &str, to: &str) -> Result<Self, Unanswerable> {
        let wrong = || Unanswerable::NoHostAndPort(to.to_owned());
        let (host, port) = to.rsplit_once(':').ok_or_else(wrong)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        // Without brackets the last part of an IPv6 address would be taken for the port.
        if bare.map_or(host.contains(':'), |host| host.parse::<IpAddr>().is_err()) {
            return Err(wrong());
        }
        let host = bare.unwrap_or(host).trim_end_matches('.');
        match port.parse() {
            Ok(port) if port != 0 && !host.is_empty() => Ok(Self { pod: pod.to_owned(), host: host.to_lowercase(), port }),
            _ => Err(wrong()),
        }
    }

    /// `host:port`.
    pub(super) fn to(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    /// The workload of the pod.
    pub(super) fn source<'a>(&self, state: &'a MeshState) -> Result<&'a Arc<Workload>, Unanswerable> {
        let found = pods_called(state, &self.pod);
        match found.as_slice() {
            [one] if one.addresses.is_empty() => Err(Unanswerable::NoAddress(self.pod.clone())),
            [one] => Ok(one),
            [] => {
                let names = state.workloads().map(|workload| full_name(workload));
                Err(Unanswerable::Pod { name: self.pod.clone(), near: nearest(&self.pod, names) })
            }
            several => {
                let all = several.iter().take(NEAR).map(|workload| full_name(workload)).collect();
                Err(Unanswerable::Ambiguous { name: self.pod.clone(), all })
            }
        }
    }

    /// The addresses that the host stands for in the eyes of `source`, and a step that says so.
    pub(super) fn destinations(
        &self,
        state: &MeshState,
        source: &Workload,
        domain: &str,
    ) -> Result<(Vec<SocketAddr>, Step), Unanswerable> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok((vec![SocketAddr::new(ip.to_canonical(), self.port)], of_address(state, source, ip.to_canonical())));
        }
        if let Some(named) = self.named(state, source, domain) {
            return named;
        }
        let called = pods_called(state, &self.host);
        let own = || pods_called(state, &format!("{}/{}", source.namespace, self.host));
        let pods = if called.is_empty() { own() } else { called };
        match pods.as_slice() {
            [pod] if !pod.addresses.is_empty() => {
                let says = format!("the pod {}", full_name(pod));
                let step = Step::new(Stage::Destination, says).because("it is dialled by its own address");
                let ip = pod.addresses.iter().find(|ip| source.has_family_of(ip)).or_else(|| pod.addresses.first());
                Ok((ip.map(|ip| SocketAddr::new(*ip, self.port)).into_iter().collect(), step))
            }
            _ => {
                let services = state.services().map(|service| short_name(service));
                let names = services.chain(state.workloads().map(|workload| full_name(workload)));
                Err(Unanswerable::Host { host: self.host.clone(), near: nearest(&self.host, names) })
            }
        }
    }

    /// What the name resolves to for a pod, as the DNS proxy answers it; nothing when the mesh does not know it.
    fn named(&self, state: &MeshState, source: &Workload, domain: &str) -> Option<Result<(Vec<SocketAddr>, Step), Unanswerable>> {
        let client = Client { namespace: &source.namespace, network: &source.network, domain };
        // IPv4 first if the pod has it; the other family goes the same way.
        let only_v6 = !source.addresses.is_empty() && source.addresses.iter().all(IpAddr::is_ipv6);
        let families = if only_v6 { [Family::V6, Family::V4] } else { [Family::V4, Family::V6] };
        let answers = families.map(|family| resolve(state, client, &self.host, family));
        if answers.iter().all(|answer| *answer == Answer::Forward) {
            return None;
        }
        let found = answers.into_iter().find_map(|answer| match answer {
            Answer::Addresses(addresses) => Some(addresses),
            Answer::NoData | Answer::Forward => None,
        });
        let Some(addresses) = found else { return Some(Err(Unanswerable::NoAddress(self.host.clone()))) };
        let all: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(*ip, self.port)).collect();
        let at = |ip: &IpAddr| state.service_for(&source.namespace, &NetworkAddress::new(source.network.clone(), *ip));
        Some(Ok(match addresses.first().and_then(|ip| Some((ip, at(ip)?))) {
            Some((vip, service)) => {
                let step = Step::new(Stage::Destination, format!("the service {}", service.key.hostname));
                let step = step.because(format!("{} is its name, and {vip} its address", self.host));
                (all.into_iter().take(1).collect(), step)
            }
            None => {
                let step = Step::new(Stage::Destination, format!("the pods that {} stands for", self.host));
                let why = format!("the service is headless: its name stands for the addresses of its {} pods", all.len());
                (all, step.because(why))
            }
        }))
    }
}

fn of_address(state: &MeshState, source: &Workload, ip: IpAddr) -> Step {
    let address = NetworkAddress::new(source.network.clone(), ip);
    let step = match (state.service_for(&source.namespace, &address), state.workload_at(&address)) {
        (Some(service), _) => {
            Step::new(Stage::Destination, format!("the service {}", service.key.hostname)).because(format!("{ip} is its address"))
        }
        (None, Some(pod)) => {
            Step::new(Stage::Destination, format!("the pod {}", full_name(pod))).because(format!("{ip} is its address"))
        }
        (None, None) => Step::new(Stage::Destination, format!("{ip}, outside the mesh"))
            .because("no service and no pod of the mesh has this address"),
    };
    if ip.is_loopback() || source.has_family_of(&ip) {
        return step;
    }
    let (missing, own) = if ip.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    step.doubted(format!(
        "{} has no {missing} address, as far as the control plane knows: its connect() fails with \"network is unreachable\" before the mesh \
         sees anything, unless its namespace has a way to {missing} all the same; dial a name, or an {own} address",
        full_name(source)
    ))
}

pub(super) fn full_name(workload: &Workload) -> String {
    format!("{}/{}", workload.namespace, workload.name)
}

/// What people write: `api.shop`.
fn short_name(service: &Service) -> String {
    let mut parts = service.key.hostname.split('.');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(namespace), Some("svc")) => format!("{name}.{namespace}"),
        _ => service.key.hostname.to_string(),
    }
}

/// The workloads called `namespace/name`, or `name` in whatever namespace.
fn pods_called<'a>(state: &'a MeshState, text: &str) -> Vec<&'a Arc<Workload>> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace), name),
        None => (None, text),
    };
    let called = |workload: &&Arc<Workload>| {
        &*workload.name == name && namespace.is_none_or(|namespace| workload.namespace.as_str() == namespace)
    };
    let mut found: Vec<_> = state.workloads().filter(called).collect();
    found.sort_by(|a, b| a.uid.cmp(&b.uid));
    found
}

/// The names that are most like `text`: those that share a word with it, else those that few letters tell from it.
fn nearest(text: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let text = text.to_lowercase();
    let word = text.rsplit('/').next().unwrap_or(&text).split('.').next().unwrap_or(&text).to_owned();
    let mut scored: Vec<(usize, String)> = names
        .filter_map(|name| {
            let last = name.rsplit('/').next().unwrap_or(&name);
            let last = last.split('.').next().unwrap_or(last);
            let contains = word.len() > 1 && (last.contains(&word) || word.contains(last));
            let far = distance(&word, last);
            (contains || far <= 2.max(word.len() / 3)).then_some((if contains { far.min(1) } else { far + 1 }, name))
        })
        .collect();
    scored.sort();
    scored.dedup();
    scored.into_iter().take(NEAR).map(|(_, name)| name).collect()
}

/// How many letters are to be changed, added or left out to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, other) in b.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX - 1);
            let best = (at(&row, j) + usize::from(letter != *other)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            next.push(best);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}
