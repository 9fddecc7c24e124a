//! Applications that do not read, beside others that do, in the same tunnel connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ambit_testbed::Pod;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::{
    books,
    mesh::{Mesh, PATIENCE},
    noise::{MOST, difference, noise, seed},
    script::{Draw, Kind},
    storm::{MIB, memory},
    test,
    torture::{play_round, play_server},
};

/// What each sends is more than the kernel's buffers and the window of its tunnel hold together, which is some 25 MiB.
const ROUNDS: usize = 3;
const STALLED: usize = 4;
/// The window of a tunnel, and what else its proxies may hold of it.
const HELD: u64 = (4 + 1) * MIB;
/// For all else, with allocators that keep some.
const BESIDES: u64 = 12 * MIB;

pub fn tests() -> Vec<Trial> {
    vec![test("servers_that_do_not_read_hold_their_windows_and_no_neighbour", stalled)]
}

async fn stalled() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let (_serving, mut told) = play_server(&server)?;
    let listener = server.listen(SocketAddr::from(([0_u16; 8], 9090)))?;
    let (may, wait) = watch::channel(false);
    let readers = tokio::spawn(accept(listener, wait));
    let seed = seed();
    let neighbours =
        |round: u64| (0..50).map(move |n| Draw { seed: seed.wrapping_add((round << 32) + n), kind: Kind::of_sockets(300_000) });
    let to: Vec<_> = server.ips().into_iter().map(|ip| SocketAddr::new(ip, 8080)).collect();
    play_round(&client, to[0], neighbours(0).collect(), &mut told).await?;
    let before = memory(&mesh)?;
    let mut writers = JoinSet::new();
    let mut taken = Vec::new();
    for number in 0..STALLED {
        let count = Arc::new(AtomicUsize::new(0));
        writers.spawn(write(client.clone(), SocketAddr::new(to[number % 2].ip(), 9090), Arc::clone(&count)));
        taken.push(count);
    }
    let mut peak = before;
    for round in 1..5 {
        play_round(&client, to[round as usize % 2], neighbours(round).collect(), &mut told).await?;
        let now = memory(&mesh)?;
        peak = [peak[0].max(now[0]), peak[1].max(now[1])];
    }
    let taken: Vec<_> = taken.iter().map(|taken| taken.load(Ordering::Relaxed)).collect();
    ensure!(taken.iter().all(|taken| *taken < ROUNDS * MOST), "nobody was held back: {taken:?}");
    let most = STALLED as u64 * HELD + BESIDES;
    ensure!(
        peak.iter().zip(before).all(|(peak, before)| *peak < before + most),
        "the proxies grew from {before:?} to {peak:?} bytes"
    );
    println!("taken {taken:?}; bytes of both proxies before {before:?}, at most {peak:?}");
    may.send_replace(true);
    while let Some(written) = timeout(6 * PATIENCE, writers.join_next()).await.context("writers do not end")? {
        written??;
    }
    timeout(PATIENCE, readers).await.context("readers do not end")???;
    for node in 0..2 {
        books::balanced(&mesh, node).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn write(pod: Pod, to: SocketAddr, taken: Arc<AtomicUsize>) -> anyhow::Result<()> {
    let mut stream = pod.connect(to).await?;
    for _ in 0..ROUNDS {
        for part in noise(0, MOST).chunks(64 << 10) {
            stream.write_all(part).await?;
            taken.fetch_add(part.len(), Ordering::Relaxed);
        }
    }
    stream.shutdown().await?;
    ensure!(stream.read(&mut [0]).await? == 0, "an answer that nobody gave");
    Ok(())
}

/// Takes all connections, and reads them once it may.
async fn accept(listener: TcpListener, may: watch::Receiver<bool>) -> anyhow::Result<()> {
    let mut readers = JoinSet::new();
    for _ in 0..STALLED {
        let (mut stream, _) = listener.accept().await?;
        let mut may = may.clone();
        readers.spawn(async move {
            may.wait_for(|may| *may).await?;
            let mut buffer = vec![0; 256 << 10];
            let mut heard = 0;
            loop {
                let most = buffer.len().min(MOST - heard % MOST);
                let count = stream.read(&mut buffer[..most]).await?;
                if count == 0 {
                    break;
                }
                let different = difference(0, heard % MOST, &buffer[..count]);
                ensure!(different.is_none(), "byte {different:?} of round {} changed", heard / MOST);
                heard += count;
            }
            ensure!(heard == ROUNDS * MOST, "{heard} bytes came");
            Ok(stream.shutdown().await?)
        });
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    Ok(())
}
