//! What the first bytes of a connection are, with no more of them read than it takes to tell.

use std::{future::poll_fn, io, time::Duration};

use ambit_hbone::{TunnelStream, copy::Side};
use ambit_tls::hello::{Hello, client_hello};
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{Downstream, Rewound};
use crate::compiled::{AppProtocol, FirstBytes};

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest request line looked at.
const LONGEST: usize = 8 * 1024;
/// The longest method there is, by far.
const LONGEST_METHOD: usize = 32;

/// What the first bytes are looked at for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// HTTP of any version.
    Protocol,
    /// The name of the server in a ClientHello.
    ServerName,
}

/// A connection with what was read of it.
#[derive(Debug)]
pub struct Detected {
    /// What was found; nothing before it was looked at.
    pub seen: FirstBytes,
    prefix: Bytes,
    stream: Downstream,
}

impl Detected {
    /// A connection that was not looked at yet.
    pub fn later(stream: impl Into<Downstream>) -> Self {
        Self { seen: FirstBytes::default(), prefix: Bytes::new(), stream: stream.into() }
    }

    /// The connection with its first bytes put back.
    pub fn into_stream(self) -> Rewound {
        Rewound::new(self.prefix, self.stream)
    }

    /// Tells HTTP/1 from HTTP/2 on a connection that can be nothing else. `None` when it ends before its first byte.
    ///
    /// # Errors
    /// When the connection fails, or takes longer than `idle` to its first byte, or than `limit` from there to where it can be told.
    pub async fn version(mut self, idle: Duration, limit: Duration) -> io::Result<Option<Self>> {
        if self.seen.protocol.is_some() {
            return Ok(Some(self));
        }
        let mut seen = BytesMut::from(self.prefix);
        let mut deadline: Option<Instant> = None;
        while PREFACE.starts_with(&seen) && seen.len() < PREFACE.len() {
            let left = match deadline {
                None => idle,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if !tokio::time::timeout(left, read(&mut self.stream, &mut seen)).await?? {
                break;
            }
            deadline = deadline.or_else(|| Some(Instant::now() + limit));
        }
        if seen.is_empty() {
            return Ok(None);
        }
        let protocol = if seen.starts_with(PREFACE) { AppProtocol::Http2 } else { AppProtocol::Http1 };
        self.seen = protocol.into();
        self.prefix = seen.freeze();
        Ok(Some(self))
    }
}

/// Looks at the first bytes for at most `limit`. A client that stays silent, or that sends something else, is not HTTP and names no server.
///
/// # Errors
/// When the connection fails.
pub async fn within(stream: TunnelStream, look: Look, limit: Duration) -> io::Result<Detected> {
    let mut stream = Downstream::from(stream);
    let mut read = BytesMut::new();
    let looking = async {
        match look {
            Look::Protocol => {
                Ok::<_, io::Error>(FirstBytes { protocol: protocol(&mut stream, &mut read).await?, server_name: None })
            }
            Look::ServerName => Ok(FirstBytes { protocol: None, server_name: server_name(&mut stream, &mut read).await? }),
        }
    };
    let seen = match tokio::time::timeout(limit, looking).await {
        Ok(result) => result?,
        Err(_) => FirstBytes::default(),
    };
    Ok(Detected { seen, prefix: read.freeze(), stream })
}

async fn protocol(stream: &mut Downstream, seen: &mut BytesMut) -> io::Result<Option<AppProtocol>> {
    loop {
        match guess(seen) {
            Guess::Is(protocol) => return Ok(protocol),
            Guess::More if seen.len() < LONGEST && read(stream, seen).await? => {}
            Guess::More => return Ok(None),
        }
    }
}

async fn server_name(stream: &mut Downstream, seen: &mut BytesMut) -> io::Result<Option<String>> {
    loop {
        match client_hello(seen) {
            Hello::Of(name) => return Ok(name),
            Hello::Other => return Ok(None),
            // What is there is not read again before it can say more.
            Hello::More(wanted) => {
                while seen.len() < wanted {
                    if !read(stream, seen).await? {
                        return Ok(None);
                    }
                }
            }
        }
    }
}

/// Reads some more; false at the end.
async fn read(stream: &mut Downstream, into: &mut BytesMut) -> io::Result<bool> {
    match poll_fn(|cx| stream.poll_chunk(cx)).await? {
        Some(chunk) => {
            stream.consumed(chunk.len());
            into.extend_from_slice(&chunk);
            Ok(true)
        }
        None => Ok(false),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Guess {
    Is(Option<AppProtocol>),
    More,
}

fn guess(seen: &[u8]) -> Guess {
    if seen.starts_with(PREFACE) {
        return Guess::Is(Some(AppProtocol::Http2));
    }
    if PREFACE.starts_with(seen) {
        return Guess::More;
    }
    // A method is a token (RFC 9110, section 9.1); those in use are capital letters and hyphens.
    let method = seen.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    if method > LONGEST_METHOD || seen.get(method).is_some_and(|b| *b != b' ') || (method == 0 && !seen.is_empty()) {
        return Guess::Is(None);
    }
    match seen.iter().position(|b| *b == b'\n') {
        None => Guess::More,
        Some(end) => {
            let line = seen.get(..end).unwrap_or_default();
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let http = line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0");
            Guess::Is(http.then_some(AppProtocol::Http1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_told_apart_as_soon_as_they_can_be() {
        let http1 = Guess::Is(Some(AppProtocol::Http1));
        for (bytes, expected) in [
            (&b""[..], Guess::More),
            (b"PRI * HTTP", Guess::More),
            (PREFACE, Guess::Is(Some(AppProtocol::Http2))),
            (b"GE", Guess::More),
            (b"GET / HTTP/1.1\r\n", Guess::Is(Some(AppProtocol::Http1))),
            (b"POST /x HTTP/1.0\nfoo", http1),
            (b"VERSION-CONTROL /x HTT", Guess::More),
            (b"PRINT / HTTP/1.1\r\n", Guess::Is(Some(AppProtocol::Http1))),
            (b"GET / HTTP/3\r\n", Guess::Is(None)),
            (b"\x16\x03\x01", Guess::Is(None)),
            (b"get / HTTP/1.1\r\n", Guess::Is(None)),
            (b"SSH-2.0-OpenSSH\r\n", Guess::Is(None)),
            (b"\x00\x00\x00\x01", Guess::Is(None)),
        ] {
            assert_eq!(guess(bytes), expected, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
