//! That the command itself says of a request what its library says (`files.rs`): of a sample, as a person would run it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use tokio::process::Command;

use crate::files::{self, Told};
use crate::run::Pair;
use crate::world::{HTTP2, Request, Service};

/// One request in so many, which has no divisor in common with the number that each service is asked, so that all kinds of them come.
const ONE_IN: usize = 397;
/// The same of services whose like is not generated.
const ONE_IN_FEW: usize = 37;
/// So many at a time.
const AT_A_TIME: usize = 2;

/// What it said.
#[derive(Debug, Default)]
pub struct Sample {
    asked: usize,
    unlike: Vec<String>,
}

impl Sample {
    /// What is wrong with it. `whole`: all services were asked.
    pub fn wrong(&self, whole: bool) -> Vec<String> {
        let nothing = (whole && self.asked == 0).then(|| "the command was asked about nothing".to_owned());
        self.unlike.iter().cloned().chain(nothing).collect()
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the command itself was asked about {}", self.asked)
    }
}

/// Asks about a sample of the requests about which the library was asked.
///
/// # Errors
/// When the command does not run.
pub async fn sample(services: &[Service], pairs: &[Pair], told: &Told) -> anyhow::Result<Sample> {
    let one_in = |at: usize| if services[pairs[at].service].seldom { ONE_IN_FEW } else { ONE_IN };
    let chosen: Vec<(usize, &Value)> =
        told.ends.iter().map(|(at, end)| (*at, end)).filter(|(at, _)| at.is_multiple_of(one_in(*at))).collect();
    let ask = |(at, _): &(usize, &Value)| {
        let service = &services[pairs[*at].service];
        let request = service.requests[pairs[*at].request].clone();
        asked(told.directories[&pairs[*at].service].clone(), files::url(service.address, &request), request)
    };
    let said: Vec<Result<Value, String>> =
        futures::stream::iter(chosen.iter().map(ask)).buffered(AT_A_TIME).try_collect().await?;
    let mut sample = Sample { asked: chosen.len(), ..Sample::default() };
    for ((at, end), said) in chosen.into_iter().zip(said) {
        let unlike = match said {
            Ok(said) if said == *end => continue,
            Ok(said) => format!("the command says {said}, and the library {end}"),
            Err(instead) => format!("is not explained: {instead}"),
        };
        let service = &services[pairs[at].service];
        sample.unlike.push(format!("{}: {}{unlike}", service.name, service.requests[pairs[at].request].text()));
    }
    Ok(sample)
}

/// Runs the command; what it says instead of how the request ends, if it does not.
async fn asked(directory: PathBuf, url: String, request: Request) -> anyhow::Result<Result<Value, String>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["explain", "request", "--json", "--from", request.account, "--dir"]).arg(&directory);
    command.args([&request.method, &url]);
    for header in files::headers(&request) {
        command.arg("-H").arg(header);
    }
    if request.version == HTTP2 {
        command.arg("--http2");
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("starting the command")?;
    Ok(match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(said) => Ok(files::end(&files::of_way(&said))),
        Err(_) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    })
}
