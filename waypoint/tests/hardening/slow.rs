//! Clients that send a byte at a time.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    PATIENCE, backend, resident,
    support::{
        Limits, Mesh, WEB,
        client::{get, once, tunnel},
        resources::{Ep, Service},
    },
};

/// Clients of each kind.
const CLIENTS: usize = 60;
/// How long a head may take here.
const HEAD: Duration = Duration::from_secs(2);
/// From one byte to the next.
const PACE: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_with_slow_heads_are_cut_and_those_with_slow_bodies_keep_nobody_waiting() {
    let mesh = Arc::new(Mesh::start_with(167, Limits { head: HEAD, ..Limits::default() }).await);
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    let backend = backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    let before = resident();
    let mut heads = tokio::task::JoinSet::new();
    let mut bodies = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (mesh, vip) = (mesh.clone(), service.vip);
        heads.spawn(async move {
            let mut stream = tunnel(&mesh, WEB, vip).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: billing.shop\r\n").await.unwrap();
            // A field every now and then, and never the last.
            while stream.write_all(b"x: y\r\n").await.is_ok() {
                let mut byte = [0];
                if tokio::time::timeout(PACE, stream.read(&mut byte)).await.is_ok() {
                    return;
                }
            }
        });
    }
    for _ in 0..CLIENTS {
        let (mesh, vip) = (mesh.clone(), service.vip);
        bodies.spawn(async move {
            let mut stream = tunnel(&mesh, WEB, vip).await.unwrap();
            stream.write_all(b"POST /slow HTTP/1.1\r\nhost: billing.shop\r\ncontent-length: 60\r\n\r\n").await.unwrap();
            for _ in 0..60 {
                stream.write_all(b"a").await.unwrap();
                tokio::time::sleep(PACE).await;
            }
            let mut status = [0; 12];
            stream.read_exact(&mut status).await.unwrap();
            assert_eq!(&status, b"HTTP/1.1 200");
        });
    }
    // While all of them are at it.
    tokio::time::sleep(4 * PACE).await;
    for _ in 0..10 {
        assert_eq!(once(&mesh, WEB, service.vip, get("/quick")).await.0, 200);
    }
    println!("{} KiB for {} slow clients", resident().saturating_sub(before), 2 * CLIENTS);
    for (what, mut clients) in [("heads", heads), ("bodies", bodies)] {
        while let Some(ended) = tokio::time::timeout(PATIENCE, clients.join_next()).await.expect(what) {
            ended.expect(what);
        }
    }
    let got = backend.got.lock().unwrap();
    let slow = got.iter().filter(|got| got.is_for("/slow") && got.body == [b'a'; 60]).count();
    assert_eq!((slow, got.len()), (CLIENTS, CLIENTS + 10));
}
