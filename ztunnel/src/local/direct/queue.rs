//! A queue of packets that wait for a verdict (`linux/netfilter/nfnetlink_queue.h`). While nobody listens they are dropped.

use std::{io, net::IpAddr};

use ambit_runtime::netns::NetNs;
use rustix::net::netlink;

use super::{
    netlink::{ACK, ERROR, Listener, Message, REQUEST, Socket, attribute, attributes, messages},
    rules::OLD,
    segment::Segment,
};

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
/// How much of a packet is seen: the headers.
const SEEN: u32 = 96;
/// Packets that may wait; more are dropped, and a client sends its first packet again after a second.
const LENGTH: u32 = 4096;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on, with this mark.
    Accept(u32),
    Drop,
    /// As [`Verdict::Drop`], and the kernel shall forget the connection of its addresses and ports. It is sent again.
    Forget,
}

/// A packet that waits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    id: u32,
    hook: u8,
    mark: u32,
    /// What it is, when that could be read.
    pub(super) segment: Option<Segment>,
}

impl Asked {
    /// Whether the kernel takes it for a part of a connection that went directly.
    pub(super) fn is_of_old(self) -> bool {
        self.mark & OLD != 0
    }

    /// Whether the pod sends it, as opposed to receiving it.
    pub(super) fn is_sent(self) -> bool {
        // NF_INET_LOCAL_OUT.
        self.hook == 3
    }
}

/// The listener of one queue of a pod's namespace.
#[derive(Debug)]
pub(super) struct Queue {
    socket: Listener,
    number: u16,
}

impl Queue {
    pub(super) fn open(netns: &NetNs, number: u16) -> io::Result<Self> {
        let socket = Socket::open(netns, netlink::NETFILTER, 0)?;
        let config = || Message::new(CONFIG, REQUEST | ACK, &head(number));
        // NFQA_CFG_CMD: bind; NFQA_CFG_PARAMS: copy of the packet's beginning; NFQA_CFG_QUEUE_MAXLEN.
        let copy = [&SEEN.to_be_bytes()[..], &[2]].concat();
        for message in
            [config().attribute(1, &[1, 0, 0, 0]), config().attribute(2, &copy), config().attribute(3, &LENGTH.to_be_bytes())]
        {
            acknowledged(socket.ask(&message, &mut [0; 512])?)?;
        }
        Ok(Self { socket: socket.into_listener()?, number })
    }

    /// Waits for packets and gives each to `decide`, until there are none for now.
    pub(super) async fn turn(&self, mut decide: impl FnMut(Asked) -> Verdict) -> io::Result<()> {
        self.socket.ready().await?;
        let mut buffer = [0; 4096];
        loop {
            let bytes = match self.socket.receive(&mut buffer) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Packets were dropped for want of room.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => continue,
                Err(error) => return Err(error),
            };
            for asked in messages(bytes).filter(|(kind, _)| *kind == PACKET).filter_map(|(_, body)| read(body)) {
                self.answer(asked, decide(asked))?;
            }
        }
        Ok(())
    }

    fn answer(&self, asked: Asked, verdict: Verdict) -> io::Result<()> {
        let (code, mark) = match verdict {
            Verdict::Drop => (0_u32, 0),
            Verdict::Forget => {
                // Dropped all the same if that fails.
                if let Some(Err(error)) = asked.segment.map(|segment| self.socket.send(&forget(&segment))) {
                    tracing::debug!(%error, "a connection was not forgotten");
                }
                (0, 0)
            }
            Verdict::Accept(mark) => (1, mark),
        };
        let header = [code.to_be_bytes(), asked.id.to_be_bytes()].concat();
        let message = Message::new(VERDICT, REQUEST, &head(self.number)).attribute(2, &header);
        // NFQA_MARK.
        let message = if mark == 0 { message } else { message.attribute(3, &mark.to_be_bytes()) };
        self.socket.send(&message)
    }
}

/// `struct nfgenmsg`: any family, version 0, the queue.
fn head(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [0, 0, high, low]
}

/// The request to forget a connection (IPCTNL_MSG_CT_DELETE of `linux/netfilter/nfnetlink_conntrack.h`).
fn forget(segment: &Segment) -> Message {
    const NESTED: u16 = 0x8000;
    let (mut ips, mut ports, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
    // CTA_IP_V4_SRC and _DST, CTA_IP_V6_SRC and _DST.
    let first = if segment.from.is_ipv4() { 1 } else { 3 };
    for (kind, address) in [(first, segment.from), (first + 1, segment.to)] {
        match address.ip() {
            IpAddr::V4(ip) => attribute(&mut ips, kind, &ip.octets()),
            IpAddr::V6(ip) => attribute(&mut ips, kind, &ip.octets()),
        }
    }
    attribute(&mut ports, 1, &[6]);
    attribute(&mut ports, 2, &segment.from.port().to_be_bytes());
    attribute(&mut ports, 3, &segment.to.port().to_be_bytes());
    attribute(&mut tuple, 1 | NESTED, &ips);
    attribute(&mut tuple, 2 | NESTED, &ports);
    let family = if segment.from.is_ipv4() { 2 } else { 10 };
    Message::new(1 << 8 | 2, REQUEST, &[family, 0, 0, 0]).attribute(1 | NESTED, &tuple)
}

/// Reads the answer to a request that is only acknowledged.
pub(super) fn acknowledged(bytes: &[u8]) -> io::Result<()> {
    let error = messages(bytes).find(|(kind, _)| *kind == ERROR).and_then(|(_, body)| body.first_chunk().copied());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel did not acknowledge")),
    }
}

fn read(body: &[u8]) -> Option<Asked> {
    let mut asked = None;
    for (kind, value) in attributes(body.get(4..)?) {
        match kind {
            1 => {
                let id = u32::from_be_bytes(*value.first_chunk()?);
                asked = Some(Asked { id, hook: *value.get(6)?, mark: 0, segment: None });
            }
            3 => asked.as_mut()?.mark = u32::from_be_bytes(*value.first_chunk()?),
            10 => asked.as_mut()?.segment = Segment::read(value),
            _ => {}
        }
    }
    asked
}
