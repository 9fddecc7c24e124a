//! Which endpoint of a service takes a connection, and what happens when that one is away.

mod failing;
mod names;
mod ranks;
mod share;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_api::workload::{self, LoadBalancing, Locality, Service};
use ambit_testbed::{Families, Pod};
use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{
    mesh::{Mesh, PATIENCE},
    over,
};

pub fn tests(families: Families) -> Vec<Trial> {
    vec![
        over(families, "the_nearest_endpoints_are_used_and_the_next_ones_when_those_are_gone", ranks::nearest),
        over(families, "an_endpoint_of_the_same_node_is_preferred_when_the_service_asks_for_it", ranks::same_node_preferred),
        over(families, "a_local_service_never_leaves_the_node", ranks::local),
        over(families, "endpoints_that_are_not_ready_are_used_when_the_service_publishes_them", ranks::not_ready),
        over(families, "a_pod_of_a_headless_service_is_reached_itself_or_not_at_all", ranks::headless),
        over(families, "a_service_that_keeps_the_address_is_carried_to_it_as_its_pod_asks", ranks::keeps_the_address),
        over(families, "connections_are_shared_by_capacity", share::capacity),
        over(families, "of_two_endpoints_the_one_with_fewer_connections_is_chosen", share::fewer),
        over(families, "an_endpoint_that_keeps_failing_costs_no_connection_and_is_left_alone_until_it_answers", failing::rested),
        over(families, "when_a_whole_service_is_away_few_more_connects_are_made_than_connections", failing::budget),
        over(families, "a_waypoint_of_which_one_replica_is_away_is_reached_through_another", failing::waypoint_replica),
        over(families, "what_may_have_been_delivered_is_not_sent_to_another_endpoint", failing::delivered),
        over(families, "a_host_name_is_resolved_when_it_is_needed_and_again_when_the_answer_is_old", names::resolved),
        over(families, "a_host_name_is_asked_of_the_resolvers_of_the_node_and_again_when_their_answer_says", names::brief),
    ]
}

/// The addresses of the service that clients dial.
fn addresses(mesh: &Mesh) -> Vec<SocketAddr> {
    mesh.vips(10).into_iter().map(|ip| SocketAddr::new(ip, 80)).collect()
}

/// A server on port 8080 that says its name and then waits for the client's end.
fn serve(pod: &Pod) -> anyhow::Result<JoinHandle<()>> {
    let listener = pod.listen(SocketAddr::from(([0_u16; 8], 8080)))?;
    let name = pod.name().to_owned();
    Ok(tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let name = name.clone();
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                stream.write_all(b"\n").await?;
                tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
                stream.shutdown().await
            });
        }
    }))
}

/// A connection and the name of the pod that took it.
async fn open(client: &Pod, to: SocketAddr) -> anyhow::Result<(TcpStream, String)> {
    let opened = async {
        let mut stream = client.connect(to).await?;
        let mut name = String::new();
        loop {
            match stream.read_u8().await.context("no name")? {
                b'\n' => return Ok((stream, name)),
                letter => name.push(char::from(letter)),
            }
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.context("no name in time")?
}

/// The name of the pod that takes a connection.
async fn who(client: &Pod, to: SocketAddr) -> anyhow::Result<String> {
    let (mut stream, name) = open(client, to).await?;
    stream.shutdown().await?;
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.context("no end in time")??;
    ensure!(rest.is_empty(), "{name} said more: {rest:?}");
    Ok(name)
}

/// Connects until these pods, all of them and no other, take many connections in a row: a change takes a moment to reach the proxy.
async fn taken_by(client: &Pod, to: SocketAddr, expected: &[&str], patience: Duration) -> anyhow::Result<()> {
    const IN_A_ROW: usize = 30;
    let until = Instant::now() + patience;
    let mut row: Vec<String> = Vec::new();
    loop {
        let name = who(client, to).await;
        match &name {
            Ok(name) if expected.contains(&name.as_str()) => row.push(name.clone()),
            _ => row.clear(),
        }
        if row.len() >= IN_A_ROW && expected.iter().all(|name| row.iter().any(|of| of == name)) {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("{to} is not taken by {expected:?}; last by {name:?}, before that {row:?}");
        }
        if name.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The service `api` in front of these pods.
fn service(mesh: &Mesh, endpoints: &[&str], change: impl FnOnce(&mut Service)) {
    mesh.service("api", &mesh.vips(10), endpoints, change);
}

fn balanced(mode: workload::load_balancing::Mode, preference: &[workload::load_balancing::Scope]) -> LoadBalancing {
    LoadBalancing {
        mode: mode.into(),
        routing_preference: preference.iter().map(|scope| i32::from(*scope)).collect(),
        ..Default::default()
    }
}

fn locate(mesh: &Mesh, pod: &str, region: &str, zone: &str) {
    let locality = Locality { region: region.to_owned(), zone: zone.to_owned(), subzone: String::new() };
    mesh.change(pod, |workload| workload.locality = Some(locality));
}

fn ready(mesh: &Mesh, pod: &str, ready: bool) {
    mesh.change(pod, |workload| workload.status = i32::from(!ready));
}
