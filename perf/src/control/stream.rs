//! One gRPC stream on a connection of its own, by hand: a thousand subscribers share the processors with the control plane that is measured,
//! and with a whole HTTP/2 client each they would take more of them than it does.
//!
//! It asks the peer for no more than what RFC 9113 has every peer do, and gives up on anything unexpected.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::{Buf, BufMut, Bytes};
use nix::{
    cmsg_space,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt::ReceiveTimestampns},
        time::TimeSpec,
    },
};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::TcpStream,
};

/// What a client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The one stream.
const STREAM: u32 = 1;
/// Of a frame, before its payload.
const FRAME_HEAD: usize = 9;
/// Of a gRPC message: whether it is compressed, and its length.
const MESSAGE_HEAD: usize = 5;
/// The largest payload that every peer takes.
const MAX_FRAME: usize = 16_384;
/// The largest window that there is: subscribers keep nothing of what they are sent.
const WINDOW: u32 = (1 << 31) - 1;
/// The window that both sides have at first.
const FIRST_WINDOW: i64 = 65_535;
/// Bytes that are read at once.
const READ: usize = 32 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// A stream of messages in both directions.
#[derive(Debug)]
pub struct GrpcStream {
    socket: TcpStream,
    buffer: Box<[u8]>,
    /// For what the kernel tells beside the bytes.
    beside: Vec<u8>,
    /// When the last bytes that were read had come.
    arrived: Option<Duration>,
    /// What was read and is no whole frame yet.
    read: Vec<u8>,
    /// Messages, of which the first may not be whole yet.
    messages: Vec<u8>,
    /// Frames to be written.
    write: Vec<u8>,
    /// Messages that wait for the peer to have room.
    waiting: Bytes,
    /// How many bytes the peer takes on the connection and on the stream, and on any stream at first.
    connection: i64,
    stream: i64,
    initial: i64,
}

impl GrpcStream {
    /// Connects and calls the method of this path.
    ///
    /// # Errors
    /// When there is no connection.
    pub async fn open(to: SocketAddr, path: &str) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(to).await.with_context(|| format!("connecting to {to}"))?;
        socket.set_nodelay(true)?;
        setsockopt(&socket, ReceiveTimestampns, &true).context("asking the kernel when bytes come")?;
        let mut write = PREFACE.to_vec();
        frame(&mut write, SETTINGS, 0, 0, &[&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat());
        frame(&mut write, WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW as u32).to_be_bytes());
        let authority = to.to_string();
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", &authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let block: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
        frame(&mut write, HEADERS, END_HEADERS, STREAM, &block);
        Ok(Self {
            socket,
            buffer: vec![0; READ].into(),
            beside: cmsg_space!(TimeSpec),
            arrived: None,
            read: Vec::new(),
            messages: Vec::new(),
            write,
            waiting: Bytes::new(),
            connection: FIRST_WINDOW,
            stream: FIRST_WINDOW,
            initial: FIRST_WINDOW,
        })
    }

    /// Sends messages, as far as the peer has room; the rest goes while answers are waited for.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, messages: impl Iterator<Item = &[u8]>) -> anyhow::Result<()> {
        let mut all = std::mem::take(&mut self.waiting).to_vec();
        for message in messages {
            all.put_u8(0);
            all.put_u32(u32::try_from(message.len()).context("a message of 4 GB")?);
            all.extend_from_slice(message);
        }
        self.waiting = all.into();
        self.flush().await
    }

    /// When the kernel had the end of the last message, whoever had the processors then: since the beginning of its wall clock.
    pub fn arrived(&self) -> Option<Duration> {
        self.arrived
    }

    /// The next message.
    ///
    /// # Errors
    /// When the peer ends the stream or the connection, or says what is not understood.
    pub async fn next(&mut self) -> anyhow::Result<Bytes> {
        loop {
            if let Some(message) = self.whole_message()? {
                return Ok(message);
            }
            let count = self.read().await.context("reading")?;
            ensure!(count > 0, "the connection was closed");
            self.read.extend_from_slice(self.buffer.get(..count).unwrap_or_default());
            self.take_frames()?;
            self.flush().await?;
        }
    }

    /// Reads what is there into the buffer, and when its last part came.
    async fn read(&mut self) -> io::Result<usize> {
        let Self { socket, buffer, beside, arrived, .. } = self;
        let receive = || {
            let mut slices = [IoSliceMut::new(buffer)];
            let received = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(beside.as_mut_slice()), MsgFlags::empty())?;
            *arrived = received.cmsgs()?.find_map(|told| match told {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            Ok(received.bytes)
        };
        socket.async_io(Interest::READABLE, receive).await
    }

    fn whole_message(&mut self) -> anyhow::Result<Option<Bytes>> {
        let Some(([compressed, length @ ..], rest)) = self.messages.split_first_chunk::<MESSAGE_HEAD>() else { return Ok(None) };
        ensure!(*compressed == 0, "a compressed message");
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            return Ok(None);
        }
        let rest = self.messages.split_off(MESSAGE_HEAD + length);
        Ok(Some(Bytes::from(std::mem::replace(&mut self.messages, rest)).slice(MESSAGE_HEAD..)))
    }

    fn take_frames(&mut self) -> anyhow::Result<()> {
        let mut left = Bytes::from(std::mem::take(&mut self.read));
        while let Some(head) = left.first_chunk::<FRAME_HEAD>().copied() {
            let [a, b, c, kind, flags, ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if left.len() < FRAME_HEAD + length {
                break;
            }
            left.advance(FRAME_HEAD);
            let payload = left.split_to(length);
            self.take_frame(kind, flags, head, &payload)?;
        }
        self.read = left.to_vec();
        Ok(())
    }

    fn take_frame(&mut self, kind: u8, flags: u8, head: [u8; FRAME_HEAD], mut payload: &[u8]) -> anyhow::Result<()> {
        match kind {
            // The server of the measured program pads nothing.
            DATA => self.messages.extend_from_slice(payload),
            SETTINGS if flags & ACK == 0 => {
                while payload.remaining() >= 6 {
                    let (name, value) = (payload.get_u16(), payload.get_u32());
                    if name == INITIAL_WINDOW_SIZE {
                        self.stream += i64::from(value) - self.initial;
                        self.initial = i64::from(value);
                    }
                }
                frame(&mut self.write, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(&mut self.write, PING, ACK, 0, payload),
            WINDOW_UPDATE => {
                ensure!(payload.len() == 4, "a window update of {} bytes", payload.len());
                let more = i64::from(payload.get_u32() & WINDOW);
                let [.., w, x, y, z] = head;
                match u32::from_be_bytes([w, x, y, z]) {
                    0 => self.connection += more,
                    _ => self.stream += more,
                }
            }
            GO_AWAY => bail!("the server goes away"),
            _ => {}
        }
        ensure!(!matches!(kind, DATA | HEADERS) || flags & END_STREAM == 0, "the server ended the stream");
        ensure!(kind != 3, "the server reset the stream");
        Ok(())
    }

    /// Writes what may be written.
    async fn flush(&mut self) -> anyhow::Result<()> {
        loop {
            let room = usize::try_from(self.connection.min(self.stream)).unwrap_or(0);
            let length = self.waiting.len().min(room).min(MAX_FRAME);
            if length == 0 {
                break;
            }
            let payload = self.waiting.split_to(length);
            frame(&mut self.write, DATA, 0, STREAM, &payload);
            self.connection -= length as i64;
            self.stream -= length as i64;
        }
        if !self.write.is_empty() {
            let write = std::mem::take(&mut self.write);
            self.socket.write_all(&write).await.context("writing")?;
        }
        Ok(())
    }
}

fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    to.put_uint(payload.len() as u64, 3);
    to.put_u8(kind);
    to.put_u8(flags);
    to.put_u32(stream);
    to.extend_from_slice(payload);
}

/// A header field that is not indexed, with name and value as they are (RFC 7541, section 6.2.2); both are shorter than 127 bytes.
fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}
