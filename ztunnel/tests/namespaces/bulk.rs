//! Bulk beside small requests: carried by a thread of its own, unchanged, and still under policy.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use ambit_api::security::{Action, Match};
use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    mesh::{Mesh, PATIENCE, call_until_it_works, echo, id_of},
    test,
};

/// Bytes that go there and come back in one piece.
const PIECE: usize = 4 << 20;
/// How long the proxies may take until both have seen that it is bulk: some 4 MiB beside some requests.
const LIMIT: Duration = Duration::from_secs(60);

pub fn tests() -> Vec<Trial> {
    vec![test("bulk_beside_small_requests_has_a_thread_of_its_own_and_ends_when_policy_denies_it", aside)]
}

async fn aside() -> anyhow::Result<()> {
    let mesh = Mesh::start_adding(|_, _| vec!["--workers".into(), "2".into()]).await?;
    let (web, heavy, server) = (mesh.pod(0, "web").await?, mesh.pod(0, "heavy").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    for client in [&web, &heavy] {
        call_until_it_works(client, to, 2 * PATIENCE).await?;
    }
    ensure!(!has_thread(&mesh, 0)? && !has_thread(&mesh, 1)?, "there is no bulk yet");
    let (mut small, mut bulk) = (greeted(web.connect(to).await?).await?, greeted(heavy.connect(to).await?).await?);
    let bytes: Vec<u8> = (0..PIECE).map(|at| u8::try_from(at % 251).unwrap_or(0)).collect();
    let until = Instant::now() + LIMIT;
    let carried = async {
        while !(has_thread(&mesh, 0)? && has_thread(&mesh, 1)?) {
            there_and_back(&mut bulk, &bytes).await?;
            ensure!(Instant::now() < until, "bulk stays with the requests beside it");
        }
        // By that thread.
        there_and_back(&mut bulk, &bytes).await?;
        mesh.policy("closed", Action::Deny, vec![Match { destination_ports: vec![8080], ..Default::default() }]);
        let denied = async {
            loop {
                if let Err(error) = there_and_back(&mut bulk, &bytes).await {
                    break error;
                }
            }
        };
        timeout(2 * PATIENCE, denied).await.context("it was not cut")
    };
    let requests = async {
        let mut answer = [0; 64];
        // They are denied as well in the end.
        while small.write_all(&[7; 64]).await.is_ok() && small.read_exact(&mut answer).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        error = carried => error?,
        () = requests => bail!("they go on for ever"),
    };
    let kind = error.kind();
    ensure!(matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe), "it ended by {error}");
    let heavy = format!("src.identity={}", id_of("heavy"));
    mesh.logged(1, &["direction=inbound", "reason=policy_denied_explicit", &heavy]).await?;
    mesh.bed.shutdown().await;
    Ok(())
}

/// Reads the line in which the server says whom it sees.
async fn greeted(mut stream: TcpStream) -> anyhow::Result<TcpStream> {
    let greeting = async {
        while stream.read_u8().await? != b'\n' {}
        io::Result::Ok(())
    };
    timeout(PATIENCE, greeting).await.context("the server said nothing")??;
    Ok(stream)
}

async fn there_and_back(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    let mut back = vec![0; bytes.len()];
    tokio::try_join!(write.write_all(bytes), read.read_exact(&mut back))?;
    if back == bytes { Ok(()) } else { Err(io::Error::other("bytes changed on the way")) }
}

/// Whether the proxy of a node has a thread for bulk.
fn has_thread(mesh: &Mesh, node: usize) -> anyhow::Result<bool> {
    let proxy = mesh.nodes[node].proxy.as_ref().context("no proxy")?;
    for thread in std::fs::read_dir(format!("/proc/{}/task", proxy.pid()))? {
        // Others may end meanwhile.
        if std::fs::read_to_string(thread?.path().join("comm")).is_ok_and(|name| name.trim() == "bulk") {
            return Ok(true);
        }
    }
    Ok(false)
}
