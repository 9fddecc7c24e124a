//! `ambit install`, `ambit upgrade`, `ambit uninstall`: the chart in a cluster, without Helm.
//!
//! | module | purpose |
//! |---|---|
//! | [`chart`] | the chart, and the objects it becomes |
//! | [`template`] | the template language that it is written in |
//! | [`kinds`] | the kinds of objects that there are in it |
//! | [`cluster`] | the cluster that is meant, and its answers |
//! | `apply` | objects written, found again and deleted |
//! | [`wait`] | until everything is ready |
//! | `handover` | an installation goes to Helm, or comes from it |
//! | `uninstall`, `enrolled`, `remains` | everything goes, once no pod is in the mesh any more, but for what is others' |
//! | [`cni`] | the plugin in the chain of a node |

mod apply;
pub mod chart;
pub mod cluster;
pub mod cni;
mod enrolled;
mod handover;
pub mod kinds;
pub(crate) mod remains;
pub mod template;
pub(crate) mod uninstall;
pub mod wait;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use kube::{Client, api::DynamicObject};
use serde_json::Value;

pub use uninstall::{UninstallArgs, uninstall};

use crate::error::{Error, Result};
use apply::Done;
use chart::{MANAGER, NAME, NAMESPACE, Release, values::Settings};
use cluster::ClusterArgs;
use kinds::{Known, Name};

/// The ConfigMap that keeps with what settings was installed.
const RECORD: &str = "ambit-install";

/// The settings of an installation.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SettingArgs {
    /// A setting of the chart: KEY=VALUE, also several with commas between them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// A YAML file with settings of the chart
    #[arg(long, short = 'f', value_name = "FILE")]
    pub values: Vec<PathBuf>,
}

/// What `ambit install` is told.
#[derive(Debug, Clone, clap::Args)]
pub struct InstallArgs {
    #[command(flatten)]
    put: PutArgs,
    /// Take over what Helm has installed, and forget its release, which must have no other charts; -f with what `helm get values` prints
    #[arg(long)]
    from_helm: bool,
}

/// What `ambit install` and `ambit upgrade` are told.
#[derive(Debug, Clone, clap::Args)]
pub struct PutArgs {
    #[command(flatten)]
    settings: SettingArgs,
    /// Print the objects as YAML, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until every part is ready
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// Overrule what others have set in the same fields
    #[arg(long)]
    force_conflicts: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

impl SettingArgs {
    /// Reads the files, then the assignments.
    ///
    /// # Errors
    /// When a file cannot be read, or something is not of the right form.
    fn over(&self, mut settings: Settings) -> Result<Settings> {
        for path in &self.values {
            let text = std::fs::read_to_string(path).map_err(|cause| Error::path("reading", path, cause))?;
            settings.add_yaml(&path.display().to_string(), &text).map_err(|error| Error::Invalid(error.to_string()))?;
        }
        for text in &self.set {
            settings.add_assignments(text).map_err(|error| Error::Invalid(error.to_string()))?;
        }
        Ok(settings)
    }
}

/// Installs the chart with the settings that are given. Once more, it changes what is other than that.
///
/// # Errors
/// When the settings are wrong, the cluster refuses something, or it is not ready in time.
pub async fn install(InstallArgs { put: args, from_helm }: InstallArgs) -> Result<()> {
    if from_helm && args.settings.values.is_empty() && args.settings.set.is_empty() {
        return Err(Error::Invalid(format!(
            "--from-helm forgets Helm's settings, and none are given\n  the fix: `helm get values {NAME} -n {NAMESPACE} -o yaml > FILE`, \
             then --from-helm -f FILE (an empty file for the defaults)"
        )));
    }
    let settings = args.settings.over(Settings::default())?;
    if args.dry_run {
        return print(&settings);
    }
    let client = args.cluster.client().await?;
    if from_helm {
        // What is wrong with the settings is said before anything is written.
        wanted(&settings)?;
        handover::from_helm(&client).await?;
    }
    put(&client, &args, &settings).await
}

/// Installs this program's version of the chart with the settings of the installation that there is, and those that are given over them.
///
/// # Errors
/// As [`install`], and when there is no installation.
pub async fn upgrade(args: PutArgs) -> Result<()> {
    let client = args.cluster.client().await?;
    let known = Name::new(config_map()?, Some(NAMESPACE), RECORD);
    let record = apply::get(&client, &known).await?.ok_or_else(|| Error::Missing {
        missing: format!("there is no installation in namespace {NAMESPACE}"),
        remedy: "`ambit install` makes one; `helm upgrade` if it was made by Helm".to_owned(),
    })?;
    let kept = record.data.pointer("/data/settings").and_then(Value::as_str).unwrap_or("{}");
    let mut settings = Settings::default();
    settings.add_yaml(&known.to_string(), kept).map_err(|error| Error::Invalid(error.to_string()))?;
    let settings = args.settings.over(settings)?;
    if args.dry_run {
        return print(&settings);
    }
    let version = record.data.pointer("/data/version").and_then(Value::as_str).unwrap_or("an unknown version");
    println!("upgrading from {version} to {}", env!("CARGO_PKG_VERSION"));
    put(&client, &args, &settings).await
}

/// Whether anything in the cluster was installed by `ambit install`.
pub(crate) async fn is_there(client: &Client) -> Result<bool> {
    apply::installed(client).await.map(|found| !found.is_empty())
}

fn config_map() -> Result<Known> {
    Known::named("ConfigMap").ok_or_else(|| Error::Invalid("ConfigMap is not a known kind".to_owned()))
}

fn print(settings: &Settings) -> Result<()> {
    let text = chart::plain(&Release::new(NAMESPACE), settings).map_err(|error| Error::Invalid(error.to_string()))?;
    print!("{text}");
    Ok(())
}

/// The objects of an installation in the order in which they are applied: namespace, CRDs, the chart's, and the record of them.
///
/// # Errors
/// When the settings are not those of the chart.
fn wanted(settings: &Settings) -> Result<Vec<(Name, Value)>> {
    let invalid = |error: chart::ChartError| Error::Invalid(error.to_string());
    let mut objects = vec![chart::namespace(NAMESPACE)];
    for mut crd in chart::crds().map_err(invalid)? {
        // What others install for themselves is theirs; what is here because of this program says so.
        if let Some(labels) = crd.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.insert(apply::MANAGED_BY.to_owned(), Value::from(MANAGER));
        }
        objects.push(crd);
    }
    objects.extend(chart::objects(&Release::new(NAMESPACE), settings).map_err(invalid)?);
    objects.push(apply::record(NAMESPACE, &settings.given(), env!("CARGO_PKG_VERSION")));
    let named = objects.into_iter().map(|object| {
        let name =
            Name::of(&object).ok_or_else(|| Error::Invalid(format!("the chart has an object of an unknown kind: {object}")))?;
        Ok((name, object))
    });
    let mut named = named.collect::<Result<Vec<_>>>()?;
    named.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(named)
}

async fn put(client: &Client, args: &PutArgs, settings: &Settings) -> Result<()> {
    let wanted = wanted(settings)?;
    let mut before = Vec::new();
    for (name, _) in &wanted {
        before.push(apply::get(client, name).await?);
    }
    let installed = apply::installed(client).await?;
    let mut wrong: Vec<String> =
        wanted.iter().zip(&before).filter_map(|((name, _), before)| others(name, before.as_ref()?)).collect();
    let kinds: BTreeSet<Known> = wanted.iter().filter_map(|(name, _)| name.known()).collect();
    wrong.extend(apply::unknown_kinds(client, &kinds).await?);
    if !wrong.is_empty() {
        return Err(Error::Invalid(wrong.join("\n")));
    }
    let (mut crds, mut counts) = (Vec::new(), [0_usize; 3]);
    for ((name, object), before) in wanted.iter().zip(&before) {
        // Namespaces and CRDs that were there are left as they are.
        if before.as_ref().is_some_and(|before| is_shared(name) && apply::manager(before) != MANAGER) {
            println!("{name} is there already, and left as it is");
            continue;
        }
        if name.kind == "CustomResourceDefinition" {
            crds.push(name.clone());
        } else if !crds.is_empty() {
            apply::established(client, &std::mem::take(&mut crds)).await?;
        }
        let done = apply::apply(client, object, before.as_ref(), args.force_conflicts).await?;
        counts[done as usize] += 1;
        match done {
            Done::Created => println!("{name} created"),
            Done::Changed => println!("{name} changed"),
            Done::Unchanged => {}
        }
    }
    let names: BTreeSet<Name> = wanted.iter().map(|(name, _)| name.clone()).collect();
    for name in apply::left_over(&installed, &names) {
        apply::delete(client, &name).await?;
        println!("{name} deleted: these settings do not have it");
    }
    println!("{} created, {} changed, {} as they were", counts[0], counts[1], counts[2]);
    let parts: Vec<Name> = names.into_iter().filter(|name| matches!(name.kind, "Deployment" | "DaemonSet")).collect();
    if args.wait {
        wait::ready(client, &parts, Duration::from_secs(args.timeout), |line| println!("{line}")).await?;
    }
    println!("put a namespace into the mesh: kubectl label namespace NAME istio.io/dataplane-mode=ambient");
    Ok(())
}

/// Whether an object may belong to others and serve us all the same.
fn is_shared(name: &Name) -> bool {
    matches!(name.kind, "Namespace" | "CustomResourceDefinition")
}

/// What is wrong with an object that is there already: somebody else's, or a namespace in which our pods may not run.
fn others(name: &Name, before: &DynamicObject) -> Option<String> {
    let level = before.metadata.labels.as_ref().and_then(|labels| labels.get("pod-security.kubernetes.io/enforce"));
    if let Some(level) = level.filter(|level| name.kind == "Namespace" && *level != "privileged") {
        return Some(format!(
            "namespace {} lets no pod run that needs the node's network (pod security {level})\n  \
             the fix: kubectl label --overwrite namespace {} pod-security.kubernetes.io/enforce=privileged",
            name.name, name.name
        ));
    }
    match apply::manager(before) {
        MANAGER => None,
        _ if is_shared(name) => None,
        handover::HELM => Some(format!(
            "{name} belongs to Helm\n  the fix: `helm upgrade`, or `ambit install --from-helm -f FILE`, which takes it over"
        )),
        other => {
            let other = if other.is_empty() { "somebody else" } else { other };
            Some(format!("{name} is there already and belongs to {other}\n  the fix: remove what it is part of"))
        }
    }
}

#[cfg(test)]
mod tests;
