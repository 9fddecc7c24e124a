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
        let ended = session(&path, &pods, &mut ready, &drain).await;
        match ended {
            _ if drain.is_draining() => return,
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
async fn session(path: &Path, pods: &Pods, ready: &mut Option<readiness::Task>, drain: &Watch) -> Result<(), Error> {
    // A proxy that ends while it stands by must not register.
    if drain.is_draining() {
        return Ok(());
    }
    let failed = |what| move |source| ambit_zds::Error::Socket { what, path: path.to_owned(), source };
    let connection = Connection::connect(path).map_err(failed("connect to"))?;
    connection.send(&protocol::hello(), None).await.map_err(failed("send to"))?;
    let mut told = Some(HashSet::new());
    loop {
        let packet = tokio::select! {
            biased;
            () = drain.draining() => break,
            packet = connection.receive() => packet.map_err(failed("receive from"))?,
        };
        let Some(packet) = packet else { return Ok(()) };
        let result = match protocol::read_request(packet) {
            Ok(request) => tokio::select! {
                biased;
                () = drain.draining() => break,
                result = apply(request, pods, &mut told, ready) => result,
            },
            Err(error) => Err(error.into()),
        };
        if let Err(error) = &result {
            tracing::error!(%error, "a request of the node agent was refused");
        }
        let answer = protocol::ack(result.map_err(|error| error.to_string()));
        connection.send(&answer, None).await.map_err(failed("send to"))?;
    }
    leave(&connection, pods).await;
    Ok(())
}

/// For the agent the proxy is gone. As long as connections of pods go on here, it says of which pods the namespaces are others' by now: whoever
/// serves those knows nothing of these connections.
async fn leave(connection: &Connection, pods: &Pods) {
    if connection.finish().is_err() {
        return;
    }
    loop {
        let packet = tokio::select! {
            () = pods.ended() => return,
            packet = connection.receive() => packet,
        };
        // An agent that does not know of this closes the connection.
        let Ok(Some(packet)) = packet else { return };
        // Whatever else it has asked before it knew is nothing for who leaves. A pod that it took away just then is told of in the same words.
        if let Ok(Request::Delete(uid)) = protocol::read_request(packet) {
            pods.replaced(&uid);
        }
    }
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
