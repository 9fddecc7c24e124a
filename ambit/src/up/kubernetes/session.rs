//! From nothing to the view, and back: what is started, installed and applied is taken out again, unless it was there before.

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
use super::mesh::{ClusterMesh, Parts};
use super::objects::AnyObjects;
use super::place::{self, Started, Target};
use crate::error::{Error, Result};
use crate::install::{
    self,
    chart::{self, NAMESPACE},
    cluster::{failed, no_cluster},
};
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
    /// The definitions of the Gateway API.
    definitions: Vec<ObjectName>,
    installed: bool,
    applier: Option<(JoinHandle<Applier>, CancellationToken)>,
}

/// Runs it to its end.
pub(super) async fn run(args: &UpArgs, watched: &Watched, target: &Target) -> Result<()> {
    let signal = || ambit_runtime::signal::shutdown().map_err(|error| Error::part("waiting for signals", error));
    let (stop, teller) = (signal()?, Teller { began: Instant::now(), json: args.json });
    tokio::pin!(stop);
    let mut made = Made::default();
    let outcome = tokio::select! {
        outcome = Box::pin(whole(args, watched, target, &teller, &mut made)) => outcome.map(Some),
        _signal = &mut stop => Ok(None),
    };
    teller.line("stopping ...");
    // Whoever asks a second time does not want to wait for it.
    let again = signal()?;
    let ended = tokio::select! {
        ended = Box::pin(end(target, &teller, made)) => ended,
        _signal = again => Err(Error::NotReady("interrupted while it was taken out of the cluster: what was not told is still there".to_owned())),
    };
    // The first thing that went wrong is the one to tell.
    let report = outcome?;
    ended?;
    match report.filter(|_| args.json) {
        Some(report) => report.print(),
        None => Ok(()),
    }
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

    let mut objects = AnyObjects::new(client.clone());
    define(target, &mut objects, teller, made).await?;
    if !is_installed(&client).await? {
        made.installed = true;
        let command = place::ambit(&["install", "--wait", "--timeout", INSTALL], &reach);
        // What it waits for, not each object that it makes.
        let part = |line: &str| ["DaemonSet ", "Deployment "].iter().any(|kind| line.starts_with(kind)) && line.contains(": ");
        let tell = |line: &str| {
            if part(line) {
                teller.tell(line)
            }
        };
        place::run("ambit install --wait", command, tell).await?;
        teller.tell("ambit install --wait");
    } else {
        teller.tell("Ambit is installed already, and used as it is");
    }

    let nodes = Api::<Node>::all(client.clone()).list_metadata(&ListParams::default()).await;
    let nodes = nodes.map_err(|error| failed("listing nodes", error))?;
    let room = Room {
        nodes: nodes.items.into_iter().filter_map(|node| node.metadata.name).collect(),
        registries: target.place().is_none(),
    };
    let applier = Applier::new(objects, Files::new(&watched.path), room);
    let (applied, stop) = (applier.state(), CancellationToken::new());
    made.applier = Some((tokio::spawn(applier.run(stop.clone())), stop));

    let mesh = ClusterMesh::new(Parts { client, patient, applied, place: target.place().cloned(), kubectl }).await;
    mesh.wait_ready(args.patience(), |waits_for| teller.tell(&format!("waiting for {waits_for}"))).await?;
    teller.tell("ready");
    let ready = teller.began.elapsed();
    Ok(Box::pin(Viewer::new(args, watched, &mesh).show(args.duration, ready)).await)
}

/// Sees that the cluster knows the kinds of the Gateway API, if it is one of `ambit cluster`.
async fn define(target: &Target, objects: &mut AnyObjects, teller: &Teller, made: &mut Made) -> Result<()> {
    let gateway = ObjectName::of(&json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway" }));
    let known = objects.has_kind(&gateway).await.map_err(|error| failed("looking for the Gateway API", error))?;
    let files = match target {
        _ if known => return Ok(()),
        Target::Other(_) => {
            return Err(Error::Missing {
                missing: "this cluster does not know the kinds of the Gateway API".to_owned(),
                remedy: "`ambit check --pre` says which command installs them".to_owned(),
            });
        }
        Target::Start(_, files) => files.clone(),
        Target::Running(_) => tokio::task::block_in_place(place::definitions)?,
    };
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|cause| Error::path("reading", &file, cause))?;
        let read = chart::documents(&file.display().to_string(), &text).map_err(|error| Error::Invalid(error.to_string()))?;
        for object in read {
            let name = ObjectName::of(&object);
            objects.apply(&name, &object).await.map_err(|error| failed(&format!("applying {name}"), error))?;
            made.definitions.push(name);
        }
    }
    teller.tell("the kinds of the Gateway API");
    Ok(())
}

/// Whether there is a control plane already.
async fn is_installed(client: &Client) -> Result<bool> {
    let found = Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get_opt("istiod-lite").await;
    found.map(|found| found.is_some()).map_err(|error| failed("looking for Ambit in the cluster", error))
}

/// Takes out what was made. A cluster that was started for this takes all of it along.
async fn end(target: &Target, teller: &Teller, made: Made) -> Result<()> {
    let Made { cluster, definitions, installed, applier } = made;
    if let Some((_, stop)) = &applier {
        stop.cancel();
    }
    if let Some(cluster) = cluster {
        cluster.end().await?;
        teller.tell("the cluster is gone");
        return Ok(());
    }
    if let Some((applier, _)) = applier {
        let mut applier = applier.await.map_err(|error| Error::part("stopping to apply", error))?;
        teller.tell("what was applied is deleted; that takes as long as its pods take to end");
        applier.remove(|what| teller.tell(what)).await?;
    }
    let reach = target.reach();
    // Whoever interrupted it may have done so before anything was written.
    if installed && install::is_there(&reach.client().await?).await? {
        let uninstall = place::ambit(&["uninstall"], &reach);
        place::run("ambit uninstall, so that Ambit stays installed", uninstall, |_| {}).await?;
        teller.tell("ambit uninstall");
    }
    if !definitions.is_empty() {
        let mut objects = AnyObjects::new(reach.client().await?);
        for name in definitions.iter().rev() {
            objects.delete(name).await.map_err(|error| failed(&format!("deleting {name}"), error))?;
        }
        teller.tell("the kinds of the Gateway API deleted");
    }
    Ok(())
}
