//! The program: sockets, pages, and the tasks that keep the node's pods captured.

use std::{path::Path, sync::Arc};

use ambit_runtime::{
    admin::{Reply, Server},
    drain,
    netns::NetNs,
    socket::{ListenOptions, listen},
    telemetry::metrics_handle,
};
use tokio::sync::watch;

use crate::{
    Agent, Error, cni,
    config::Config,
    discover::Before,
    kubernetes::Kubernetes,
    node::Node,
    probes,
    records::Records,
    rules::{Rules, table::Capture},
    source::{Directory, PodSource},
    status::{PodStatus, Statuses},
};

/// The agent as a program of its own: until a signal ends it.
///
/// # Errors
/// As [`run`], or when logs or signals cannot be set up.
pub async fn program(config: Config) -> Result<(), Error> {
    ambit_runtime::telemetry::init_logging(&config.log, ambit_runtime::telemetry::LogFormat::Text)?;
    // Each pod takes three descriptors; a user who may not have more goes on with what there is.
    let _as_it_is = ambit_runtime::sys::raise_open_files();
    let shutdown = ambit_runtime::signal::shutdown()?;
    Box::pin(run(config, async { _ = shutdown.await })).await
}

/// Runs the agent until `stop`. The pods keep their rules when it ends.
///
/// # Errors
/// When a socket or a directory cannot be used, or no packet filter works.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let metrics = metrics_handle()?;
    let rules = Rules::new(config.backend, Capture { dns: config.dns });
    tracing::info!(backend = rules.backend().await?, "the node agent runs");
    let address = config.admin;
    let failed = |source| Error::path("serve pages at", Path::new(&address.to_string()))(source);
    // Before it takes the sockets from an agent that runs already.
    let pages_at = listen(address, &ListenOptions::default()).map_err(failed)?;
    let records = Records::open(&config.state)?;
    let agent = Agent::bind(&config.zds_socket, rules)?;
    let (source, kubernetes) = source(&config).await?;
    let host = NetNs::current().map_err(Error::path("open", Path::new("/proc/self/ns/net")))?;
    let before = Before { proc: config.proc, host: host.clone() };
    let node = Arc::new(Node::start(agent, source, records, config.exclude_namespaces, before).await);
    let asked = cni::Listener::bind(&config.cni_socket)?;
    let (trigger, watch) = drain::channel();
    let pages = Arc::clone(&node);
    let admin = Server::new()
        .with_metrics(metrics)
        .get("/healthz/ready", |_| Reply::text("ready\n"))
        .get("/pods", move |_| Reply::json(&*pages.agent().statuses().borrow()));
    let admin = admin.run(pages_at, watch);
    let statuses = async {
        match &config.status {
            Some(directory) => documents(directory, node.agent().statuses()).await,
            None => std::future::pending().await,
        }
    };
    let told = async {
        match &kubernetes {
            Some(kubernetes) => _ = tokio::join!(kubernetes.follow(&node), kubernetes.tell(&node)),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop => {}
        () = admin => {}
        () = cni::serve(asked, Arc::clone(&node)) => {}
        () = node.follow() => {}
        () = probes::follow(&host, node.agent()) => {}
        () = statuses => {}
        () = told => {}
    }
    trigger.begin();
    Ok(())
}

/// Where pods are told of, and the API server if it is that.
async fn source(config: &Config) -> Result<(Arc<dyn PodSource>, Option<Arc<Kubernetes>>), Error> {
    if config.kubernetes.kubernetes {
        let kubernetes = Kubernetes::connect(&config.kubernetes).await?;
        return Ok((Arc::<Kubernetes>::clone(&kubernetes), Some(kubernetes)));
    }
    let directory =
        config.pods.as_ref().ok_or_else(|| Error::Kubernetes("neither --kubernetes nor --pods is given".to_owned()))?;
    Ok((Arc::new(Directory::new(directory)), None))
}

/// Keeps one document for each pod, for ever, and none of an earlier time.
async fn documents(directory: &Path, mut statuses: watch::Receiver<Statuses>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        // Only what looks like ours.
        let text = std::fs::read(entry.path()).unwrap_or_default();
        let ours = serde_json::from_slice::<serde_json::Value>(&text)
            .is_ok_and(|text| ["uid", "netns", "repairs"].iter().all(|key| text.get(key).is_some()));
        if ours {
            let _gone_already = std::fs::remove_file(entry.path());
        }
    }
    let mut written = Statuses::new();
    loop {
        let now = statuses.borrow_and_update().clone();
        for (uid, status) in &now {
            if written.get(uid) != Some(status)
                && let Err(error) = document(directory, status)
            {
                tracing::warn!(uid, %error, "the status of a pod is not written");
            }
        }
        for uid in written.keys().filter(|uid| !now.contains_key(*uid)) {
            let _gone_already = std::fs::remove_file(directory.join(format!("{}.json", uid.replace('/', "_"))));
        }
        written = now;
        if statuses.changed().await.is_err() {
            return;
        }
    }
}

fn document(directory: &Path, status: &PodStatus) -> std::io::Result<()> {
    let name = status.uid.replace('/', "_");
    let part = directory.join(format!(".{name}.part"));
    std::fs::write(&part, serde_json::to_vec_pretty(status)?)?;
    std::fs::rename(part, directory.join(format!("{name}.json")))
}
