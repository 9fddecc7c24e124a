//! `ambit ca`: the certificate authority of a mesh on Kubernetes, seen and asked for another root.
//!
//! | module | purpose |
//! |---|---|
//! | [`args`] | the command line |
//! | `page` | the monitoring page of a control plane |

pub mod args;
mod page;

use std::process::ExitCode;

use istiod_lite::roots::{Report, remote};

pub use args::CaArgs;

use crate::error::{Error, Result};
use args::{Action, RotateArgs, StatusArgs};

/// The exit code when the authority has problems.
const PROBLEMS: u8 = 1;
/// The exit code when nothing can be said, as of a command line that cannot be used.
const CANNOT_SAY: u8 = 2;

/// Does what is asked, and says with the exit code how it went: 0 well, 1 there are problems, 2 cannot say.
pub async fn run(args: CaArgs) -> ExitCode {
    let done = match args.action {
        Action::Status(args) => status(&args).await,
        Action::Rotate(args) => rotate(&args).await.map(|()| 0),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("ambit: {error}");
            ExitCode::from(CANNOT_SAY)
        }
    }
}

async fn status(args: &StatusArgs) -> Result<u8> {
    let report: Report = match &args.istiod {
        Some(url) => page::report(url).await?,
        None => {
            let client = args.cluster.at.client().await?;
            let status = remote::status(client, &args.cluster.namespace).await;
            status.map_err(|error| Error::Call(error.to_string()))?
        }
    };
    if args.json {
        let text = serde_json::to_string_pretty(&report).map_err(|error| Error::part("writing the answer", error))?;
        println!("{text}");
    } else {
        print!("{}", report.text());
    }
    Ok(if report.problems.is_empty() { 0 } else { PROBLEMS })
}

async fn rotate(args: &RotateArgs) -> Result<()> {
    let client = args.cluster.at.client().await?;
    let asked = remote::rotate(client, &args.cluster.namespace, args.at_once).await;
    asked.map_err(|error| Error::Call(error.to_string()))?;
    println!("the leader of the control plane was asked for another root; ambit ca status shows how far it is");
    Ok(())
}
