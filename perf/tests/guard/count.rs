//! What the tunnel pair does, counted where it can be without the help of the kernel: allocations of the process, reads and writes of
//! the tunnel's sockets, and how often the runtime went to sleep.

use std::{
    alloc::System,
    io,
    ops::Sub,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    runtime::Handle,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

static READS: AtomicU64 = AtomicU64::new(0);
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Counts so far, or between two looks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Counts {
    /// Allocations and reallocations of the whole process; the applications' threads make none.
    pub allocations: f64,
    /// Reads of the tunnel's two sockets that gave something.
    pub reads: f64,
    /// Writes to the tunnel's two sockets.
    pub writes: f64,
    /// How often the thread of the pair waited for the kernel.
    pub waits: f64,
}

impl Counts {
    /// So far.
    pub fn now(runtime: &Handle) -> Self {
        let stats = ALLOCATOR.stats();
        Self {
            allocations: (stats.allocations + stats.reallocations) as f64,
            reads: READS.load(Ordering::SeqCst) as f64,
            writes: WRITES.load(Ordering::SeqCst) as f64,
            waits: runtime.metrics().worker_park_count(0) as f64,
        }
    }

    /// For each of `count`.
    pub fn each(self, count: usize) -> Self {
        let count = count as f64;
        Self {
            allocations: self.allocations / count,
            reads: self.reads / count,
            writes: self.writes / count,
            waits: self.waits / count,
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            allocations: self.allocations - before.allocations,
            reads: self.reads - before.reads,
            writes: self.writes - before.writes,
            waits: self.waits - before.waits,
        }
    }
}

/// What the process has allocated and not freed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    pub bytes: f64,
    /// In so many pieces.
    pub pieces: f64,
}

impl Held {
    /// Now.
    pub fn now() -> Self {
        let stats = ALLOCATOR.stats();
        Self {
            bytes: stats.bytes_allocated as f64 - stats.bytes_deallocated as f64,
            pieces: stats.allocations as f64 - stats.deallocations as f64,
        }
    }

    /// Bytes with what glibc adds to each piece: a head of 8 bytes, and what is missing to a multiple of 16.
    pub fn with_overhead(self) -> f64 {
        self.bytes + 16.0 * self.pieces
    }
}

impl Sub for Held {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { bytes: self.bytes - before.bytes, pieces: self.pieces - before.pieces }
    }
}

/// A socket of the tunnel.
#[derive(Debug)]
pub struct Counted(pub TcpStream);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.0).poll_read(cx, buf);
        READS.fetch_add(u64::from(read.is_ready()), Ordering::SeqCst);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        WRITES.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        WRITES.fetch_add(1, Ordering::SeqCst);
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
