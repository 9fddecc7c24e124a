//! Endpoints that do with their connections whatever a test says.

use ambit_hbone::{Incoming as Connect, ServerConfig, server};
use http::HeaderMap;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};

use super::{BILLING, Mesh, certificates, endpoint::HTTP, id, resources::Ep};

/// A connection, however it came.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub type Stream = Box<dyn Io>;

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Clear,
    Tunnel,
}

/// Has each connection to an endpoint served so until the test ends.
pub async fn start<F>(mesh: &Mesh, host: u8, way: Way, serve: impl Fn(Stream) -> F + Clone + Send + Sync + 'static) -> Ep
where
    F: Future<Output = ()> + Send + 'static,
{
    let address = mesh.socket(host, HTTP);
    match way {
        Way::Clear => {
            let listener = TcpListener::bind(address).await.expect("a port");
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(Box::new(stream)));
                }
            });
            Ep::Clear(address)
        }
        Way::Tunnel => {
            tunnelled(mesh, host, serve).await;
            Ep::Hbone(address, BILLING)
        }
    }
}

/// The same behind a node proxy.
async fn tunnelled<F>(mesh: &Mesh, host: u8, serve: impl Fn(Stream) -> F + Clone + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(mesh.socket(host, waypoint::HBONE_PORT)).await.expect("port 15008");
    let store = certificates(&mesh.authority);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let config = store.server_config(&id(BILLING)).await.expect("a configuration");
            let serve = serve.clone();
            tokio::spawn(async move {
                let patience = std::time::Duration::from_secs(5);
                let Ok((stream, _)) = ambit_tls::handshake::accept(stream, config, patience).await else { return };
                let handler = move |incoming: Connect| {
                    let serve = serve.clone();
                    Box::pin(async move { serve(Box::new(incoming.accept(HeaderMap::new()).expect("a tunnel"))).await })
                };
                let _ = server::serve(stream, &ServerConfig::default(), std::future::pending(), handler).await;
            });
        }
    });
}
