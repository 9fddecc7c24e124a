//! What two proxies do: application, pump, tunnel, pump, application, with the tunnels of many in one connection.

use std::{io, sync::Arc, time::Duration};

use ambit_hbone::{
    Incoming, PoolConfig, ServerConfig,
    copy::{Counters, EndedBy, Outcome, pump},
};
use http::HeaderMap;
use tokio::{io::AsyncReadExt, sync::mpsc, task::JoinHandle, time::timeout};

use crate::{
    bed::{Client, Server, Verdict, drawn, draws, sound},
    noise::seed,
    script::{Begins, Draw, Half, Kind},
    talk::{Law, talk},
    wire::{V4, V4_TLS, V6, V6_TLS, Wire},
};

const PATIENCE: Duration = Duration::from_secs(50);

/// The far proxy: for each tunnel a connection to an application that plays the server's end.
async fn far_side(wire: Wire) -> (Server, mpsc::UnboundedReceiver<(Verdict, Outcome)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let handler = move |incoming: Incoming| {
        let tell = tell.clone();
        async move {
            let draw: Draw = incoming.headers()["x-draw"].to_str().unwrap().parse().unwrap();
            let script = draw.script();
            let (upstream, application) = wire.tcp_pair().await;
            let plays = tokio::spawn(async move { talk(application, &script.server, &script.client, Law::Intact).await });
            // The reset of an application that is quick may come before the answer; then the pump tells the client.
            let Ok(tunnel) = incoming.accept(HeaderMap::new()) else { return };
            let outcome = pump(tunnel, upstream, &Counters::default()).await;
            let _gone = tell.send(((draw, plays.await.unwrap()), outcome));
        }
    };
    (Server::start(wire, ServerConfig::default(), handler).await, told)
}

/// A line through the near proxy: the application's verdict, and how the pump ended. `None` if the tunnel was reset before it stood.
async fn line(client: &Client, draw: Draw) -> Option<(Verdict, Outcome, u64)> {
    let script = draw.script();
    let Ok(tunnel) = client.open(drawn(draw)).await else {
        assert!(script.server.resets(), "{draw}: not opened");
        return None;
    };
    let (application, captured) = client.wire.tcp_pair().await;
    let counters = Arc::new(Counters::default());
    let counted = Arc::clone(&counters);
    let near: JoinHandle<Outcome> = tokio::spawn(async move { pump(tunnel, captured, &counted).await });
    let verdict = talk(application, &script.client, &script.server, Law::Intact).await;
    let outcome = timeout(PATIENCE, near).await.unwrap_or_else(|_| panic!("{draw}: the pump did not end")).unwrap();
    Some(((draw, verdict), outcome, counters.sent()))
}

fn ended(outcome: &Outcome, sends: &Half, receives: &Half, who: &str, draw: Draw) {
    let calm = sends.stays() && receives.stays();
    if calm {
        assert!(matches!(outcome.ended_by, EndedBy::Finished), "{draw}: the {who} pump: {outcome:?}");
        assert_eq!((outcome.sent, outcome.received), (sends.length as u64, receives.length as u64), "{draw}: the {who} pump");
    } else {
        assert!(!matches!(outcome.ended_by, EndedBy::Finished), "{draw}: the {who} pump: {outcome:?}");
        assert!(outcome.sent <= sends.sends() as u64 && outcome.received <= receives.sends() as u64, "{draw}: {outcome:?}");
    }
}

async fn lines_end_as_they_were_ended(wire: Wire) {
    let (server, mut told) = far_side(wire).await;
    let client = Client::new(wire, server.address, PoolConfig::default());
    let seed = seed();
    for (round, most, count) in [(0, 20_000, 60), (1, 1 << 20, 40)] {
        let draws = draws(seed.wrapping_add(round << 20), count, Kind::of_sockets(most));
        let lines = futures::future::join_all(draws.map(|draw| line(&client, draw))).await;
        let stood = lines.iter().flatten().count();
        let mut verdicts = Vec::new();
        for (verdict, outcome, _counted) in lines.into_iter().flatten() {
            let script = verdict.0.script();
            ended(&outcome, &script.client, &script.server, "near", verdict.0);
            verdicts.push(verdict);
        }
        for _ in 0..stood {
            let (verdict, outcome) = timeout(PATIENCE, told.recv()).await.expect("a far pump did not end").unwrap();
            let script = verdict.0.script();
            ended(&outcome, &script.server, &script.client, "far", verdict.0);
            verdicts.push(verdict);
        }
        sound(verdicts, wire);
        client.settled().await;
    }
    assert_eq!(client.dials(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_joined_by_tunnels_end_as_they_were_ended_over_ipv4_with_tls() {
    lines_end_as_they_were_ended(V4_TLS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_joined_by_tunnels_end_as_they_were_ended_over_ipv6() {
    lines_end_as_they_were_ended(V6).await;
}

#[tokio::test]
async fn sockets_joined_by_tunnels_end_as_they_were_ended_over_ipv6_with_tls_on_one_thread() {
    lines_end_as_they_were_ended(V6_TLS).await;
}

#[tokio::test]
async fn sockets_joined_by_tunnels_end_as_they_were_ended_over_ipv4_on_one_thread() {
    lines_end_as_they_were_ended(V4).await;
}

/// A socket that nobody drives any more is closed, not leaked: the far pump of a client that was cut must let its application go.
#[tokio::test]
async fn both_applications_are_told_when_the_connection_between_the_proxies_is_cut() {
    for wire in [V4_TLS, V6] {
        let (server, mut told) = far_side(wire).await;
        let client = Client::new(wire, server.address, PoolConfig::default());
        // Its server waits for the end of the client's message, which does not come.
        let waits = |draw: &Draw| matches!(draw.script().server.begins, Begins::AfterEnd);
        let draw = draws(seed(), 10_000, Kind::calm(100)).find(waits).unwrap();
        let tunnel = client.open(drawn(draw)).await.unwrap();
        let (application, captured) = wire.tcp_pair().await;
        let near = tokio::spawn(async move { pump(tunnel, captured, &Counters::default()).await });
        client.pool.drain(Duration::ZERO).await;
        let near = timeout(PATIENCE, near).await.unwrap().unwrap();
        assert!(matches!(near.ended_by, EndedBy::First(_)), "{near:?}");
        let mut application = application;
        let told_near = timeout(PATIENCE, application.read(&mut [0])).await.expect("the near application was not told");
        assert_eq!(told_near.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (_, far) = timeout(PATIENCE, told.recv()).await.expect("the far pump goes on").unwrap();
        assert!(matches!(far.ended_by, EndedBy::First(_)), "{far:?}");
    }
}
