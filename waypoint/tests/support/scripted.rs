//! A server of HTTP/2 that refuses, leaves and breaks off as a test says: frames written by hand (RFC 9113, section 4.1).

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// 200, without a body.
    Answer,
    /// RST_STREAM with REFUSED_STREAM.
    Refuse,
    /// GOAWAY, which says that this request was not looked at.
    Leave,
    /// The connection ends.
    Cut,
}

/// Serves the acts in turn, whatever connection a request comes on; the last one again and again. Returns how many requests came.
pub async fn start(address: SocketAddr, acts: &'static [Act]) -> Arc<AtomicUsize> {
    let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
    let seen = Arc::new(AtomicUsize::new(0));
    let counted = seen.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, acts, counted.clone()));
        }
    });
    seen
}

async fn serve(mut stream: TcpStream, acts: &'static [Act], seen: Arc<AtomicUsize>) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE]).await?;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let id = u32::from_be_bytes(id);
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        let reply = match kind {
            SETTINGS if flags & ACK == 0 => frame(kind, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(kind, ACK, 0, &payload),
            HEADERS => {
                let turn = seen.fetch_add(1, Ordering::SeqCst);
                match acts.get(turn).or(acts.last()).expect("an act") {
                    // END_STREAM and END_HEADERS; `:status: 200` of the static table.
                    Act::Answer => frame(HEADERS, 0x5, id, &[0x88]),
                    Act::Refuse => frame(3, 0, id, &7_u32.to_be_bytes()),
                    Act::Leave => frame(7, 0, 0, &[(id - 1).to_be_bytes(), [0; 4]].concat()),
                    Act::Cut => return Ok(()),
                }
            }
            _ => continue,
        };
        stream.write_all(&reply).await?;
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}
