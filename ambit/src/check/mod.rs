//! `ambit check`: whether YAML says what the mesh will do (`ambit check FILE...`), and whether a cluster has what it needs (`ambit check --pre`).
//!
//! | module | purpose |
//! |---|---|
//! | `files` | files and directories, by the rules of the control plane |
//! | [`requirements`] | what is assumed of a cluster: the table of the README |
//! | [`facts`] | what a cluster says of itself |
//! | [`judge`] | what follows from that: a pure decision |

pub mod facts;
mod files;
pub mod judge;
pub mod requirements;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::error::Result;
use crate::install::{chart::NAMESPACE, cluster::ClusterArgs};

/// The exit code when something is wrong.
const WRONG: u8 = 1;
/// The exit code when it cannot be said, as when a file cannot be read or no cluster is reached.
const CANNOT_SAY: u8 = 2;

/// What `ambit check` is told.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  ambit check my-yaml/                 every file below the directory\n  kubectl kustomize . | ambit check -  what comes from standard input\n  ambit check --json shop.yaml         one JSON document, for editors and CI\n  ambit check --pre                    whether the cluster has what `ambit install` needs\n\nExit code: 0 good (warnings included), 1 something is wrong, 2 cannot say"
)]
pub struct CheckArgs {
    /// Files with Kubernetes YAML, directories of such, or - for standard input
    #[arg(value_name = "FILE", required_unless_present = "pre")]
    files: Vec<PathBuf>,
    /// Check the cluster instead, before `ambit install`
    #[arg(long, conflicts_with = "files")]
    pre: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Checks, and says with the exit code how it is.
pub async fn run(args: CheckArgs) -> ExitCode {
    let checked = if args.pre { cluster(&args).await } else { files::check(&args.files, args.json) };
    match checked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(WRONG),
        Err(error) => {
            eprintln!("ambit: {error}");
            ExitCode::from(CANNOT_SAY)
        }
    }
}

async fn cluster(args: &CheckArgs) -> Result<bool> {
    let client = args.cluster.client().await?;
    let facts = facts::gather(&client, NAMESPACE).await?;
    let findings = judge::judge(&facts);
    if args.json {
        let text =
            serde_json::to_string_pretty(&findings).map_err(|error| crate::error::Error::part("writing the answer", error))?;
        println!("{text}");
    } else {
        findings.iter().for_each(|finding| println!("{finding}"));
    }
    Ok(findings.iter().all(|finding| finding.level != judge::Level::Fail))
}
