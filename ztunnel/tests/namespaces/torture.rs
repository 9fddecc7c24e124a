//! Random scripts between applications through real capture: every byte is compared with what was sent, and how each connection ends
//! with how it was ended. The scripts are those that the tunnels themselves are tortured with.

use std::{net::SocketAddr, time::Duration};

use ambit_testbed::{Families, Pod};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    books,
    mesh::{Mesh, PATIENCE},
    near,
    noise::{MOST, seed},
    script::{Draw, Kind},
    talk::{Law, talk},
    test,
};

/// How long all scripts of a round may take: those that hang are found by it.
const LIMIT: Duration = Duration::from_secs(60);

pub type Verdict = (Draw, Result<(), String>);

pub fn tests() -> Vec<Trial> {
    let mut tests = vec![test("connections_between_nodes_end_as_they_were_ended", || scripts("relay", 1))];
    for mode in near::MODES {
        tests.push(test(&format!("{mode}: connections_on_one_node_end_as_they_were_ended"), || scripts(mode, 0)));
    }
    tests
}

async fn scripts(mode: &'static str, server_node: usize) -> anyhow::Result<()> {
    let mesh = Mesh::start_with(Families::Dual, mode).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(server_node, "api").await?);
    let (_serving, mut told) = play_server(&server)?;
    let seed = seed();
    let mut round = 0;
    for ip in server.ips() {
        let to = SocketAddr::new(ip, 8080);
        // Many small ones at once, fewer large ones, writes of megabytes, and one of all 16.
        let kinds =
            [(100, Kind::of_sockets(20_000)), (50, Kind::of_sockets(1 << 20)), (4, Kind::calm(MOST)), (1, Kind::at_once(MOST))];
        for (count, kind) in kinds {
            let draws = (0..count).map(|n| Draw { seed: seed.wrapping_add((round << 32) + n), kind }).collect();
            play_round(&client, to, draws, &mut told).await?;
            round += 1;
        }
    }
    for node in 0..=server_node {
        books::balanced(&mesh, node).await?;
    }
    mesh.bed.shutdown().await;
    Ok(())
}

/// Plays all of these at once, and checks what both ends of each say.
pub async fn play_round(
    client: &Pod,
    to: SocketAddr,
    draws: Vec<Draw>,
    told: &mut mpsc::UnboundedReceiver<Verdict>,
) -> anyhow::Result<()> {
    let played = timeout(LIMIT, futures::future::join_all(draws.iter().map(|draw| play(client, to, *draw)))).await;
    let mut verdicts: Vec<Verdict> = played.with_context(|| format!("to {to}: they do not end"))?;
    // A client's reset may come before the server knows which script it is in.
    let mut waited: Vec<_> = draws.into_iter().filter(|draw| !draw.script().client.resets()).collect();
    while !waited.is_empty() {
        let verdict = timeout(PATIENCE, told.recv()).await.with_context(|| format!("no word from servers of {waited:?}"))?;
        let verdict = verdict.context("the server has gone")?;
        waited.retain(|draw| *draw != verdict.0);
        verdicts.push(verdict);
    }
    while let Ok(verdict) = told.try_recv() {
        verdicts.push(verdict);
    }
    sound(&verdicts)
}

fn sound(verdicts: &[Verdict]) -> anyhow::Result<()> {
    let wrong = verdicts.iter().filter_map(|(draw, verdict)| Some((draw, verdict.as_ref().err()?)));
    let wrong: Vec<_> = wrong.map(|(draw, why)| format!("{draw}: {why}\n    {:?}", draw.script())).collect();
    ensure!(wrong.is_empty(), "{} ends went wrong:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

/// The client's end: says which script it is, then plays.
async fn play(pod: &Pod, to: SocketAddr, draw: Draw) -> Verdict {
    let played = async {
        let mut stream =
            timeout(PATIENCE, pod.connect(to)).await.map_err(|_| "no connection in time")?.map_err(|e| e.to_string())?;
        stream.write_all(format!("{draw}\n").as_bytes()).await.map_err(|e| e.to_string())?;
        let script = draw.script();
        talk(stream, &script.client, &script.server, Law::Intact).await
    };
    (draw, played.await)
}

/// Plays the server's end of every script that is asked for.
pub fn play_server(pod: &Pod) -> anyhow::Result<(JoinHandle<()>, mpsc::UnboundedReceiver<Verdict>)> {
    let listener: TcpListener = pod.listen(SocketAddr::from(([0_u16; 8], 8080)))?;
    let (tell, told) = mpsc::unbounded_channel();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                // One that is cut before is one that its client has reset.
                let Some(draw) = asked(&mut stream).await else { return };
                let script = draw.script();
                let _gone = tell.send((draw, talk(stream, &script.server, &script.client, Law::Intact).await));
            });
        }
    });
    Ok((serving, told))
}

/// Which script the client says, read byte by byte so that nothing after it is taken.
async fn asked(stream: &mut TcpStream) -> Option<Draw> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await.ok()? {
            b'\n' => return std::str::from_utf8(&line).ok()?.parse().ok(),
            byte => line.push(byte),
        }
    }
}
