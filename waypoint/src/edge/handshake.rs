//! TLS with clients outside of the mesh: the server name that one asks for decides what it reaches, and which certificates it is shown.

use std::{io, sync::Arc, time::Duration};

use ambit_model::{Reason, Refusal};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor, server::TlsStream};

use crate::compiled::Edge;

/// Why there is no connection: `None` where the client has left without a word, as those do that only look whether the port is open.
pub type Failed = Option<Refusal>;

/// Makes the handshake, within `limit` as a whole, and says which filter chain the server name has led to.
pub async fn accept(edge: &Edge, stream: TcpStream, limit: Duration) -> Result<(Arc<str>, TlsStream<TcpStream>), Failed> {
    let deadline = Instant::now() + limit;
    let late = |_| Some(Refusal::new(Reason::TlsHandshakeTimeout, format!("the handshake took more than {limit:?}")));
    let first = LazyConfigAcceptor::new(Acceptor::default(), stream);
    let start = timeout_at(deadline, first).await.map_err(late)?.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => None,
        _ => failed(&error),
    })?;
    let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
    let Some(chain) = edge.select(name.as_deref()) else {
        let asked = name.map_or_else(|| "a client that asks for no server name".into(), |name| format!("the server name {name}"));
        return Err(Some(Refusal::new(Reason::ListenerNotFound, format!("no listener of the port is for {asked}"))));
    };
    let whole = start.into_stream(chain.tls.clone());
    let stream = timeout_at(deadline, whole).await.map_err(late)?.map_err(|error| failed(&error))?;
    Ok((chain.chain.name.clone(), stream))
}

fn failed(error: &io::Error) -> Failed {
    Some(Refusal::new(Reason::TlsHandshakeFailed, error.to_string()))
}
