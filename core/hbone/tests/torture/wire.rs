//! What tunnels run over here: TCP of either family, with mutual TLS or without.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use ambit_hbone::{ConnectError, ConnectRequest, Incoming, Plain, Pool, PoolKey, ServeError, ServerConfig, TunnelStream, server};
use ambit_identity::SpiffeId;
use ambit_tls::{
    authority::{Authority, LocalSource},
    client_config, handshake, server_config,
};
use http::HeaderMap;
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    pub v6: bool,
    pub tls: bool,
}

pub const V4: Wire = Wire { v6: false, tls: false };
pub const V6: Wire = Wire { v6: true, tls: false };
pub const V4_TLS: Wire = Wire { v6: false, tls: true };
pub const V6_TLS: Wire = Wire { v6: true, tls: true };

/// A connection without TLS, as the crate takes it.
pub fn plain(tcp: TcpStream) -> Plain<TcpStream> {
    Plain::new(tcp)
}

pub fn id(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

fn source() -> &'static LocalSource {
    static SOURCE: OnceLock<LocalSource> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let authority = Authority::create(&"cluster.local".parse().unwrap()).unwrap();
        LocalSource::new(Arc::new(authority), Duration::from_hours(1))
    })
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.v6 { "IPv6" } else { "IPv4" }, if self.tls { " with TLS" } else { "" })
    }
}

impl Wire {
    pub fn any_port(self) -> SocketAddr {
        let ip: IpAddr = if self.v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
        (ip, 0).into()
    }

    pub async fn listen(self) -> TcpListener {
        TcpListener::bind(self.any_port()).await.unwrap()
    }

    /// Two ends of one TCP connection.
    pub async fn tcp_pair(self) -> (TcpStream, TcpStream) {
        let listener = self.listen().await;
        let (near, far) = tokio::join!(tcp(listener.local_addr().unwrap()), listener.accept());
        let far = far.unwrap().0;
        far.set_nodelay(true).unwrap();
        (near.unwrap(), far)
    }

    /// Serves one accepted connection until it ends.
    pub async fn serve<D, H, F>(self, tcp: TcpStream, config: &ServerConfig, drain: D, handler: H) -> Result<u64, ServeError>
    where
        D: Future<Output = ()>,
        H: Fn(Incoming) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        if !self.tls {
            return server::serve(plain(tcp), config, drain, handler).await;
        }
        let tls = server_config(&source().svid(&id("api")).unwrap(), &[]).unwrap();
        match handshake::accept(tcp, tls, LIMIT).await {
            Ok((io, _peer)) => server::serve(io, config, drain, handler).await,
            Err(error) => Err(ServeError::Lost(Arc::new(error))),
        }
    }

    /// Opens a tunnel in a connection to `key`'s address. `dialing` is called for each dial.
    pub async fn open(
        self,
        pool: &Pool,
        key: &PoolKey,
        request: ConnectRequest,
        dialing: impl Fn() + Clone + Send,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError> {
        let address = key.address;
        if !self.tls {
            let dial = || async move {
                dialing();
                tcp(address).await.map(plain)
            };
            return pool.connect(key, dial, request).await;
        }
        let dial = || async move {
            dialing();
            let tls = client_config(&source().svid(&id("web")).unwrap(), &[id("api")]).unwrap();
            handshake::connect(tcp(address).await?, tls, LIMIT).await
        };
        pool.connect(key, dial, request).await
    }
}

pub async fn tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}
