//! `ambit cluster up`: start it, say how far it is, keep it, and leave nothing behind.

use std::io::IsTerminal;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_cluster::cluster::{check, remove_remains};
use ambit_cluster::programs::Programs;
use ambit_cluster::temporary::remove_dead;
use ambit_cluster::{Cluster, ClusterOptions};
use tokio::net::UnixListener;

use super::args::UpArgs;
use super::place::{ClusterPlace, Held};
use super::{control, image};
use crate::error::{Error, Result};
use crate::stop::Why;

/// Time that the runtime gets for what is still running in the end.
const LAST: Duration = Duration::from_millis(100);

/// Runs it to its end. The caller has started no thread yet.
pub(super) fn run(args: &UpArgs) -> Result<()> {
    check().map_err(super::failed)?;
    let programs = super::programs()?;
    let place = ClusterPlace::of(&args.cluster.name)?;
    let mut lock = match place.hold()? {
        Held::Ours(lock) => lock,
        Held::Theirs(pid) => {
            return Err(Error::Invalid(format!(
                "a cluster named {name} runs already (process {pid})\n  end it with `ambit cluster down --name {name}`, or choose another --name",
                name = place.name
            )));
        }
    };
    lock.name_owner(std::process::id())?;
    for name in remove_dead() {
        println!("what the cluster {name} left when it was killed is removed");
    }
    // It belongs to the namespace that it is made in, so that the cluster is reached from there.
    let front = TcpListener::bind(("127.0.0.1", 0)).map_err(|cause| Error::io("listening on 127.0.0.1", cause))?;
    ambit_testbed::bed::enter().map_err(|error| Error::part("a private place for nodes and pods cannot be made", error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|cause| Error::io("starting the runtime", cause))?;
    let outcome = runtime.block_on(session(args, &place, programs, front));
    runtime.shutdown_timeout(LAST);
    drop(lock);
    outcome
}

async fn session(args: &UpArgs, place: &ClusterPlace, programs: Programs, front: TcpListener) -> Result<()> {
    // Also when whoever started it has gone (`ambit cluster up | head`), for nobody else would end it. What is to stay is for
    // `--background`.
    let stop = crate::stop::wanted()?;
    tokio::pin!(stop);
    // Of one that was killed.
    remove_remains(&place.name, &place.directory).await.map_err(super::failed)?;
    let (began, kubectl) = (Instant::now(), programs.path("kubectl").display().to_string());
    println!("a Kubernetes cluster of {} nodes starts; logs are in {}", args.nodes, place.directory.display());
    let options = ClusterOptions {
        name: place.name.clone(),
        nodes: args.nodes,
        directory: place.directory.clone(),
        proxy: args.proxy.into(),
    };
    let ready = |part: &str| println!("  {:>5.1} s  {part}", began.elapsed().as_secs_f64());
    let started = tokio::select! {
        started = Cluster::start(options, programs, front, &ready) => Some(started.map_err(super::failed)?),
        why = &mut stop => {
            tell_end(why);
            None
        }
    };
    let Some(cluster) = started else {
        // What was started ends with what was dropped.
        return remove_remains(&place.name, &place.directory).await.map_err(super::failed);
    };
    let cluster = Arc::new(cluster);
    let outcome = tokio::select! {
        outcome = keep(args, place, &cluster, &kubectl, began) => {
            println!("stopping ...");
            outcome
        }
        why = &mut stop => {
            tell_end(why);
            Ok(())
        }
    };
    match Arc::try_unwrap(cluster) {
        Ok(cluster) => cluster.stop().await.map_err(super::failed)?,
        // An order is still being carried out; it ends with this process.
        Err(cluster) => {
            cluster.end().await;
            remove_remains(&place.name, &place.directory).await.map_err(super::failed)?;
        }
    }
    outcome
}

/// Says why it ends, where that is read.
fn tell_end(why: Why) {
    match why {
        Why::Asked => println!("{why}"),
        Why::HangUp | Why::Unread => eprintln!("{why}"),
    }
}

/// Makes images known to all nodes: that of this program, then those that were named.
async fn load_images(args: &UpArgs, place: &ClusterPlace, cluster: &Cluster, began: Instant) -> Result<()> {
    let tell = |name: &str| println!("  {:>5.1} s  image {name}", began.elapsed().as_secs_f64());
    if !args.bare {
        let own = place.directory.join("ambit.tar");
        let programs = tokio::task::block_in_place(|| image::write(image::NAME, &[], &own))?;
        image::tell_what_is_missing(&programs);
        tell(&cluster.load(&own).await.map_err(super::failed)?);
        std::fs::remove_file(&own).map_err(|cause| Error::path("removing", &own, cause))?;
    }
    for archive in &args.image {
        tell(&cluster.load(archive).await.map_err(super::failed)?);
    }
    Ok(())
}

/// Takes orders for as long as it is to be kept.
async fn keep(args: &UpArgs, place: &ClusterPlace, cluster: &Arc<Cluster>, kubectl: &str, began: Instant) -> Result<()> {
    load_images(args, place, cluster, began).await?;
    let (new, socket) = (place.new_socket(), place.socket());
    let listener = UnixListener::bind(&new).map_err(|cause| Error::path("listening on", &new, cause))?;
    println!("  {:>5.1} s  ready\n", began.elapsed().as_secs_f64());
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  {kubectl} get pods --all-namespaces");
    println!("  ambit cluster status | load IMAGE.tar | down\n");
    if std::io::stdout().is_terminal() && args.duration.is_none() {
        println!("Ctrl-C ends it.");
    }
    // Who waits for it goes on from here, and has seen all of this.
    std::fs::rename(&new, &socket).map_err(|cause| Error::path("listening on", &socket, cause))?;
    let orders = control::serve(listener, cluster.clone(), place.directory.clone());
    match args.duration {
        Some(duration) => {
            let _over = tokio::time::timeout(duration, orders).await;
        }
        None => orders.await,
    }
    Ok(())
}
