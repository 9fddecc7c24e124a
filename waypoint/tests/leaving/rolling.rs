//! A pod of the waypoint leaves under load, as Kubernetes has it: another one is ready, this one is told to end, and it is that time until all
//! who open connections know of it.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_runtime::drain::{self, Outcome as Drained};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use waypoint::terminate;

use super::{
    load::Load,
    sessions::{Clients, turn_of_call, turn_of_websocket},
    support::{
        BILLING, Limits, Mesh, billing,
        endpoint::{self, HTTP},
        resources::{Ep, Service},
    },
};

/// How long all goes on as before.
const LINGER: Duration = Duration::from_secs(3);
/// How long what is open then may go on: ten times a session.
const DRAIN: Duration = Duration::from_secs(20);
/// How long it takes until new connections go to the other pod.
const TOLD: Duration = Duration::from_secs(1);

/// The address of the waypoint's Service: whoever connects stays with the pod that was told last when they did.
async fn address_of(pods: watch::Receiver<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let pod = *pods.borrow();
            tokio::spawn(async move {
                let mut pod = TcpStream::connect(pod).await?;
                tokio::io::copy_bidirectional(&mut client, &mut pod).await?;
                Ok::<_, io::Error>(())
            });
        }
    });
    address
}

/// Another pod of the waypoint, and what has it drain.
async fn another(mesh: &Mesh) -> (SocketAddr, drain::Trigger) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (trigger, watch) = drain::channel();
    tokio::spawn(terminate::accept_loop(mesh.proxy.with_own_tunnels(), listener, watch));
    (address, trigger)
}

#[tokio::test]
async fn a_pod_leaves_under_load_and_every_request_stream_body_and_websocket_ends_whole() {
    let (mut mesh, service, _) = billing(68).await;
    let (other, others) = another(&mesh).await;
    // The mesh has the trigger of the one that stays: a drain begins where its trigger is lost.
    let leaves = std::mem::replace(&mut mesh.trigger, others);
    let (pods, pod) = watch::channel(mesh.address);
    mesh.address = address_of(pod).await;

    let (clients, load) = (Clients::of(&mesh, &service), Load::default());
    let rolls = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let told = Instant::now();
        let known = async {
            tokio::time::sleep(TOLD).await;
            pods.send_replace(other);
        };
        let (left, ()) = tokio::join!(waypoint::leave(leaves, LINGER, DRAIN), known);
        let gone = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        load.end();
        (told, left, gone)
    };
    let ((told, left, gone), ()) = tokio::join!(rolls, load.run(&clients));

    let outcomes = load.outcomes.borrow();
    let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.said.is_err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {failed:?}", failed.len(), outcomes.len());
    assert_eq!(left, Drained::Finished, "something was left of it");
    assert!(clients.asked_to_go.get() > 0, "no connection of HTTP/2 was asked to go");
    let drains = told + LINGER;
    assert!(gone > drains + Duration::from_millis(200), "it did not wait for what was open");
    let kinds = |which: &dyn Fn(Instant, Instant) -> bool| -> BTreeSet<&'static str> {
        outcomes.iter().filter(|outcome| which(outcome.begun, outcome.ended)).map(|outcome| outcome.what).collect()
    };
    let sessions = BTreeSet::from(["WebSocket", "download", "stream", "upload"]);
    let (lingered, drained) =
        (kinds(&|begun, _| begun > told && begun < drains), kinds(&|begun, end| begun < drains && end > drains));
    assert!(lingered.is_superset(&sessions), "begun while it lingered: {lingered:?}");
    assert!(drained.is_superset(&sessions), "begun before it drained and ended since: {drained:?}");
    let after = kinds(&|begun, _| begun > drains);
    assert!(after.is_superset(&sessions) && after.contains("HTTP/2"), "begun since it drained: {after:?}");
}

#[tokio::test]
async fn what_outlasts_the_drain_is_cut() {
    const SHORT: Duration = Duration::from_secs(3);
    let mesh = Mesh::start_with(69, Limits::default().drained_within(SHORT)).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let _seen = endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Hbone(mesh.socket(1, HTTP), BILLING)]);

    let clients = Clients::of(&mesh, &service);
    let mut websocket = clients.upgraded().await.unwrap();
    let (mut answer, mut messages) = clients.ask(&mut None, "/stream", false).await.unwrap();
    let begun = Instant::now();
    // Nobody waits for its end: these connections have a deadline of their own.
    mesh.trigger.begin();
    for turn in 0..4 {
        turn_of_websocket(turn, &mut websocket).await.unwrap();
        turn_of_call(turn, &mut answer, &mut messages).await.unwrap();
        tokio::time::sleep(SHORT / 8).await;
    }
    let cut = async {
        let mut turn = 0;
        while turn_of_websocket(turn, &mut websocket).await.is_ok() {
            turn += 1;
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    let broken = async {
        let mut turn = 0;
        while turn_of_call(turn, &mut answer, &mut messages).await.is_ok() {
            turn += 1;
            tokio::time::sleep(SHORT / 20).await;
        }
    };
    let both = async { tokio::join!(cut, broken) };
    tokio::time::timeout(5 * SHORT, both).await.expect("they go on though they were to be cut");
    assert!(begun.elapsed() >= SHORT, "cut after {:?}", begun.elapsed());
    mesh.logged(&["path=/ws", "status=101", "reason=draining"]).await;
}
