//! What both access logs say of each request: its flags (`%RESPONSE_FLAGS%`) and its route. A line has nothing by which it could be known for
//! that of one request; but the requests to a service are sent one after the other, so its lines with one method and status are those of its
//! requests with these, in this order.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::known::Side;
use crate::mesh::Mesh;
use crate::world::Service;

/// What a line says of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub flags: String,
    pub route: String,
}

/// Whose lines: of a service, with this method and status.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    pub service: Ipv4Addr,
    pub method: String,
    pub status: String,
}

/// The lines of one side that nobody has taken yet.
pub type Lines = BTreeMap<Which, VecDeque<Logged>>;

/// Both logs, and how far they have been read.
pub struct Logs {
    services: BTreeMap<String, Ipv4Addr>,
    read: [usize; 2],
}

impl Logs {
    /// Of requests to these services, from the beginning.
    pub fn new(services: &[Service]) -> Self {
        // Ours names the address that was asked for, and Envoy the host.
        let names = services.iter().flat_map(|service| {
            let host = format!("{}.shop.svc.cluster.local", service.name);
            [(format!("{}:80", service.address), service.address), (host, service.address)]
        });
        Self { services: names.collect(), read: [0; 2] }
    }

    /// What has been written since, once nothing more is.
    pub async fn settled(&mut self, mesh: &Mesh) -> [Lines; 2] {
        let mut before = usize::MAX;
        loop {
            let texts = [Side::Ours, Side::Envoys].map(|side| mesh.access_log(side));
            let now = texts.iter().map(String::len).sum();
            if now == before {
                return [self.further(Side::Ours, &texts), self.further(Side::Envoys, &texts)];
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }

    fn further(&mut self, side: Side, texts: &[String; 2]) -> Lines {
        let text = &texts[side as usize];
        let from = std::mem::replace(&mut self.read[side as usize], text.len());
        let mut lines = Lines::new();
        for line in text.get(from..).unwrap_or_default().lines() {
            let service = field(line, if side == Side::Ours { "dst.addr" } else { "dst.service" });
            let service = service.and_then(|name| self.services.get(name));
            let (Some(service), Some(method), Some(status)) = (service, field(line, "method"), field(line, "status")) else {
                continue;
            };
            let said = |name| field(line, name).filter(|value| !value.is_empty()).unwrap_or("-").to_owned();
            let which = Which { service: *service, method: method.to_owned(), status: status.to_owned() };
            lines.entry(which).or_default().push_back(Logged { flags: said("flags"), route: said("route") });
        }
        lines
    }
}

/// Leaves the lines of those of which there are as many as there were requests: a request that no parser takes may have none.
pub fn only_whole(lines: &mut Lines, requests: impl Iterator<Item = Which>) {
    let mut counts = BTreeMap::<Which, usize>::new();
    for which in requests {
        *counts.entry(which).or_default() += 1;
    }
    lines.retain(|which, of| counts.get(which) == Some(&of.len()));
}

/// The value of a field, which no client can forge: paths have no blanks, and what comes after them is ours to say.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let at = line.rfind(&format!(" {name}="))? + name.len() + 2;
    line[at..].split([' ', '"']).next()
}
