//! The proxy's side of the handover: takes pods from the node agent, for ever reconnecting.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ambit_runtime::{drain::Watch, readiness};
use ambit_zds::{
    protocol::{self, Request},
    seqpacket::Connection,
};

use super::pods::Pods;
use crate::Error;

/// First and longest pause before the agent's socket is tried again. Short, so that pods are served again soon after a restart.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Takes pods from the agent that listens at `path` until the drain begins. `ready` is done when the first agent has told all pods.
pub async fn run(path: PathBuf, pods: Arc<Pods>, ready: readiness::Task, drain: Watch) {
    let mut ready = Some(ready);
    let mut pause = RETRY.0;
    loop {
        // First the drain: a proxy that ends while it stands by must not register.
        let ended = tokio::select! {
            biased;
            () = drain.draining() => return,
            ended = session(&path, &pods, &mut ready) => ended,
        };
        match ended {
            Ok(()) => {
                tracing::info!("the node agent closed the connection; its pods stay as they are");
                pause = RETRY.0;
            }
            Err(error) => tracing::debug!(%error, "no node agent"),
        }
        tokio::select! {
            biased;
            () = drain.draining() => return,
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
        }
    }
}

/// One connection to the agent.
async fn session(path: &Path, pods: &Pods, ready: &mut Option<readiness::Task>) -> Result<(), Error> {
    let failed = |what| move |source| ambit_zds::Error::Socket { what, path: path.to_owned(), source };
    let connection = Connection::connect(path).map_err(failed("connect to"))?;
    connection.send(&protocol::hello(), None).await.map_err(failed("send to"))?;
    let mut told = Some(HashSet::new());
    while let Some(packet) = connection.receive().await.map_err(failed("receive from"))? {
        let result = match protocol::read_request(packet) {
            Ok(request) => apply(request, pods, &mut told, ready).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "a request of the node agent was refused");
        }
        let answer = protocol::ack(result.map_err(|error| error.to_string()));
        connection.send(&answer, None).await.map_err(failed("send to"))?;
    }
    Ok(())
}

/// Does what the agent asks. `told` are the pods named before the snapshot is complete, nothing afterwards.
async fn apply(
    request: Request,
    pods: &Pods,
    told: &mut Option<HashSet<String>>,
    ready: &mut Option<readiness::Task>,
) -> Result<(), Error> {
    match request {
        Request::Add { info, netns } => {
            if let Some(told) = told {
                told.insert(info.uid.clone());
            }
            pods.add(info, netns).await
        }
        Request::Keep(uid) => {
            if !pods.serves(&uid) {
                return Err(ambit_zds::Error::Protocol(format!("pod {uid} is not known here, so it cannot be kept")).into());
            }
            if let Some(told) = told {
                told.insert(uid);
            }
            Ok(())
        }
        Request::Delete(uid) => {
            pods.remove(&uid).await;
            Ok(())
        }
        Request::SnapshotSent => {
            if let Some(told) = told.take() {
                pods.retain(&told).await;
            }
            if let Some(ready) = ready.take() {
                ready.done();
            }
            Ok(())
        }
    }
}
