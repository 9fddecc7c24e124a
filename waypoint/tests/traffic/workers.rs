//! Connections on several threads, each with its own connections to endpoints.

use std::{
    num::NonZero,
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_api::{envoy::pb::envoy::config::cluster::v3::circuit_breakers::Thresholds, type_url};
use ambit_runtime::{
    drain::{self, Outcome},
    socket::{ListenOptions, listen},
    workers::{Busy, Settings},
};
use ambit_tls::revocation::{Revocations, Unlisted};
use futures::future::join_all;
use hyper::client::conn::http1::SendRequest;
use tokio::net::{TcpListener, TcpStream};
use waypoint::{
    carriers::{self, Workers},
    terminate, upstream,
};

use super::{
    billing, edge,
    resilience::{configured, limited, number, until},
    support::{
        Mesh, WEB,
        client::{Body, get, http1, once, read},
        resources,
    },
};

/// More than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has connections that are accepted from now on served by so many threads.
pub(super) fn on_threads(mesh: &mut Mesh, count: usize, settings: Settings) -> Arc<Workers> {
    let workers = carriers::start(&mesh.proxy, NonZero::new(count), settings).unwrap();
    let listener = {
        let _its_own = workers.first().enter();
        listen("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap()
    };
    mesh.address = listener.local_addr().unwrap();
    let (trigger, watch) = drain::channel();
    mesh.trigger = trigger;
    workers.first().handle().spawn(terminate::accept_loop(workers.clone(), listener, watch));
    workers
}

/// How many of them have connections to endpoints that take requests.
fn connected(workers: &Workers) -> usize {
    workers.shared().filter(|proxy| !proxy.tunnels.status().is_empty()).count()
}

/// Has all of them ask once.
async fn ask(senders: &mut [SendRequest<Body>], path: &str) -> Vec<u16> {
    join_all(senders.iter_mut().map(|sender| async move {
        sender.ready().await.unwrap();
        read(sender.send_request(get(path)).await.unwrap()).await.0
    }))
    .await
}

#[tokio::test]
async fn connections_are_served_by_several_threads_whose_certificates_are_renewed_and_which_end_together() {
    let (mut mesh, service, seen) = billing(151).await;
    // The first one counts as busy, so that the other one takes connections as well.
    let busy = Busy { share: 0.0, sustained: Duration::ZERO };
    let workers = on_threads(&mut mesh, 2, Settings { busy, ..Settings::default() });
    let (mut senders, began) = (Vec::new(), Instant::now());
    while connected(&workers) < 2 {
        assert!(began.elapsed() < PATIENCE, "one thread serves all connections");
        let mut sender = http1(&mesh, WEB, service.vip).await;
        assert_eq!(read(sender.send_request(get("/")).await.unwrap()).await.0, 200);
        senders.push(sender);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(seen.connections(), 2, "each has one connection");
    assert_eq!(ask(&mut senders, "/").await, vec![200; senders.len()]);
    let before = seen.connections();

    // Whom they believe has changed: none of them sends a further request on a connection that was made before.
    tokio::spawn(upstream::retire(workers.shared().chain([&mesh.proxy]).cloned().collect()));
    tokio::task::yield_now().await;
    mesh.proxy.certificates.trust().revoke(Revocations::none(Unlisted::Accepted));
    until("connections made before take requests", || connected(&workers) == 0).await;
    assert_eq!(ask(&mut senders, "/").await, vec![200; senders.len()]);
    assert_eq!(connected(&workers), 2);
    assert!(seen.connections() >= before + 2, "{} and {before}", seen.connections());

    let (before, count, address, trigger) = (seen.requests(), senders.len(), mesh.address, mesh.trigger);
    let drained = async {
        until("requests do not come", || seen.requests() == before + count).await;
        trigger.drain(PATIENCE).await
    };
    let (statuses, drained) = tokio::join!(ask(&mut senders, "/slow"), drained);
    assert_eq!((statuses, drained), (vec![200; count], Outcome::Finished));
    assert!(TcpStream::connect(address).await.is_err());
    workers.stop();
}

#[tokio::test]
async fn connections_at_a_port_of_the_edge_are_shared_out_among_two_threads_which_ztunnels_are_not() {
    let (mut mesh, service, _) = billing(153).await;
    // The first one is never busy.
    let busy = Busy { share: f64::MAX, ..Busy::default() };
    let workers = on_threads(&mut mesh, 2, Settings { busy, ..Settings::default() });
    let port = edge::free_port();
    mesh.deliver(type_url::LISTENER, vec![(edge::NAME.into(), resources::edge(port, edge::NAME))]);
    let (name, mut table) = resources::routes(edge::NAME, vec![resources::to(&service.cluster())]);
    table.virtual_hosts[0].domains = vec!["*".into()];
    mesh.deliver(type_url::ROUTE, vec![(name, table)]);
    let (trigger, watch) = drain::channel();
    workers.first().handle().spawn(waypoint::edge::run(workers.clone(), mesh.store.ports(), watch));
    let mut ztunnels = vec![http1(&mesh, WEB, service.vip).await, http1(&mesh, WEB, service.vip).await];
    assert_eq!(ask(&mut ztunnels, "/a").await, [200, 200]);
    assert_eq!(connected(&workers), 1);
    // The tunnels count, too.
    let mut clients = vec![edge::client(port).await, edge::client(port).await, edge::client(port).await];
    for client in &mut clients {
        assert_eq!(read(client.send_request(edge::get("www.shop.example", "/a")).await.unwrap()).await.0, 200);
    }
    assert_eq!(connected(&workers), 2);
    drop(clients);
    assert_eq!(trigger.drain(PATIENCE).await, Outcome::Finished);
    workers.stop();
}

#[tokio::test]
async fn where_there_are_more_than_two_threads_connections_that_come_at_once_are_shared_out() {
    let (mut mesh, service, _) = billing(154).await;
    let workers = on_threads(&mut mesh, 3, Settings::default());
    let mut senders = Vec::new();
    for _ in 0..3 {
        senders.push(http1(&mesh, WEB, service.vip).await);
    }
    assert_eq!(ask(&mut senders, "/").await, vec![200; senders.len()]);
    assert_eq!(connected(&workers), 3);
    workers.stop();
}

#[tokio::test]
async fn a_request_whose_cluster_may_have_no_more_connections_goes_on_one_of_another_worker() {
    let (mut mesh, service, seen) = billing(152).await;
    let limits = Thresholds { max_connections: number(1), ..Default::default() };
    configured(&mesh, &service, |cluster| cluster.circuit_breakers = limited(limits));
    let other = mesh.proxy.with_own_tunnels();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (one, two) = (mesh.address, listener.local_addr().unwrap());
    let (_trigger, watch) = drain::channel();
    tokio::spawn(terminate::accept_loop(other.clone(), listener, watch));
    for address in [one, two, two, one] {
        mesh.address = address;
        let asked = tokio::time::timeout(PATIENCE, once(&mesh, WEB, service.vip, get("/"))).await;
        assert_eq!(asked.expect("it waits for the connection that the other has").0, 200);
    }
    // It is at the first one now. Where nobody may wait for a connection either, one that takes it does not.
    configured(&mesh, &service, |cluster| {
        cluster.circuit_breakers = limited(Thresholds { max_pending_requests: number(0), ..limits });
    });
    mesh.address = two;
    let began = Instant::now();
    while once(&mesh, WEB, service.vip, get("/")).await.0 != 200 {
        assert!(began.elapsed() < PATIENCE, "it counts among those who wait");
    }
    assert_eq!((seen.tunnels(), seen.requests(), other.tunnels.status().len()), (1, 5, 0));
}
