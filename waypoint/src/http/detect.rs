//! What the first bytes of a connection are, with no more of them read than it takes to tell.

use std::{future::poll_fn, io, time::Duration};

use ambit_hbone::TunnelStream;
use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::Rewound;
use crate::compiled::AppProtocol;

/// How HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest request line looked at.
const LONGEST: usize = 8 * 1024;
/// The longest method there is, by far.
const LONGEST_METHOD: usize = 32;

/// A connection with what was read of it.
#[derive(Debug)]
pub struct Detected {
    /// What it is; `None` before it was looked at, or when it is not HTTP.
    pub protocol: Option<AppProtocol>,
    prefix: Bytes,
    stream: TunnelStream,
}

impl Detected {
    /// A connection that was not looked at yet.
    pub fn later(stream: TunnelStream) -> Self {
        Self { protocol: None, prefix: Bytes::new(), stream }
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
        if self.protocol.is_some() {
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
        self.protocol = Some(if seen.starts_with(PREFACE) { AppProtocol::Http2 } else { AppProtocol::Http1 });
        self.prefix = seen.freeze();
        Ok(Some(self))
    }
}

/// Looks at the first bytes for at most `limit`. A client that stays silent, or that sends something else, is not HTTP.
///
/// # Errors
/// When the connection fails.
pub async fn within(mut stream: TunnelStream, limit: Duration) -> io::Result<Detected> {
    let mut seen = BytesMut::new();
    let look = async {
        loop {
            match guess(&seen) {
                Guess::Is(protocol) => return Ok::<_, io::Error>(protocol),
                Guess::More if seen.len() < LONGEST && read(&mut stream, &mut seen).await? => {}
                Guess::More => return Ok(None),
            }
        }
    };
    let protocol = match tokio::time::timeout(limit, look).await {
        Ok(result) => result?,
        Err(_) => None,
    };
    Ok(Detected { protocol, prefix: seen.freeze(), stream })
}

/// Reads some more; false at the end.
async fn read(stream: &mut TunnelStream, into: &mut BytesMut) -> io::Result<bool> {
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
