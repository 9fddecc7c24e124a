//! TLS with clients outside of the mesh: the server name that one asks for decides what it reaches, whether TLS ends here, and which certificates
//! it is then shown.

use std::{io, sync::Arc, time::Duration};

use ambit_model::{Reason, Refusal};
use ambit_tls::hello::{Hello, client_hello};
use bytes::BytesMut;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{
    LazyConfigAcceptor, StartHandshake,
    rustls::server::{Accepted, Acceptor},
    server::TlsStream,
};

use super::begun::Begun;
use crate::compiled::{Chain, Edge, SecureChain};

/// Why there is no connection: `None` where the client has left without a word, as those do that only look whether the port is open.
pub type Failed = Option<Refusal>;

/// What has become of a client's connection, and the filter chain that its server name has led to.
#[derive(Debug)]
pub enum Made {
    /// TLS ends here.
    Ended(Arc<Chain>, Box<TlsStream<TcpStream>>),
    /// Whom it is passed on to speaks TLS with the client.
    PassedOn(Arc<Chain>, Begun),
}

/// Reads how a client begins, and makes the handshake where TLS ends here, within `limit` as a whole.
pub async fn accept(edge: &Edge, stream: TcpStream, limit: Duration) -> Result<Made, Failed> {
    let deadline = Instant::now() + limit;
    let late = |_| Some(Refusal::new(Reason::TlsHandshakeTimeout, format!("the handshake took more than {limit:?}")));
    let (chain, start) = match edge.passes_on() {
        false => {
            let first = LazyConfigAcceptor::new(Acceptor::default(), stream);
            let start = timeout_at(deadline, first).await.map_err(late)?.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => None,
                _ => failed(&error),
            })?;
            let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
            (select(edge, name)?, start)
        }
        // What is read of a connection that is passed on must be kept, so here it is not rustls that reads.
        true => {
            let mut stream = stream;
            let (name, read) = timeout_at(deadline, hello(&mut stream)).await.map_err(late)??;
            let chain = select(edge, name)?;
            if chain.tls.is_none() {
                return Ok(Made::PassedOn(chain.chain.clone(), Begun::new(read.freeze(), stream)));
            }
            (chain, StartHandshake::from_parts(accepted(&read)?, stream))
        }
    };
    let Some(tls) = chain.tls.clone() else {
        return Err(Some(Refusal::new(Reason::ListenerNotFound, "the port passes no TLS on any more")));
    };
    let stream = timeout_at(deadline, start.into_stream(tls)).await.map_err(late)?.map_err(|error| failed(&error))?;
    Ok(Made::Ended(chain.chain.clone(), Box::new(stream)))
}

fn select(edge: &Edge, name: Option<String>) -> Result<&SecureChain, Failed> {
    edge.select(name.as_deref()).ok_or_else(|| {
        let asked = name.map_or_else(|| "a client that asks for no server name".into(), |name| format!("the server name {name}"));
        Some(Refusal::new(Reason::ListenerNotFound, format!("no listener of the port is for {asked}")))
    })
}

/// The server name that a client begins with, and all that was read to tell.
async fn hello(stream: &mut TcpStream) -> Result<(Option<String>, BytesMut), Failed> {
    let mut read = BytesMut::new();
    loop {
        let wanted = match client_hello(&read) {
            Hello::Of(name) => return Ok((name, read)),
            Hello::Other => return Err(not_begun()),
            Hello::More(wanted) => wanted,
        };
        // What is there is not looked at again before it can say more, however little comes at a time.
        while read.len() < wanted {
            // No more than that, so that nothing is read that rustls would not take.
            let missing = u64::try_from(wanted.saturating_sub(read.len())).unwrap_or(u64::MAX);
            let count = (&mut *stream).take(missing).read_buf(&mut read).await.map_err(|error| failed(&error))?;
            if count == 0 {
                return Err(None);
            }
        }
    }
}

/// The beginning of a handshake that was read already.
fn accepted(mut read: &[u8]) -> Result<Accepted, Failed> {
    let mut acceptor = Acceptor::default();
    while !read.is_empty() {
        acceptor.read_tls(&mut read).map_err(|error| failed(&error))?;
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err((error, _)) => return Err(Some(Refusal::new(Reason::TlsHandshakeFailed, error.to_string()))),
        }
    }
    Err(not_begun())
}

fn not_begun() -> Failed {
    Some(Refusal::new(Reason::TlsHandshakeFailed, "the client begins with no ClientHello"))
}

fn failed(error: &io::Error) -> Failed {
    Some(Refusal::new(Reason::TlsHandshakeFailed, error.to_string()))
}
