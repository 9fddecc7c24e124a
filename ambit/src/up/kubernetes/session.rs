//! From nothing to the view, and back: what is started, installed and applied is taken out again, unless it was there before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::applier::Applier;
use super::documents::{Files, ObjectName, Room};
use super::ending;
use super::mesh::{ClusterMesh, Parts};
use super::objects::AnyObjects;
use super::place::{self, Started, Target};
use super::record::{Record, references};
use super::removal::Left;
use crate::error::{Error, Result};
use crate::install::{
    chart::{self, NAMESPACE},
    cluster::{ClusterArgs, failed, no_cluster},
};
use crate::stop::{self, Why};
use crate::up::report::Report;
use crate::up::viewer::Viewer;
use crate::up::{UpArgs, Watched};

/// How long a watch or a log may be silent; a watch of the API server ends before.
const SILENCE: Duration = Duration::from_secs(295);

/// How long the parts of the mesh may take to be ready.
const INSTALL: &str = "180";

/// Says how far it is: on standard output, or where the document goes there on standard error.
#[derive(Clone)]
struct Teller {
    began: Instant,
    json: bool,
}

impl Teller {
    fn tell(&self, what: &str) {
        self.line(&format!("  {:>5.1} s  {what}", self.began.elapsed().as_secs_f64()));
    }

    fn line(&self, line: &str) {
        if self.json { eprintln!("{line}") } else { println!("{line}") }
    }
}

/// What is to be taken out again.
#[derive(Default)]
struct Made {
    cluster: Option<Started>,
    /// What was made in a cluster, until the applier has it.
    record: Option<Record>,
    applier: Option<(JoinHandle<Applier>, CancellationToken)>,
}

/// Runs it to its end.
pub(super) async fn run(args: &UpArgs, watched: &Watched, target: &Target) -> Result<()> {
    let (stop, mut teller) = (stop::wanted()?, Teller { began: Instant::now(), json: args.json });
    tokio::pin!(stop);
    let mut made = Made::default();
    let (mut why, outcome) = tokio::select! {
        outcome = Box::pin(whole(args, watched, target, &teller, &mut made)) => (None, outcome.map(Some)),
        why = &mut stop => (Some(why), Ok(None)),
    };
    // An end that came of itself may be because nobody reads any more.
    why = why.or_else(|| crate::print::is_unread().then_some(Why::Unread));
    teller.json |= matches!(why, Some(Why::Unread | Why::HangUp));
    let (left, again) = (Left::default(), stop::signalled()?);
    teller.line(&why.unwrap_or(Why::Asked).to_string());
    let ended = tokio::select! {
        ended = Box::pin(end(target, &teller, made, &left)) => ended,
        again = interrupted(again, &teller, why == Some(Why::Asked)) => again.and(Err(ending::abandoned(target, &left))),
    };
    let printed = match outcome {
        Ok(report) => report.filter(|_| args.json).map_or(Ok(()), |report| report.print()),
        // The first thing that went wrong is the one to end with, but not the only one to tell.
        Err(error) => {
            if let Err(error) = ended {
                eprintln!("ambit: {error}");
            }
            return Err(error);
        }
    };
    ended.and(printed)
}

/// Completes when somebody does not want to wait for the end: who has asked for it asks again, another one knows by then what that means.
async fn interrupted(first: impl Future<Output = Why>, teller: &Teller, asked: bool) -> Result<()> {
    first.await;
    if !asked {
        let second = stop::signalled()?;
        teller.line("it is being taken out already; Ctrl-C once more ends this at once, and leaves the rest");
        second.await;
    }
    Ok(())
}

/// Starts, installs, applies, waits, and shows until the time is over.
async fn whole(args: &UpArgs, watched: &Watched, target: &Target, teller: &Teller, made: &mut Made) -> Result<Report> {
    teller.line(&format!("Ambit starts the mesh of {} on Kubernetes ...", watched.path.display()));
    match target {
        Target::Start(place, _) => {
            let told = teller.clone();
            let started = made.cluster.insert(Started::start(place, move |line| told.line(line))?);
            started.ready(place).await?;
        }
        Target::Running(place) => place::ready(place).await?,
        Target::Other(_) => {}
    }
    let reach = target.reach();
    let config = reach.config().await?;
    let mut patient = config.clone();
    patient.read_timeout = Some(SILENCE);
    let client_of = |config: kube::Config| Client::try_from(config).map_err(|cause| no_cluster(&cause));
    let (client, patient) = (client_of(config)?, client_of(patient)?);

    let program = target.place().and_then(|_| crate::cluster::programs().ok()).map(|programs| programs.path("kubectl"));
    let kubectl = place::kubectl(&reach, program.as_deref());
    if made.cluster.is_some() {
        teller.tell(&format!("there is a cluster: {kubectl} get pods --all-namespaces"));
    }

    let record = made.record.insert(Record::open(&client, watched).await?);
    if !record.objects().is_empty() || !record.definitions().is_empty() || record.content().installed {
        teller.tell(
            "an earlier one of this directory was killed: this one goes on with what that has left, and takes it out in the end",
        );
    }
    let mut objects = AnyObjects::new(client.clone(), record.owner());
    define(target, &mut objects, teller, record).await?;
    install(&client, &reach, teller, record).await?;

    let nodes = Api::<Node>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let nodes = nodes.map_err(|error| failed("listing nodes", error))?;
    let room = Room {
        nodes: nodes.items.into_iter().filter_map(|node| node.metadata.name).collect(),
        registries: target.place().is_none(),
    };
    let record = made.record.take().ok_or_else(|| Error::NotReady("nothing is written down".to_owned()))?;
    let applier = Applier::new(objects, Files::new(&watched.path), room, record);
    let (applied, stop) = (applier.state(), CancellationToken::new());
    made.applier = Some((tokio::spawn(applier.run(stop.clone())), stop));

    let mesh = ClusterMesh::new(Parts { client, patient, applied, place: target.place().cloned(), kubectl }).await;
    mesh.wait_ready(args.patience(), |waits_for| teller.tell(&format!("waiting for {waits_for}"))).await?;
    teller.tell("ready");
    let ready = teller.began.elapsed();
    Ok(Box::pin(Viewer::new(args, watched, &mesh).show(args.duration, ready)).await)
}

/// Sees that the cluster knows the kinds of the Gateway API, if it is one of `ambit cluster`.
async fn define(target: &Target, objects: &mut AnyObjects, teller: &Teller, record: &mut Record) -> Result<()> {
    let gateway = ObjectName::of(&json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway" }));
    let known = objects.has_kind(&gateway).await.map_err(|error| failed("looking for the Gateway API", error))?;
    let files = match target {
        // One that was killed may have made some of them.
        _ if known && record.definitions().is_empty() => return Ok(()),
        Target::Other(_) if known => return Ok(()),
        Target::Other(_) => {
            return Err(Error::Missing {
                missing: "this cluster does not know the kinds of the Gateway API".to_owned(),
                remedy: "`ambit check --pre` says which command installs them".to_owned(),
            });
        }
        Target::Start(_, files) => files.clone(),
        Target::Running(_) => tokio::task::block_in_place(place::definitions)?,
    };
    let mut definitions = BTreeMap::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|cause| Error::path("reading", &file, cause))?;
        let read = chart::documents(&file.display().to_string(), &text).map_err(|error| Error::Invalid(error.to_string()))?;
        definitions.extend(read.into_iter().map(|object| (ObjectName::of(&object), object)));
    }
    record.change(|content| content.definitions = references(definitions.keys())).await?;
    for (name, object) in &definitions {
        let before = objects.get(name).await.map_err(|error| failed(&format!("reading {name}"), error))?;
        // One of another version that is there serves somebody.
        if before.as_ref().is_none_or(|before| objects.is_ours(before)) {
            let applied = objects.apply(name, object, before.as_ref()).await;
            applied.map_err(|error| failed(&format!("applying {name}"), error))?;
        }
    }
    teller.tell("the kinds of the Gateway API");
    Ok(())
}

/// Installs Ambit, if there is none but what one that was killed began.
async fn install(client: &Client, reach: &ClusterArgs, teller: &Teller, record: &mut Record) -> Result<()> {
    if is_installed(client).await? && !record.content().installed {
        teller.tell("Ambit is installed already, and used as it is");
        return Ok(());
    }
    record.change(|content| content.installed = true).await?;
    let command = place::ambit(&["install", "--wait", "--timeout", INSTALL], reach);
    // What it waits for, not each object that it makes.
    let part = |line: &str| ["DaemonSet ", "Deployment "].iter().any(|kind| line.starts_with(kind)) && line.contains(": ");
    let tell = |line: &str| {
        if part(line) {
            teller.tell(line)
        }
    };
    place::run("ambit install --wait", command, tell).await?;
    teller.tell("ambit install --wait");
    Ok(())
}

/// Whether there is a control plane already.
async fn is_installed(client: &Client) -> Result<bool> {
    let found = Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get_opt("istiod-lite").await;
    found.map(|found| found.is_some()).map_err(|error| failed("looking for Ambit in the cluster", error))
}

/// Takes out what was made. A cluster that was started for this takes all of it along.
async fn end(target: &Target, teller: &Teller, made: Made, left: &Left) -> Result<()> {
    let Made { cluster, record, applier } = made;
    if let Some((_, stop)) = &applier {
        stop.cancel();
    }
    if let Some(cluster) = cluster {
        cluster.end().await?;
        teller.tell("the cluster is gone");
        return Ok(());
    }
    let tell = |what: &str| teller.tell(what);
    if let Some((applier, _)) = applier {
        left.add("what was applied");
        let applier = applier.await.map_err(|error| Error::part("stopping to apply", error))?;
        left.remove("what was applied");
        let (objects, record) = applier.into_parts();
        ending::clear(target, objects, record, left, &tell).await
    } else if let Some(record) = record {
        let objects = AnyObjects::new(target.reach().client().await?, record.owner());
        ending::clear(target, objects, record, left, &tell).await
    } else {
        Ok(())
    }
}
