//! `ambit explain connection`: would the mesh carry a connection, and why, from files or from a running node proxy.
//!
//! | module | purpose |
//! |---|---|
//! | [`args`] | the command line |
//! | `files` | the mesh that a directory of YAML describes |
//! | `assumed` | what an API server and kubelets would add to it |
//! | `live` | the same question to a running node proxy |

pub mod args;
mod assumed;
mod files;
mod live;

use std::process::ExitCode;

use serde_json::Value;

pub use args::ExplainArgs;
pub(crate) use live::get;

use crate::error::{Error, Result};
use args::{ConnectionArgs, Topic};

/// The exit code of a connection that the mesh refuses.
const REFUSED: u8 = 1;
/// The exit code when there is no answer, as of a command line that cannot be used.
const CANNOT_SAY: u8 = 2;

/// An explanation, for programs and for people.
struct Answer {
    explanation: Value,
    text: String,
}

/// Answers, and says with the exit code whether the connection is allowed (0), refused (1), or neither can be said (2).
pub async fn run(args: ExplainArgs) -> ExitCode {
    let Topic::Connection(args) = args.topic;
    let answered = answer(&args).await;
    match answered.and_then(|answer| print(&args, &answer)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ambit: {error}");
            ExitCode::from(CANNOT_SAY)
        }
    }
}

async fn answer(args: &ConnectionArgs) -> Result<Answer> {
    match &args.dir {
        Some(directory) => files::answer(args, directory).await,
        None => live::answer(args).await,
    }
}

fn print(args: &ConnectionArgs, answer: &Answer) -> Result<u8> {
    if args.json {
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
