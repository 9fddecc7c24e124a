//! Scripts against the `h2` crate as the other end, in both roles, with settings that ours never send.

use std::{net::SocketAddr, time::Duration};

use ambit_hbone::{PoolConfig, ServerConfig};
use bytes::Bytes;
use fastrand::Rng;
use http::{Method, Request, Response};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    bed::{Client, Server, Verdict, drawn, draws, play_all, sound, told_by},
    noise::seed,
    pipes::H2Stream,
    script::{Draw, Kind},
    talk::{Law, talk},
    wire::{V4, V6, Wire, tcp},
};

/// What the other implementation announces.
#[derive(Debug, Clone, Copy)]
struct Odd {
    window: u32,
    connection_window: u32,
    frame: u32,
    /// Changes the window of all streams again and again, to less than is under way, to nothing, and back.
    moves: bool,
}

const ONE_BYTE: Odd = Odd { window: 1, connection_window: 65_535, frame: 16_384, moves: false };
const SMALL: Odd = Odd { window: 5000, connection_window: 70_000, frame: 20_000, moves: false };
const LARGE: Odd = Odd { window: 8 << 20, connection_window: 64 << 20, frame: 16_777_215, moves: false };
const MOVING: Odd = Odd { window: 100_000, connection_window: 1 << 20, frame: 16_384, moves: true };

/// The window at each move.
fn next_window(random: &mut Rng) -> u32 {
    *random.choice(&[0, 1, 10, 5000, 65_535, 1 << 20]).unwrap()
}

const PACE: Duration = Duration::from_millis(3);

/// A server of the `h2` crate whose ends of scripts are played.
async fn odd_server(wire: Wire, odd: Odd, seed: u64) -> (SocketAddr, mpsc::UnboundedReceiver<Verdict>, JoinSet<()>) {
    let listener = wire.listen().await;
    let address = listener.local_addr().unwrap();
    let (tell, verdicts) = mpsc::unbounded_channel();
    let mut owner = JoinSet::new();
    owner.spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(odd.window).initial_connection_window_size(odd.connection_window);
        builder.max_frame_size(odd.frame).data_frame_budget(1 << 30).max_concurrent_reset_streams(1000);
        let mut connection = builder.handshake::<_, Bytes>(tcp).await.unwrap();
        let mut plays = JoinSet::new();
        let mut random = Rng::with_seed(seed);
        loop {
            tokio::select! {
                next = connection.accept() => {
                    let Some(Ok((request, mut respond))) = next else { break };
                    assert_eq!(request.method(), Method::CONNECT);
                    let draw: Draw = request.headers()["x-draw"].to_str().unwrap().parse().unwrap();
                    let tell = tell.clone();
                    plays.spawn(async move {
                        let script = draw.script();
                        // Fails for a client that has reset it already, which nobody does here.
                        let send = respond.send_response(Response::new(()), false).unwrap_or_else(|e| panic!("{draw}: {e}"));
                        let pipe = H2Stream::new(send, request.into_body());
                        tell.send((draw, talk(pipe, &script.server, &script.client, Law::Intact).await)).unwrap();
                    });
                }
                () = tokio::time::sleep(PACE), if odd.moves => {
                    // Refused while the move before is not acknowledged.
                    let _early = connection.set_initial_window_size(next_window(&mut random));
                }
            }
        }
        plays.join_all().await;
    });
    (address, verdicts, owner)
}

async fn check_our_client(wire: Wire, odd: Odd, tunnels: u64, most: usize) {
    let seed = seed();
    let (address, mut verdicts, _owner) = odd_server(wire, odd, seed).await;
    let client = Client::new(wire, address, PoolConfig::default());
    // The `h2` crate's server discards what came before a reset, and its client what it still had to send: no early closing.
    play_all(&client, &mut verdicts, draws(seed, tunnels, Kind::of_sockets(most))).await;
    assert_eq!(client.dials(), 1);
}

async fn check_our_server(wire: Wire, odd: Odd, tunnels: u64, most: usize) {
    let seed = seed();
    let (mut server, mut verdicts) = Server::of_scripts(wire, ServerConfig::default(), Law::Intact).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(odd.window).initial_connection_window_size(odd.connection_window);
    builder.max_frame_size(odd.frame).data_frame_budget(1 << 30).max_concurrent_reset_streams(1000);
    let (send, mut connection) = builder.handshake::<_, Bytes>(tcp(server.address).await.unwrap()).await.unwrap();
    let mut random = Rng::with_seed(seed);
    let driver = tokio::spawn(async move {
        loop {
            tokio::select! {
                ended = &mut connection => return ended,
                () = tokio::time::sleep(PACE), if odd.moves => {
                    let _early = connection.set_initial_window_size(next_window(&mut random));
                }
            }
        }
    });
    let plays = draws(seed, tunnels, Kind::of_sockets(most)).map(|draw| {
        let send = send.clone();
        async move {
            let script = draw.script();
            let mut request = Request::builder().method(Method::CONNECT).uri("10.0.0.1:80").body(()).unwrap();
            *request.headers_mut() = drawn(draw);
            let (response, body) = send.ready().await.unwrap().send_request(request, false).unwrap();
            let response = match response.await {
                Ok(response) => response,
                // The reset of a server that is quick may overtake its answer.
                Err(error) if error.is_reset() && script.server.resets() => return (draw, Ok(())),
                Err(error) => panic!("{draw}: {error}"),
            };
            assert_eq!(response.status(), 200);
            (draw, talk(H2Stream::new(body, response.into_body()), &script.client, &script.server, Law::Intact).await)
        }
    });
    let mut told = futures::future::join_all(plays).await;
    told.extend(told_by(&mut verdicts, tunnels).await);
    sound(told, wire);
    drop(send);
    driver.await.unwrap().unwrap();
    assert_eq!(server.end_of_connection().await.unwrap(), tunnels);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_sends_one_byte_at_a_time_to_a_server_with_windows_of_one_byte() {
    check_our_client(V4, ONE_BYTE, 20, 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_keeps_to_the_small_and_the_huge_settings_of_a_server() {
    check_our_client(V6, SMALL, 40, 400_000).await;
    check_our_client(V4, LARGE, 40, 2_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_client_follows_a_server_that_moves_the_window_under_its_streams() {
    check_our_client(V6, MOVING, 40, 400_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_sends_one_byte_at_a_time_to_a_client_with_windows_of_one_byte() {
    check_our_server(V6, ONE_BYTE, 20, 1500).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_keeps_to_the_small_and_the_huge_settings_of_a_client() {
    check_our_server(V4, SMALL, 40, 400_000).await;
    check_our_server(V6, LARGE, 40, 2_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_server_follows_a_client_that_moves_the_window_under_its_streams() {
    check_our_server(V4, MOVING, 40, 400_000).await;
}
