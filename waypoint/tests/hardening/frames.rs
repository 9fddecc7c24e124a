//! Frames of HTTP/2 (RFC 9113, section 4.1) and headers (RFC 7541, section 6.2.2) as no library would write them.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
/// An error code of RST_STREAM.
pub const CANCEL: u32 = 8;

pub fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// A list of headers, none of which is put into the table.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            // A length in seven bits; nothing here is longer.
            assert!(text.len() < 127, "{text}");
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// What every request has.
pub fn request<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":authority", "billing.shop"), (":path", path)]
}

/// Begins a connection.
pub async fn begin(stream: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await
}

/// A frame that came.
#[derive(Debug)]
pub struct Came {
    pub kind: u8,
    pub id: u32,
    pub payload: Vec<u8>,
}

/// The next frame; `None` when the connection is over.
pub async fn next(stream: &mut (impl AsyncRead + Unpin)) -> Option<Came> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let [a, b, c, kind, _flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some(Came { kind, id: u32::from_be_bytes(id), payload })
}
