//! What `ambit explain request` says of some of the requests, from files alone, against what became of them: the command itself, as a person
//! would run it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::explained;
use crate::run::Pair;
use crate::world::{self, ACCOUNTS, HTTP2, Request, Service};

/// One request in so many, which has no divisor in common with the number that each service is asked, so that all kinds of them come.
const ONE_IN: usize = 97;
/// The same of services whose like is not generated.
const ONE_IN_FEW: usize = 9;
/// So many at a time.
const AT_A_TIME: usize = 2;
/// At most one in so many may be of files with errors, of which the command says nothing.
const SILENT: usize = 4;
/// Of what it says no more is shown.
const LONGEST: usize = 1500;

/// What it said.
#[derive(Debug, Default)]
pub struct Sample {
    asked: usize,
    /// Of files with errors it says these, and nothing else.
    silent: Vec<String>,
    unlike: Vec<String>,
}

/// What it said of one.
enum Said {
    /// This, as the page of a waypoint says it.
    So(Value),
    /// That the files have errors.
    Errors(String),
    /// Something else.
    Nothing(String),
}

impl Sample {
    /// What is wrong with it. `whole`: all services were asked.
    pub fn wrong(&self, whole: bool) -> Vec<String> {
        let mut wrong = self.unlike.clone();
        if whole && (self.asked == 0 || self.silent.len() * SILENT > self.asked) {
            wrong.push(format!(
                "of {} requests the command was silent about {}: {:?}",
                self.asked,
                self.silent.len(),
                self.silent
            ));
        }
        wrong
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the command was asked about {}, and silent about {}, of files with errors", self.asked, self.silent.len())
    }
}

/// Asks about a sample of the requests that can be asked about, with directories in this one.
///
/// # Errors
/// When the command does not run.
pub async fn sample(directory: &Path, services: &[Service], pairs: &[Pair]) -> anyhow::Result<Sample> {
    let askable = |pair: &&Pair| explained::cannot_be_asked(&services[pair.service].requests[pair.request]).is_none();
    let one_in = |pair: &Pair| if services[pair.service].seldom { ONE_IN_FEW } else { ONE_IN };
    let sampled = pairs.iter().enumerate().filter(|(at, pair)| at.is_multiple_of(one_in(pair))).map(|(_, pair)| pair);
    let chosen: Vec<&Pair> = sampled.filter(askable).collect();
    let mut directories = BTreeMap::new();
    for service in chosen.iter().map(|pair| pair.service).collect::<BTreeSet<_>>() {
        directories.insert(service, written(directory, &services[service])?);
    }
    let ask = |pair: &&Pair| {
        let request = &services[pair.service].requests[pair.request];
        asked(directories[&pair.service].clone(), services[pair.service].address.to_string(), request.clone())
    };
    let said: Vec<Said> = futures::stream::iter(chosen.iter().map(ask)).buffered(AT_A_TIME).try_collect().await?;
    let mut sample = Sample { asked: chosen.len(), ..Sample::default() };
    for (pair, said) in chosen.into_iter().zip(said) {
        let service = &services[pair.service];
        let request = service.requests[pair.request].text();
        match said {
            Said::Errors(errors) => sample.silent.push(errors),
            Said::Nothing(instead) => sample.unlike.push(format!("{}: {request}is not explained: {instead}", service.name)),
            Said::So(told) => {
                let ended: Vec<_> = pair.ours.iter().map(|ours| explained::agrees(&told, service, ours)).collect();
                if let (true, Some(Err(wrong))) = (ended.iter().all(Result::is_err), ended.first()) {
                    let told: String = told.to_string().chars().take(LONGEST).collect();
                    sample.unlike.push(format!("{}: {request}{wrong}, and the command says {told}", service.name));
                }
            }
        }
    }
    Ok(sample)
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

/// Runs the command.
async fn asked(directory: PathBuf, address: String, request: Request) -> anyhow::Result<Said> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["explain", "request", "--json", "--from", request.account, "--dir"]).arg(&directory);
    command.args([&request.method, &format!("http://{address}{}", request.target)]);
    for (name, value) in &request.headers {
        command.arg("-H").arg(format!("{name}:{value}"));
    }
    if request.version == HTTP2 {
        command.arg("--http2");
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("starting the command")?;
    let Ok(said) = serde_json::from_slice::<Value>(&output.stdout) else {
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        return Ok(if errors.contains("world.yaml") { Said::Errors(errors) } else { Said::Nothing(errors) });
    };
    let way = &said["ways"][0];
    let decided = &way["decided"];
    Ok(Said::So(json!({
        "status": way["status"], "reason": way["reason"], "steps": way["steps"], "route": decided["route"],
        "clusters": decided["clusters"],
    })))
}
