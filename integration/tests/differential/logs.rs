//! What both access logs say of the requests to each service: how often each status with which flags, and by which route. A line has nothing
//! of a request by which it could be known, so the lines of a service are counted.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::known::{Difference, Side};
use crate::mesh::Mesh;
use crate::world::Service;

/// How often something is said.
type Counts = BTreeMap<String, usize>;

/// Of each service and each side.
pub struct Logs(BTreeMap<String, [Counts; 2]>);

impl Logs {
    /// Reads them, when nothing more is written to them.
    pub async fn settled(mesh: &Mesh, services: &[Service]) -> Self {
        let mut before = usize::MAX;
        loop {
            let texts = [Side::Ours, Side::Envoys].map(|side| mesh.access_log(side));
            let now = texts.iter().map(String::len).sum();
            if now == before {
                return Self::of(services, &texts);
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
    }

    fn of(services: &[Service], texts: &[String; 2]) -> Self {
        // Ours names the address that was asked for, and Envoy the host.
        let addresses = services.iter().map(|service| (format!("{}:80", service.address), service.name.clone()));
        let hosts = services.iter().map(|service| (format!("{}.shop.svc.cluster.local", service.name), service.name.clone()));
        let names = [("dst.addr", addresses.collect::<BTreeMap<_, _>>()), ("dst.service", hosts.collect())];
        let mut logs = BTreeMap::<String, [Counts; 2]>::new();
        for (side, ((key, names), text)) in names.iter().zip(texts).enumerate() {
            for line in text.lines() {
                let Some(name) = field(line, key).and_then(|value| names.get(value)) else { continue };
                let (Some(status), Some(_)) = (field(line, "status"), field(line, "method")) else { continue };
                let counts = &mut logs.entry(name.clone()).or_default()[side];
                for part in ["flags", "route"] {
                    let value = field(line, part).filter(|value| !value.is_empty()).unwrap_or("-");
                    *counts.entry(format!("{part} {value} of {status}")).or_default() += 1;
                }
            }
        }
        Self(logs)
    }

    /// In what they differ for a service.
    pub fn differences(&self, service: &Service) -> Vec<Difference> {
        let Some([ours, envoys]) = self.0.get(&service.name) else { return Vec::new() };
        let mut said: Vec<&String> = ours.keys().chain(envoys.keys()).collect();
        said.sort();
        said.dedup();
        let count = |counts: &Counts, what: &String| counts.get(what).copied().unwrap_or(0);
        let differ = said.into_iter().filter(|what| count(ours, what) != count(envoys, what));
        let one = |what: &String| {
            let times = |counts| format!("{} times", count(counts, what));
            Difference { field: format!("log of {what}"), ours: times(ours), envoys: times(envoys) }
        };
        differ.map(one).collect()
    }
}

/// The value of a field, which no client can forge: paths have no blanks, and what comes after them is ours to say.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let at = line.rfind(&format!(" {name}="))? + name.len() + 2;
    line[at..].split([' ', '"']).next()
}
