//! The end of what was made in a cluster: in order, as far as it can be, and with what is left named.

use std::collections::BTreeSet;

use kube::Client;

use super::documents::ObjectName;
use super::objects::AnyObjects;
use super::place::{self, Target};
use super::record::{Record, references};
use super::removal::{self, Left};
use crate::error::{Error, Result};
use crate::install;

/// What is installed, and what of kinds is made, in words.
const AMBIT: &str = "Ambit itself";
const KINDS: &str = "the kinds of the Gateway API";

/// Takes out all that a record has, and then the record.
///
/// # Errors
/// Something could not be taken out; the message says what, and what to do. The record then stays.
pub(super) async fn clear(
    target: &Target,
    mut objects: AnyObjects,
    mut record: Record,
    left: &Left,
    tell: &impl Fn(&str),
) -> Result<()> {
    let (names, definitions) = (record.objects(), record.definitions());
    if record.content().installed {
        left.add(AMBIT);
    }
    if !definitions.is_empty() {
        left.add(KINDS);
    }
    if !names.is_empty() {
        tell("what was applied is deleted; that takes as long as its pods take to end");
    }
    let mut problems = removal::remove(&mut objects, &names, left, tell).await;
    let mut installed = record.content().installed;
    if installed {
        match uninstall(target, objects.client(), tell).await {
            Ok(()) => installed = false,
            Err(error) => problems.push(error.to_string()),
        }
    }
    if !installed {
        left.remove(AMBIT);
        // Whoever serves these kinds needs them until it has ended.
        problems.extend(removal::remove(&mut objects, &definitions, &Left::default(), &|_: &str| {}).await);
        left.remove(KINDS);
    }
    if problems.is_empty() {
        return record.delete().await;
    }
    let not_gone = still_there(&mut objects, names).await;
    // Else it has more than there is, which does no harm.
    let _shorter = record
        .change(|content| {
            content.objects = references(&not_gone);
            content.installed = installed;
        })
        .await;
    let problems: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    Err(Error::NotReady(format!(
        "not all could be taken out of the cluster:{problems}\n  the fix: see to that, then `{}` takes out the rest",
        again(target)
    )))
}

async fn still_there(objects: &mut AnyObjects, names: BTreeSet<ObjectName>) -> Vec<ObjectName> {
    let mut there = Vec::new();
    for name in names {
        // What cannot be asked for counts as there.
        if objects.get(&name).await.map_or(true, |found| found.is_some_and(|found| objects.is_ours(&found))) {
            there.push(name);
        }
    }
    there
}

async fn uninstall(target: &Target, client: &Client, tell: &impl Fn(&str)) -> Result<()> {
    // Whoever interrupted it may have done so before anything was written.
    if install::is_there(client).await? {
        let command = place::ambit(&["uninstall"], &target.reach());
        place::run("ambit uninstall, so that Ambit stays installed", command, |_| {}).await?;
        tell("ambit uninstall");
    }
    Ok(())
}

/// Takes out what others have left in a cluster that were killed.
///
/// # Errors
/// As [`clear`], of the last of them for which there is one.
pub(super) async fn remove(target: &Target) -> Result<()> {
    let client = target.reach().client().await?;
    let (dead, alive) = Record::left_behind(&client).await?;
    alive.iter().for_each(|sentence| println!("{sentence}"));
    if dead.is_empty() {
        println!("no `ambit up --kubernetes` that was killed has left anything in this cluster");
    }
    let mut outcome = Ok(());
    for record in dead {
        let content = record.content();
        println!("{}, which process {} on {} has left:", content.directory, content.process, content.host);
        let objects = AnyObjects::new(client.clone(), record.owner());
        let cleared = clear(target, objects, record, &Left::default(), &|what: &str| println!("  {what}")).await;
        match cleared {
            Ok(()) => println!("  nothing of it is left"),
            Err(error) => {
                if let Err(before) = std::mem::replace(&mut outcome, Err(error)) {
                    eprintln!("ambit: {before}");
                }
            }
        }
    }
    outcome
}

/// That somebody did not want to wait for the end.
pub(super) fn abandoned(target: &Target, left: &Left) -> Error {
    Error::NotReady(match target {
        Target::Start(place, _) => format!(
            "interrupted: the cluster ends with this, and leaves files and control groups\n  the fix: `ambit cluster down --name {}` removes them",
            place.name
        ),
        _ => format!(
            "interrupted: left in the cluster: {}\n  the fix: `{}` takes it out, or the same command again goes on with it",
            left.words().unwrap_or_else(|| "nothing that is known".to_owned()),
            again(target)
        ),
    })
}

/// The command that takes out of this cluster what is left.
fn again(target: &Target) -> String {
    let mut command = "ambit up --kubernetes".to_owned();
    match target {
        Target::Start(place, _) | Target::Running(place) => command.push_str(&format!(" --cluster {}", place.name)),
        Target::Other(args) => {
            if let Some(file) = &args.kubeconfig {
                command.push_str(&format!(" --kubeconfig {}", file.display()));
            }
            if let Some(context) = &args.context {
                command.push_str(&format!(" --context {context}"));
            }
        }
    }
    command + " --remove"
}
