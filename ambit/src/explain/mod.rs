//! `ambit explain`: would the mesh carry a connection, what becomes of a request, and why, from files or from running proxies.
//!
//! | module | purpose |
//! |---|---|
//! | [`args`] | the command line |
//! | `files` | the mesh that a directory of YAML describes |
//! | `assumed` | what an API server and kubelets would add to it |
//! | `live` | the same question to a running node proxy or waypoint |
//! | `request` | what becomes of a request: the connection that it needs, and what the waypoint on its way decides |

pub mod args;
mod assumed;
mod files;
mod live;
mod request;

use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

pub use args::ExplainArgs;
pub(crate) use live::get;

use crate::error::{Error, Result};
use args::{ConnectionArgs, RequestArgs, Source, Topic};
use files::World;

/// The exit code of what the mesh refuses.
const REFUSED: u8 = 1;
/// The exit code when there is no answer, as of a command line that cannot be used.
const CANNOT_SAY: u8 = 2;

/// An explanation, for programs and for people.
struct Answer {
    explanation: Value,
    text: String,
}

/// The mesh that a directory of YAML describes, read once: of it as much can be asked as one likes. The command, with `--dir`, reads one and asks
/// once.
pub struct Files(Box<World>);

impl Files {
    /// Reads the files of `directory`, of a mesh with the trust domain and the cluster that `of` names; what else it says is not looked at.
    ///
    /// # Errors
    /// When they cannot be read, or one of them has an error: then what it would say is not known, and no answer is better than a wrong one.
    pub async fn read(of: &Source, directory: &Path) -> Result<Self> {
        Ok(Self(Box::new(World::read(of, directory).await?)))
    }

    /// What `ambit explain request --json` says of a request; where `args` would have the answer from is not looked at.
    ///
    /// # Errors
    /// When it is no request, or the files do not say who it is from and for.
    pub async fn request(&self, args: &RequestArgs) -> Result<Value> {
        Ok(request::of_files(&self.0, args).await?.explanation)
    }
}

/// Answers, and says with the exit code whether it is allowed (0), refused (1), or neither can be said (2).
pub async fn run(args: ExplainArgs) -> ExitCode {
    let (json, answered) = match args.topic {
        Topic::Connection(args) => (args.of.json, connection(&args).await),
        Topic::Request(args) => (args.of.json, request::answer(&args).await),
    };
    match answered.and_then(|answer| print(json, &answer)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ambit: {error}");
            ExitCode::from(CANNOT_SAY)
        }
    }
}

async fn connection(args: &ConnectionArgs) -> Result<Answer> {
    match &args.of.dir {
        Some(directory) => World::read(&args.of, directory).await?.connection(&args.from, &args.to),
        None => live::connection(&args.of.ztunnel, &args.from, &args.to).await,
    }
}

fn print(json: bool, answer: &Answer) -> Result<u8> {
    if json {
        let text = serde_json::to_string_pretty(&answer.explanation).map_err(|error| Error::part("writing the answer", error))?;
        println!("{text}");
    } else {
        print!("{}", answer.text);
    }
    Ok(match answer.explanation.get("verdict").and_then(Value::as_str) {
        Some("allowed") => 0,
        Some("refused") => REFUSED,
        _ => CANNOT_SAY,
    })
}
