//! What `ambit explain request --dir` says of each request that can be asked about, from files alone, against what became of it: by the library
//! that the command is made of, which reads the files of a service once. That the command says the same is seen of a sample (`command.rs`).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ambit::explain::Files;
use ambit::explain::args::{RequestArgs, Source};
use anyhow::Context as _;
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::explained;
use crate::run::Pair;
use crate::world::{self, ACCOUNTS, HTTP2, Request, Service};

/// So many services at a time.
const AT_A_TIME: usize = 2;
/// So many that are unlike are shown.
const SHOWN: usize = 60;
/// Of what is said no more is shown.
const LONGEST: usize = 1500;

/// What was said.
#[derive(Debug, Default)]
pub struct Told {
    /// The directory of each service.
    pub directories: BTreeMap<usize, PathBuf>,
    /// How each pair was said to end ([`end`]).
    pub ends: BTreeMap<usize, Value>,
    unlike: Vec<String>,
}

/// What was said of one, by its place among the pairs; or why nothing was.
type Said = (usize, Result<Value, String>);

impl Told {
    /// What is wrong with it. Of each that can be asked about something has to be said: what is wrong with one object of the corpus the control
    /// plane would not take, and nothing with it, as all of them are in one file.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong: Vec<String> = self.unlike.iter().take(SHOWN).cloned().collect();
        if let more @ 1.. = self.unlike.len().saturating_sub(SHOWN) {
            wrong.push(format!("… and {more} more"));
        }
        wrong
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} were explained from files, of {} services", self.ends.len(), self.directories.len())
    }
}

/// Asks about all that can be asked about, with directories in this one.
///
/// # Errors
/// When the directories cannot be written.
pub async fn all(directory: &Path, services: &[Service], pairs: &[Pair]) -> anyhow::Result<Told> {
    let mut of_service: BTreeMap<usize, Vec<(usize, Request)>> = BTreeMap::new();
    for (at, pair) in pairs.iter().enumerate() {
        let request = &services[pair.service].requests[pair.request];
        if explained::cannot_be_asked(request).is_none() {
            of_service.entry(pair.service).or_default().push((at, request.clone()));
        }
    }
    let mut told = Told::default();
    let mut work = Vec::new();
    for (service, requests) in of_service {
        let directory = written(directory, &services[service])?;
        told.directories.insert(service, directory.clone());
        work.push((directory, services[service].address, requests));
    }
    let work = work.into_iter().map(|(directory, address, requests)| tokio::spawn(of_one(directory, address, requests)));
    let mut asked = futures::stream::iter(work).buffer_unordered(AT_A_TIME);
    while let Some(said) = asked.next().await {
        for (at, said) in said.context("asking about a service")? {
            let (service, pair) = (&services[pairs[at].service], &pairs[at]);
            let unlike = match said {
                Err(instead) => Some(format!("is not explained: {instead}")),
                Ok(said) => {
                    told.ends.insert(at, end(&said));
                    let ended: Vec<_> = pair.ours.iter().map(|ours| explained::agrees(&said, service, ours)).collect();
                    let wrong = ended.iter().all(Result::is_err).then(|| ended.first()?.clone().err()).flatten();
                    wrong.map(|wrong| format!("{wrong}, and from files is said {}", cut(&said)))
                }
            };
            let text = || service.requests[pair.request].text();
            told.unlike.extend(unlike.map(|unlike| format!("{}: {}{unlike}", service.name, text())));
        }
    }
    Ok(told)
}

fn cut(said: &Value) -> String {
    said.to_string().chars().take(LONGEST).collect()
}

/// Asks about requests to the service at this address, of whose files this is the directory.
async fn of_one(directory: PathBuf, address: Ipv4Addr, requests: Vec<(usize, Request)>) -> Vec<Said> {
    let of = match source() {
        Ok(of) => of,
        Err(error) => return requests.into_iter().map(|(at, _)| (at, Err(error.to_string()))).collect(),
    };
    let files = match Box::pin(Files::read(&of, &directory)).await {
        Ok(files) => files,
        Err(error) => return requests.into_iter().map(|(at, _)| (at, Err(error.to_string()))).collect(),
    };
    let mut all = Vec::new();
    for (at, request) in requests {
        let said = Box::pin(files.request(&arguments(address, &request, of.clone()))).await;
        all.push((at, said.map(|said| of_way(&said)).map_err(|error| error.to_string())));
    }
    all
}

/// As the command's are, where nothing is said.
fn source() -> anyhow::Result<Source> {
    Ok(Source {
        dir: None,
        ztunnel: String::new(),
        json: true,
        trust_domain: "cluster.local".parse()?,
        cluster_id: "Kubernetes".to_owned(),
    })
}

/// As the command line has it (`command.rs`).
fn arguments(address: Ipv4Addr, request: &Request, of: Source) -> RequestArgs {
    RequestArgs {
        from: request.account.to_owned(),
        method: request.method.clone(),
        url: url(address, request),
        headers: headers(request),
        http2: request.version == HTTP2,
        waypoint: None,
        of,
    }
}

/// What a request is for.
pub fn url(address: Ipv4Addr, request: &Request) -> String {
    format!("http://{address}{}", request.target)
}

/// The headers, each in one text.
pub fn headers(request: &Request) -> Vec<String> {
    request.headers.iter().map(|(name, value)| format!("{name}:{value}")).collect()
}

/// What was said of the one way of a request, as the page of a waypoint says it.
pub fn of_way(said: &Value) -> Value {
    let way = &said["ways"][0];
    let decided = &way["decided"];
    json!({
        "status": way["status"], "reason": way["reason"], "policy": way["policy"], "steps": way["steps"], "route": decided["route"],
        "policies": decided["policies"], "clusters": decided["clusters"],
    })
}

/// How it is said to end.
pub fn end(of_way: &Value) -> Value {
    json!({"status": of_way["status"], "reason": of_way["reason"], "policy": of_way["policy"], "route": of_way["route"]})
}

/// Writes the service, what it needs, and who calls, as a person would apply them: what an API server adds the command assumes.
fn written(directory: &Path, service: &Service) -> anyhow::Result<PathBuf> {
    let directory = directory.join("explained").join(&service.name);
    std::fs::create_dir_all(&directory)?;
    let mut objects = world::shared();
    for namespace in ["tests", "strangers"] {
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}));
    }
    objects.extend(ACCOUNTS.iter().chain(&["shop/app", "shop/twin"]).map(|account| pod(account)));
    objects.extend(service.objects.iter().cloned());
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    std::fs::write(directory.join("world.yaml"), documents.join("\n---\n"))?;
    Ok(directory)
}

/// A pod of this account, `namespace/name`, with the name of the account.
fn pod(account: &str) -> Value {
    let (namespace, name) = account.split_once('/').unwrap_or(("", account));
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": world::labels(name)},
        "spec": {"serviceAccountName": name, "nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
    })
}
