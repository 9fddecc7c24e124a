//! A server of HTTP/2 that refuses, leaves and breaks off as a test says: frames written by hand (RFC 9113, section 4.1).

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
/// As much as may be sent before more is asked for, in bytes.
const WINDOW: u32 = 1 << 20;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// 200, without a body, when the request has come whole.
    Answer,
    /// RST_STREAM with REFUSED_STREAM, at its head.
    Refuse,
    /// The same when it has come whole.
    RefuseWhole,
    /// GOAWAY, which says that this request was not looked at; at its head.
    Leave,
    /// The same when it has come whole.
    LeaveWhole,
    /// GOAWAY, which says that this request was looked at, then RST_STREAM with INTERNAL_ERROR; when it has come whole.
    Break,
    /// RST_STREAM with INTERNAL_ERROR alone, when it has come whole.
    Reset,
    /// The connection ends, at its head.
    Cut,
}

/// What has come.
#[derive(Default)]
pub struct Came {
    requests: AtomicUsize,
    /// The bodies of those that were answered.
    pub bodies: Mutex<Vec<Vec<u8>>>,
}

impl Came {
    /// How many requests came, or began to.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Serves the acts in turn, whatever connection a request comes on; the last one again and again.
pub async fn start(address: SocketAddr, acts: &'static [Act]) -> Arc<Came> {
    let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
    let came = Arc::new(Came::default());
    let counted = came.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, acts, counted.clone()));
        }
    });
    came
}

async fn serve(mut stream: TcpStream, acts: &'static [Act], came: Arc<Came>) -> io::Result<()> {
    stream.read_exact(&mut [0; PREFACE]).await?;
    // SETTINGS_INITIAL_WINDOW_SIZE, and the same for the connection.
    let window = [&4_u16.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
    stream.write_all(&frame(SETTINGS, 0, 0, &window)).await?;
    stream.write_all(&frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes())).await?;
    let mut open = HashMap::new();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let id = u32::from_be_bytes(id);
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        stream.read_exact(&mut payload).await?;
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                let payload = if kind == PING { &payload[..] } else { &[] };
                stream.write_all(&frame(kind, ACK, 0, payload)).await?;
                continue;
            }
            HEADERS => {
                let turn = came.requests.fetch_add(1, Ordering::SeqCst);
                open.insert(id, (*acts.get(turn).or(acts.last()).expect("an act"), Vec::new()));
            }
            DATA => {
                // Of one that was refused there may still come some.
                if let Some((_, body)) = open.get_mut(&id) {
                    body.extend_from_slice(&payload);
                }
            }
            _ => continue,
        }
        let whole = flags & END_STREAM != 0;
        let Some((act, _)) = open.get(&id) else { continue };
        let reply = match act {
            Act::Cut => return Ok(()),
            Act::Refuse => refusal(id),
            Act::Leave => leaving(id - 1),
            _ if !whole => continue,
            // END_STREAM and END_HEADERS; `:status: 200` of the static table.
            Act::Answer => frame(HEADERS, 0x5, id, &[0x88]),
            Act::RefuseWhole => refusal(id),
            Act::LeaveWhole => leaving(id - 1),
            Act::Reset => frame(RST_STREAM, 0, id, &INTERNAL_ERROR.to_be_bytes()),
            Act::Break => [leaving(id), frame(RST_STREAM, 0, id, &INTERNAL_ERROR.to_be_bytes())].concat(),
        };
        if let Some((Act::Answer, body)) = open.remove(&id) {
            came.bodies.lock().expect("the bodies").push(body);
        }
        stream.write_all(&reply).await?;
    }
}

fn refusal(id: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes())
}

/// The last request that was looked at is that of `last`.
fn leaving(last: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat())
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}
