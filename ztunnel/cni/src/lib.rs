//! The CNI plugin of the mesh: the last of a chain, it tells the node agent of every pod that starts or ends, and lets a pod start only
//! when the agent says so.
//!
//! It changes nothing itself and decides nothing: which pods are in the mesh the agent knows. So when the agent does not answer, no pod
//! of the node starts, labelled or not, except those of the namespaces that the configuration excludes; a labelled one would be in
//! clear. Pods on the host's network never come by here.
//!
//! | module | purpose |
//! |---|---|
//! | [`asked`] | what the runtime asks: environment and configuration |
//! | [`agent`] | one request to the agent's socket |
//! | [`answer`] | results and errors as the CNI specification has them |

#![forbid(unsafe_code)]

pub mod agent;
pub mod answer;
pub mod asked;

use std::{
    io::{Read, Write},
    process::ExitCode,
};

use answer::{Answer, Failure};
use asked::{Asked, Command};

/// The plugin as a program: reads its configuration from standard input, and answers on standard output.
#[must_use]
pub fn program() -> ExitCode {
    let mut configuration = String::new();
    let read = std::io::stdin().read_to_string(&mut configuration);
    // What cannot be read is no configuration, and refused as such.
    let configuration = if read.is_ok() { configuration } else { String::new() };
    let answer = run(|name| std::env::var(name).ok(), &configuration);
    if std::io::stdout().write_all(answer.printed.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    ExitCode::from(answer.status)
}

/// Does what the runtime asks: `environment` are the `CNI_*` variables, `configuration` is what came on standard input.
#[must_use]
pub fn run(environment: impl Fn(&str) -> Option<String>, configuration: &str) -> Answer {
    let asked = match Asked::read(environment, configuration) {
        Ok(asked) => asked,
        Err(failure) => return failure.answer(asked::NEWEST),
    };
    let version = asked.version.clone();
    match act(asked) {
        Ok(printed) => Answer { printed, status: 0 },
        Err(failure) => failure.answer(&version),
    }
}

fn act(asked: Asked) -> Result<String, Failure> {
    match asked.command {
        Command::Version => Ok(answer::versions(&asked.version)),
        Command::Status => agent::ask(&asked, "GET", "/status", None).map(|()| String::new()).map_err(Failure::not_available),
        // What the agent holds it verifies by itself, against what the runtime shows.
        Command::Gc => Ok(String::new()),
        Command::Add => {
            let result = asked.previous.as_ref().ok_or_else(Failure::alone)?.to_string();
            if asked.for_the_agent() {
                agent::ask(&asked, "POST", "/cmdadd", Some(asked.event()))?;
            }
            Ok(result)
        }
        Command::Check => {
            if asked.for_the_agent() {
                agent::ask(&asked, "POST", "/cmdcheck", Some(asked.event()))?;
            }
            Ok(String::new())
        }
        Command::Delete => {
            // A pod must be able to go. An agent that is away finds out by itself that it is gone.
            if asked.for_the_agent()
                && let Err(failure) = agent::ask(&asked, "POST", "/cmddel", Some(asked.event()))
            {
                eprintln!("ambit-cni: {}", failure.message);
            }
            Ok(String::new())
        }
    }
}
