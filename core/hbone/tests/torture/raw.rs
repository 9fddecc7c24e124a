//! An HTTP/2 client made of bytes, for what no implementation sends.

use std::{collections::HashMap, io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

/// Frame types of RFC 9113, section 6.
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection whose windows are counted, and nothing else is done by itself but acknowledging settings and pings.
pub struct Raw {
    tcp: TcpStream,
    /// Credit by stream, with 0 for the connection.
    windows: HashMap<u32, i64>,
    initial: i64,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a CONNECT, all literals without index (RFC 7541, section 6.2.2), with one header `name: 1` if any.
pub fn connect_block(name: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [(":method", "CONNECT"), (":authority", "10.0.0.1:80")].into_iter().chain(name.map(|name| (name, "1"))) {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.bytes());
        }
    }
    block
}

impl Raw {
    /// Sends the preface and settings without content.
    pub async fn start(tcp: TcpStream) -> Self {
        let mut this = Self { tcp, windows: HashMap::from([(0, 65_535)]), initial: 65_535 };
        this.write(PREFACE).await.unwrap();
        this.write(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        this
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tcp.write_all(bytes).await
    }

    /// Opens a tunnel with the header `name`, and waits for its 200.
    pub async fn open(&mut self, stream: u32, name: Option<&str>) {
        self.write(&frame(HEADERS, END_HEADERS, stream, &connect_block(name))).await.unwrap();
        let answer = self.until(|frame| frame.stream == stream && frame.kind != WINDOW_UPDATE).await;
        assert_eq!(answer.kind, HEADERS, "{answer:?}");
        assert_eq!(answer.payload.first(), Some(&0x88), "not a 200: {answer:?}");
    }

    /// The next frame; counts the windows, and acknowledges what asks for it.
    pub async fn next(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.tcp.read_exact(&mut head)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        timeout(PATIENCE, self.tcp.read_exact(&mut payload)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let frame = Frame { kind, stream: u32::from_be_bytes(stream), payload };
        match (kind, flags) {
            (SETTINGS, 0) => {
                self.settings(&frame.payload);
                self.write(&self::frame(SETTINGS, ACK, 0, &[])).await?;
            }
            (PING, 0) => self.write(&self::frame(PING, ACK, 0, &frame.payload)).await?,
            (WINDOW_UPDATE, _) => {
                let increment = u32::from_be_bytes(frame.payload[..].try_into().unwrap());
                *self.window(frame.stream) += i64::from(increment);
                assert!(*self.window(frame.stream) < 1 << 31, "a window beyond what is allowed");
            }
            _ => {}
        }
        Ok(frame)
    }

    /// Reads until a frame is `wanted`.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection ended before the frame that was waited for");
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Sends DATA as soon as both windows allow it; `payload` is with its padding. Says whether the stream still stood.
    pub async fn data(&mut self, stream: u32, flags: u8, payload: &[u8]) -> bool {
        let length = i64::try_from(payload.len()).unwrap();
        while *self.window(0) < length || *self.window(stream) < length {
            let frame = self.next().await.expect("no leave to send more");
            if frame.stream == stream && frame.kind == RESET {
                return false;
            }
        }
        *self.window(0) -= length;
        *self.window(stream) -= length;
        self.write(&frame(DATA, flags, stream, payload)).await.unwrap();
        true
    }

    /// As if `length` bytes were sent, which the caller then does; what comes meanwhile is taken, and given credit.
    pub async fn flow(&mut self, stream: u32, length: u32) {
        let needed = i64::from(length);
        while *self.window(0) < needed + 1000 || *self.window(stream) < needed {
            let frame = self.next().await.expect("no leave to send more");
            if frame.kind == DATA && !frame.payload.is_empty() {
                let credit = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
                let credits = [self::frame(WINDOW_UPDATE, 0, 0, &credit), self::frame(WINDOW_UPDATE, 0, stream, &credit)];
                self.write(&credits.concat()).await.unwrap();
            }
        }
        *self.window(0) -= needed + 1;
        *self.window(stream) -= needed;
    }

    /// What may still be sent in `stream`, or in the connection (0).
    pub fn window(&mut self, stream: u32) -> &mut i64 {
        let initial = self.initial;
        self.windows.entry(stream).or_insert(initial)
    }

    /// How the peer ended the connection: the code of its GOAWAY, if it said one.
    pub async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        loop {
            match self.next().await {
                Ok(Frame { kind: GOAWAY, payload, .. }) => code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
                Ok(_) => {}
                Err(error) => {
                    assert_ne!(error.kind(), io::ErrorKind::TimedOut, "the connection was not ended");
                    return code;
                }
            }
        }
    }

    /// Ends the connection in order, whatever it is in the middle of.
    pub async fn close(mut self) {
        self.tcp.shutdown().await.unwrap();
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks(6) {
            if setting[..2] == [0, 4] {
                let initial = i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap()));
                for (_, window) in self.windows.iter_mut().filter(|(stream, _)| **stream != 0) {
                    *window += initial - self.initial;
                }
                self.initial = initial;
            }
        }
    }
}
