//! Watching the wire between the nodes.

mod frame;
mod search;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ambit_runtime::netns::NetNs;
use ambit_runtime::sys::PacketRing;
use serde::Serialize;

use self::frame::Frame;
use self::search::Search;
use crate::Error;
use crate::net::plan::{CONTROL_PLANE, NodePlan};

/// Megabytes of packets that may wait for us: what is sent while the capture's thread gets no processor time.
const RING: usize = 64;
/// How long to wait for packets before looking around, milliseconds.
const PATIENCE: u16 = 10;
/// So many packets with a marker are told of.
const EXAMPLES: usize = 8;
/// How long [`Capture::report`] waits for packets that the kernel has queued.
const SETTLE: Duration = Duration::from_secs(2);

/// Packets and their bytes, link-layer header included. With segmentation offload a packet may be up to 64 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// How often one marker was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// The marker; bytes that are not UTF-8 are replaced.
    pub marker: String,
    /// Packets over IPv4 that had it, or its end.
    pub ipv4: u64,
    /// Packets over IPv6 that had it, or its end.
    pub ipv6: u64,
    /// Bytes that these packets carried.
    pub bytes: u64,
    /// The first few of these packets, `source > destination: how it begins`.
    pub examples: Vec<String>,
}

/// What crossed the wire since the capture started. Each packet is counted once, where it leaves its node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// All between worker nodes (to and from the control plane's node is not in here).
    pub total: Count,
    /// The part of `total` over IPv4.
    pub ipv4: Count,
    /// The part of `total` over IPv6.
    pub ipv6: Count,
    /// IP packets to or from the node of the control plane.
    pub control_plane: Count,
    /// For each marker asked for, in order; searched in everything, the control plane's packets included.
    pub markers: Vec<Seen>,
    /// Packets that the kernel could not queue for us, so they were neither counted nor searched. A claim that a marker was never
    /// seen holds only when this is 0.
    pub dropped: u64,
}

impl Report {
    /// Whether any marker was seen.
    pub fn marker_seen(&self) -> bool {
        self.markers.iter().any(|seen| seen.ipv4 + seen.ipv6 > 0)
    }
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Number of the latest request to be told when the queue is empty.
    asked: AtomicU64,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    report: Report,
    answered: u64,
}

impl Capture {
    /// Watches all devices of a namespace but `bridge`, the index of a bridge, which sees again what its ports saw.
    pub(crate) fn start(wire: &NetNs, bridge: u32, markers: Vec<Vec<u8>>) -> Result<Self, Error> {
        let ring = wire.run(|| PacketRing::open(RING, true)).and_then(|opened| opened);
        let ring = ring.map_err(Error::unavailable("watch the wire", "a kernel with packet sockets (CONFIG_PACKET)"))?;
        let seen = |marker: &Vec<u8>| Seen { marker: String::from_utf8_lossy(marker).into_owned(), ..Seen::default() };
        let report = Report { markers: markers.iter().map(seen).collect(), ..Report::default() };
        let shared = Arc::new(Shared { state: Mutex::new(State { report, answered: 0 }), ..Shared::default() });
        let (theirs, search) = (shared.clone(), Search::new(&markers));
        let thread = std::thread::Builder::new()
            .name("wire-capture".into())
            .spawn(move || theirs.watch(ring, search, bridge))
            .map_err(Error::io("start the capture thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What was seen up to now, everything included that was sent before this call. Blocks for up to some 10 ms (2 s at most, under
    /// heavy load).
    pub fn report(&self) -> Report {
        std::thread::sleep(PacketRing::DELAY);
        let number = self.shared.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.settled.wait_timeout_while(state, SETTLE, |state| state.answered < number);
        waited.unwrap_or_else(PoisonError::into_inner).0.report.clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // It reads shared state only; its panic would have been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn watch(&self, mut ring: PacketRing, mut search: Search, bridge: u32) {
        while !self.stop.load(Ordering::Acquire) {
            let asked = self.asked.load(Ordering::Acquire);
            while !self.stop.load(Ordering::Acquire) {
                let taken = ring.take(|packet| {
                    // Each packet comes in at the port of its node and goes out at another.
                    if !packet.outgoing
                        && packet.device != bridge
                        && let Some(frame) = Frame::parse(packet.bytes)
                    {
                        self.record(&frame, packet.length, &mut search);
                    }
                });
                if !taken {
                    break;
                }
            }
            match ring.dropped().and_then(|dropped| ring.wait(PATIENCE).map(|()| dropped)) {
                Ok(dropped) => self.answer(asked, dropped),
                Err(error) => {
                    tracing::error!(%error, "the capture of the wire ended");
                    return;
                }
            }
        }
    }

    fn record(&self, frame: &Frame<'_>, length: usize, search: &mut Search) {
        let found = search.find(frame);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let report = &mut state.report;
        if is_control_plane(frame.source) || is_control_plane(frame.destination) {
            report.control_plane.add(length);
        } else {
            report.total.add(length);
            if frame.source.is_ipv4() { &mut report.ipv4 } else { &mut report.ipv6 }.add(length);
        }
        for marker in found {
            if let Some(seen) = report.markers.get_mut(marker) {
                *if frame.source.is_ipv4() { &mut seen.ipv4 } else { &mut seen.ipv6 } += 1;
                seen.bytes += frame.payload.len() as u64;
                if seen.examples.len() < EXAMPLES {
                    seen.examples.push(frame.told());
                }
            }
        }
    }

    fn answer(&self, asked: u64, dropped: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.report.dropped = dropped;
        state.answered = state.answered.max(asked);
        drop(state);
        self.settled.notify_all();
    }
}

fn is_control_plane(ip: IpAddr) -> bool {
    let plan = NodePlan::new(CONTROL_PLANE);
    plan.node().contains(&ip)
        || ipnet::IpNet::from(plan.pods_v4()).contains(&ip)
        || ipnet::IpNet::from(plan.pods_v6()).contains(&ip)
}
