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

use super::{Load, Sample, timer::Timer};

const REQUEST: &[u8] = b"GET /bulk HTTP/1.1\r\nhost: server\r\naccept: */*\r\n\r\n";
const READ: usize = 256 * 1024;

/// Reads `load.connections` bodies at once, each no faster than `gbits`, and counts what arrives while measuring.
pub(super) async fn run(load: &Load, gbits: Option<f64>) -> anyhow::Result<Sample> {
    let from = Instant::now() + load.warmup();
    let until = from + load.measured();
    let (bytes, all, errors) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let tasks = LocalSet::new();
    for connection in 0..load.connections {
        let (bytes, all, errors, target) = (bytes.clone(), all.clone(), errors.clone(), load.target(connection));
        let pace = gbits.map(Pace::new).transpose()?;
        tasks.spawn_local(async move {
            // A stalled stream ends with the sample; it shows as bytes that are missing.
            let deadline = until + Duration::from_millis(100);
            let stream = receive(target, pace, until, |now, read| {
                all.set(all.get() + read);
                bytes.set(bytes.get() + if now >= from { read } else { 0 });
            });
            if let Ok(Err(_)) = tokio::time::timeout_at(deadline.into(), stream).await {
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
        all_bytes: all.get(),
        ..Sample::default()
    })
}

/// A speed that a stream is held to.
struct Pace {
    timer: Timer,
    bytes_per_second: f64,
}

impl Pace {
    fn new(gbits: f64) -> std::io::Result<Self> {
        Ok(Self { timer: Timer::new()?, bytes_per_second: gbits * 1e9 / 8.0 })
    }

    /// Waits until `bytes` since `began` are due.
    async fn keep(&self, began: Instant, bytes: u64) -> std::io::Result<()> {
        self.timer.wait_until(began + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second)).await
    }
}

async fn receive(target: SocketAddr, pace: Option<Pace>, until: Instant, arrived: impl Fn(Instant, u64)) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(REQUEST).await?;
    let mut buffer = vec![0; READ];
    let (began, mut received) = (Instant::now(), 0);
    loop {
        let read = stream.read(&mut buffer).await? as u64;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let now = Instant::now();
        if now >= until {
            return Ok(());
        }
        arrived(now, read);
        received += read;
        if let Some(pace) = &pace {
            pace.keep(began, received).await?;
        }
    }
}
