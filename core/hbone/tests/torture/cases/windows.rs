//! Windows so small that nearly every byte waits for leave.

use ambit_hbone::{PoolConfig, ServerConfig, Settings};

use crate::{
    bed::{Client, Server, draws, play_all},
    noise::seed,
    script::Kind,
    talk::Law,
    wire::{V4, V4_TLS, V6, V6_TLS, Wire},
};

fn settings(stream_window: u32) -> Settings {
    // A connection's window cannot be smaller than it begins: 65,535.
    Settings { stream_window, connection_window: 65_535, max_frame_size: 16_384, ..Settings::default() }
}

async fn check(wire: Wire, client_window: u32, server_window: u32, tunnels: u64, most: usize) {
    let config = ServerConfig { settings: settings(server_window), ..ServerConfig::default() };
    let (server, mut verdicts) = Server::of_scripts(wire, config, Law::Intact).await;
    let config = PoolConfig { settings: settings(client_window), ..PoolConfig::default() };
    let client = Client::new(wire, server.address, config);
    play_all(&client, &mut verdicts, draws(seed(), tunnels, Kind::wild(most))).await;
    assert_eq!(client.dials(), 1);
}

#[tokio::test]
async fn windows_of_one_byte_carry_every_byte_both_ways() {
    check(V4, 1, 1, 20, 1500).await;
    check(V6_TLS, 1, 1, 20, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_one_byte_on_one_side_does_not_slow_down_the_truth_on_the_other() {
    check(V4_TLS, 1, 4 << 20, 20, 2000).await;
    check(V6, 4 << 20, 1, 20, 2000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_windows_carry_every_byte() {
    for (wire, window) in [(V4, 2), (V6, 3), (V4, 100)] {
        check(wire, window, window, 12, 1500).await;
    }
    check(V6, 16_383, 9001, 40, 200_000).await;
    check(V4_TLS, 65_536, 20_000, 40, 400_000).await;
}

/// Eighty tunnels whose stream windows together are many times that of the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_connection_window_is_shared_by_eighty_tunnels() {
    check(V4, 4 << 20, 4 << 20, 80, 300_000).await;
    check(V6_TLS, 1 << 20, 1 << 20, 80, 300_000).await;
}
