//! Many tunnels at once that send random amounts in random pieces, and end in every way.

use ambit_hbone::{PoolConfig, ServerConfig};
use fastrand::Rng;

use crate::{
    bed::{Client, Server, draws, play_all},
    noise::{MOST, seed},
    script::{Begins, Draw, Half, Kind, Pieces, Script},
    talk::Law,
    wire::{V4, V4_TLS, V6, V6_TLS, Wire},
};

async fn tunnels_end_as_they_were_ended(wire: Wire) {
    let (mut server, mut verdicts) = Server::of_scripts(wire, ServerConfig::default(), Law::Intact).await;
    let client = Client::new(wire, server.address, PoolConfig::default());
    play_all(&client, &mut verdicts, draws(seed(), 60, Kind::wild(2 << 20))).await;
    play_all(&client, &mut verdicts, draws(seed(), 90, Kind::wild(20_000))).await;
    assert_eq!(client.dials(), 1, "a tunnel cost its neighbours their connection");
    client.pool.drain(std::time::Duration::from_secs(5)).await;
    assert_eq!(server.end_of_connection().await.unwrap(), 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_and_tunnels_end_as_they_were_ended_over_ipv4() {
    tunnels_end_as_they_were_ended(V4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_and_tunnels_end_as_they_were_ended_over_ipv6_with_tls() {
    tunnels_end_as_they_were_ended(V6_TLS).await;
}

#[tokio::test]
async fn every_byte_arrives_and_tunnels_end_as_they_were_ended_over_ipv4_with_tls_on_one_thread() {
    tunnels_end_as_they_were_ended(V4_TLS).await;
}

#[tokio::test]
async fn every_byte_arrives_and_tunnels_end_as_they_were_ended_over_ipv6_on_one_thread() {
    tunnels_end_as_they_were_ended(V6).await;
}

/// The first draw from `seed` on whose ends both send, write and begin as `wanted`, however seldom that is.
fn find(seed: u64, kind: Kind, wanted: impl Fn(&Script) -> bool) -> Draw {
    draws(seed, 1 << 20, kind).find(|draw| wanted(&draw.script())).expect("a draw of this sort")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_megabytes_in_one_write_share_a_connection_with_single_bytes() {
    let mut random = Rng::with_seed(seed());
    for wire in [V4_TLS, V6] {
        let (server, mut verdicts) = Server::of_scripts(wire, ServerConfig::default(), Law::Intact).await;
        let client = Client::new(wire, server.address, PoolConfig::default());
        let whole = |half: &Half| half.length == MOST && matches!(half.pieces, Pieces::Whole);
        let bytes = |half: &Half| half.length > 500 && matches!(half.pieces, Pieces::Bytes);
        let seed = random.u64(..);
        // In both directions, and each beside what the other end of its tunnel says.
        let large = [
            find(seed, Kind::at_once(MOST), |script| whole(&script.client)),
            find(seed, Kind::at_once(MOST), |script| whole(&script.server)),
        ];
        let small = (0..8).map(|n| {
            find(seed.wrapping_add(n << 32), Kind::calm(MOST), |script| {
                let short = script.client.length + script.server.length < 5000;
                let at_once = |half: &Half| matches!(half.begins, Begins::AtOnce);
                short && (bytes(&script.client) || bytes(&script.server)) && at_once(&script.client) && at_once(&script.server)
            })
        });
        play_all(&client, &mut verdicts, small.chain(large)).await;
        assert_eq!(client.dials(), 1);
    }
}
