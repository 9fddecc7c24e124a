//! The connection below in pieces, and cut in the middle of a frame or record.

use ambit_hbone::{PoolConfig, ServerConfig};

use crate::{
    bed::{Client, Server, draws, play_all, sound, still_works},
    noise::seed,
    relay::{Relay, Treatment},
    script::Kind,
    talk::Law,
    wire::{V4, V4_TLS, V6, V6_TLS, Wire},
};

async fn check_pieces(wire: Wire, piece: usize, tunnels: u64, most: usize) {
    let seed = seed();
    let (server, mut verdicts) = Server::of_scripts(wire, ServerConfig::default(), Law::Intact).await;
    let relay = Relay::start(wire, server.address, Treatment { seed, piece, pauses: 400, cut: None }).await;
    let client = Client::new(wire, relay.address, PoolConfig::default());
    play_all(&client, &mut verdicts, draws(seed, tunnels, Kind::wild(most))).await;
    assert_eq!(client.dials(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_delivers_one_byte_at_a_time_carries_tunnels_over_ipv4() {
    check_pieces(V4, 1, 12, 4000).await;
}

#[tokio::test]
async fn a_connection_that_delivers_one_byte_at_a_time_carries_tunnels_over_ipv6_with_tls() {
    check_pieces(V6_TLS, 1, 12, 4000).await;
}

#[tokio::test]
async fn a_connection_that_delivers_odd_pieces_carries_tunnels_over_ipv4_with_tls() {
    check_pieces(V4_TLS, 6000, 40, 150_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_delivers_odd_pieces_carries_tunnels_over_ipv6() {
    check_pieces(V6, 700, 40, 40_000).await;
}

/// Connections are cut after at most `most` bytes, over and over. What an end is told must be true, nobody may wait for ever, and
/// nothing of it may stay behind.
async fn check_cuts(wire: Wire, most: usize) {
    let seed = seed();
    let (mut server, mut verdicts) = Server::of_scripts(wire, ServerConfig::default(), Law::Cut).await;
    let treatment = Treatment { seed, piece: 5000, pauses: 1000, cut: Some(most) };
    let relay = Relay::start(wire, server.address, treatment).await;
    let clients: Vec<_> = (0..6).map(|_| Client::new(wire, relay.address, PoolConfig::default())).collect();
    let rounds = clients.iter().zip(0..).map(|(client, n)| async move {
        let mut told = Vec::new();
        for round in 0..6 {
            let draws = draws(seed.wrapping_add(n * 1000 + round * 100), 12, Kind::wild(100_000));
            told.extend(futures::future::join_all(draws.map(|draw| client.play(draw, Law::Cut))).await.into_iter().flatten());
        }
        client.settled().await;
        told
    });
    let told: Vec<_> = futures::future::join_all(rounds).await.into_iter().flatten().collect();
    assert!(told.len() > 40, "only {} tunnels stood before their connection was cut", told.len());
    sound(told, wire);
    drop(relay);
    let dials: usize = clients.iter().map(Client::dials).sum();
    assert!(dials >= 12, "{dials} connections were cut");
    for client in &clients {
        client.pool.drain(std::time::Duration::ZERO).await;
    }
    let told = server.verdicts_after(dials, &mut verdicts).await;
    assert!(!told.is_empty());
    sound(told, wire);
    still_works(&Client::new(wire, server.address, PoolConfig::default()), &mut verdicts, seed, 100_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_of_a_connection_that_is_cut_anywhere_see_an_error_and_no_false_end_over_ipv4_with_tls() {
    check_cuts(V4_TLS, 120_000).await;
}

#[tokio::test]
async fn tunnels_of_a_connection_that_is_cut_anywhere_see_an_error_and_no_false_end_over_ipv6() {
    check_cuts(V6, 120_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_while_they_begin_leave_nothing_behind_over_ipv6_with_tls() {
    check_early_cuts(V6_TLS, 6000).await;
}

#[tokio::test]
async fn connections_that_are_cut_while_they_begin_leave_nothing_behind_over_ipv4() {
    check_early_cuts(V4, 300).await;
}

/// As above, but mostly before a tunnel stands: in the handshake, the preface, the settings, the first CONNECT.
async fn check_early_cuts(wire: Wire, most: usize) {
    let seed = seed();
    let (mut server, mut verdicts) = Server::of_scripts(wire, ServerConfig::default(), Law::Cut).await;
    let relay = Relay::start(wire, server.address, Treatment { seed, piece: 50, pauses: 1000, cut: Some(most) }).await;
    let client = Client::new(wire, relay.address, PoolConfig::default());
    for round in 0..60 {
        let played = client.play(draws(seed.wrapping_add(round), 1, Kind::wild(100)).next().unwrap(), Law::Cut).await;
        sound(played, wire);
    }
    client.settled().await;
    let dials = client.dials();
    client.pool.drain(std::time::Duration::ZERO).await;
    drop(relay);
    sound(server.verdicts_after(dials, &mut verdicts).await, wire);
    still_works(&Client::new(wire, server.address, PoolConfig::default()), &mut verdicts, seed, 10_000).await;
}
