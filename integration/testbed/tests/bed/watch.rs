//! Watching the wire.

use std::net::SocketAddr;

use ambit_testbed::{Bed, BedConfig, PodSpec};
use anyhow::ensure;
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("the_wire_shows_markers_by_family_and_nothing_that_stays_on_a_node", markers),
        test("the_wire_counts_each_byte_of_a_transfer_once_and_drops_none", transfer),
    ]
}

/// Sends text over a connection between two places and waits until it has arrived.
async fn send(client: &mut TcpStream, server: &mut TcpStream, text: &str) -> anyhow::Result<()> {
    client.write_all(text.as_bytes()).await?;
    let mut arrived = vec![0; text.len()];
    server.read_exact(&mut arrived).await?;
    ensure!(arrived == text.as_bytes());
    Ok(())
}

async fn markers() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let one = bed.add_node("node-1").await?;
    let two = bed.add_node("node-2").await?;
    let client = one.add_pod(PodSpec::new("shop", "client")).await?;
    let near = one.add_pod(PodSpec::new("shop", "near")).await?;
    let far = two.add_pod(PodSpec::new("shop", "far")).await?;
    let plane = bed.control_plane().await?;
    let capture = bed.capture(["open-secret", "never-sent", "kept-near"])?;
    for family in 0..2 {
        for (to, text) in [(&*near, "kept-near"), (&*far, "an open-secret here"), (&**plane, "open-secret")] {
            let listener = to.listen(SocketAddr::new(to.ips()[family], 0))?;
            let mut sender = client.connect(listener.local_addr()?).await?;
            let mut receiver = listener.accept().await?.0;
            if text == "open-secret" {
                // Split over two segments; no delay between them is needed, for each write is pushed at once (TCP_NODELAY).
                send(&mut sender, &mut receiver, "open-").await?;
                send(&mut sender, &mut receiver, "secret").await?;
            } else {
                send(&mut sender, &mut receiver, text).await?;
            }
        }
    }
    let report = capture.report();
    let seen: Vec<_> = report.markers.iter().map(|seen| (seen.marker.as_str(), seen.ipv4, seen.ipv6)).collect();
    ensure!(seen == [("open-secret", 2, 2), ("never-sent", 0, 0), ("kept-near", 0, 0)], "{report:?}");
    ensure!(report.marker_seen() && report.dropped == 0, "{report:?}");
    ensure!(report.ipv4.packets >= 4 && report.ipv6.packets >= 4 && report.control_plane.packets >= 8, "{report:?}");
    ensure!(report.total.packets == report.ipv4.packets + report.ipv6.packets, "{report:?}");
    Ok(())
}

async fn transfer() -> anyhow::Result<()> {
    // Fits in the ring, so that nothing is dropped even when the capture gets no processor time meanwhile.
    const MEGABYTES: usize = 48;
    let bed = Bed::new(BedConfig::default()).await?;
    let one = bed.add_node("node-1").await?;
    let two = bed.add_node("node-2").await?;
    let capture = bed.capture(["marker-at-the-end"])?;
    let listener = two.listen((two.ip(), 0).into())?;
    let mut sender = one.connect(listener.local_addr()?).await?;
    let mut receiver = listener.accept().await?.0;
    let sending = tokio::spawn(async move {
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..MEGABYTES {
            sender.write_all(&chunk).await?;
        }
        sender.write_all(b"marker-at-the-end").await?;
        anyhow::Ok(sender)
    });
    let mut chunk = vec![0; 1 << 18];
    let mut received = 0;
    let expected = (MEGABYTES << 20) + "marker-at-the-end".len();
    while received < expected {
        received += receiver.read(&mut chunk).await?;
    }
    drop(sending.await??);
    let report = capture.report();
    ensure!(report.dropped == 0 && report.marker_seen(), "{report:?}");
    // Headers and acknowledgements come on top; had each packet been counted twice, it would be 100 %.
    let bytes = report.total.bytes as f64 / received as f64;
    ensure!((1.0..1.2).contains(&bytes), "{bytes} times the payload: {report:?}");
    Ok(())
}
