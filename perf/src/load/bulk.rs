//! Bodies without end: how many bytes a path carries.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::LocalSet,
};

use super::{Load, Sample};

const REQUEST: &[u8] = b"GET /bulk HTTP/1.1\r\nhost: server\r\naccept: */*\r\n\r\n";
const READ: usize = 256 * 1024;

/// Reads `load.connections` bodies at once and counts what arrives while measuring.
pub(super) async fn run(load: &Load) -> anyhow::Result<Sample> {
    let from = Instant::now() + load.warmup();
    let until = from + load.measured();
    let (bytes, errors) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let tasks = LocalSet::new();
    for connection in 0..load.connections {
        let (bytes, errors, target) = (bytes.clone(), errors.clone(), load.target(connection));
        tasks.spawn_local(async move {
            // A stalled stream ends with the sample; it shows as bytes that are missing.
            let deadline = until + Duration::from_millis(100);
            if let Ok(Err(_)) = tokio::time::timeout_at(deadline.into(), receive(target, from, until, &bytes)).await {
                errors.set(errors.get() + 1);
            }
        });
    }
    tasks.await;
    if bytes.get() == 0 {
        bail!("no byte arrived ({} of {} streams failed)", errors.get(), load.connections);
    }
    Ok(Sample {
        seconds: load.seconds,
        count: load.connections as u64,
        errors: errors.get(),
        bytes: bytes.get(),
        ..Sample::default()
    })
}

async fn receive(target: SocketAddr, from: Instant, until: Instant, bytes: &Cell<u64>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(REQUEST).await?;
    let mut buffer = vec![0; READ];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let now = Instant::now();
        if now >= until {
            return Ok(());
        }
        if now >= from {
            bytes.set(bytes.get() + read as u64);
        }
    }
}
