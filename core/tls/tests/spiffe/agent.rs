//! A server of the SPIFFE Workload API, written from its specification: X.509 alone, on a Unix socket.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ambit_identity::SpiffeId;
use ambit_tls::{CertificateRequest, authority::Authority};
use futures::{StreamExt, future::BoxFuture, stream::BoxStream};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{net::UnixListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
};
use tonic_prost::ProstCodec;

/// `X509SVIDRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SvidRequest {}

/// `X509SVIDResponse`, without what is optional.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<Issued>,
}

/// `X509SVID`: a chain, a PKCS #8 key and roots, all DER.
#[derive(Clone, PartialEq, prost::Message)]
struct Issued {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
}

/// The agent: what it gives out may be changed at any time, and everyone who listens is told.
pub struct Agent {
    pub socket: PathBuf,
    issued: BTreeMap<SpiffeId, Issued>,
    state: watch::Sender<SvidResponse>,
    /// Streams that were opened.
    pub streams: Arc<AtomicUsize>,
    /// Rises when all of them are to end.
    ends: watch::Sender<u64>,
    server: JoinHandle<()>,
}

impl Agent {
    /// Serves `issued` on `socket`.
    pub fn start(socket: &Path) -> Self {
        let (state, streams, ends) = (watch::Sender::new(SvidResponse::default()), Arc::default(), watch::Sender::new(0));
        let service = Service { state: state.clone(), streams: Arc::clone(&streams), ends: ends.clone() };
        let server = tokio::spawn(serve(socket.to_owned(), service));
        Self { socket: socket.to_owned(), issued: BTreeMap::new(), state, streams, ends, server }
    }

    /// Goes away and comes back with what it had.
    pub async fn restart(&mut self) {
        self.server.abort();
        let _aborted = (&mut self.server).await;
        std::fs::remove_file(&self.socket).unwrap();
        let service = Service { state: self.state.clone(), streams: Arc::clone(&self.streams), ends: self.ends.clone() };
        self.server = tokio::spawn(serve(self.socket.clone(), service));
        // Connections outlive the server that accepted them.
        self.ends.send_modify(|ends| *ends += 1);
    }

    /// Issues a certificate for `id`, which replaces the one before.
    pub fn issue(&mut self, authority: &Authority, id: &SpiffeId, lifetime: Duration) {
        let request = CertificateRequest::new(id).unwrap();
        let chain = authority.sign(request.pem(), id, Some(lifetime)).unwrap();
        let svid = request.complete_pem(&chain).unwrap();
        let key = PrivateKeyDer::from_pem_slice(svid.key.as_bytes()).unwrap().secret_der().to_vec();
        let issued = Issued { spiffe_id: id.to_string(), chain: der(&svid.chain), key, bundle: der(&svid.roots) };
        self.issued.insert(id.clone(), issued);
        self.tell();
    }

    /// Takes the entry of `id` away.
    pub fn withdraw(&mut self, id: &SpiffeId) {
        self.issued.remove(id);
        self.tell();
    }

    fn tell(&self) {
        self.state.send_replace(SvidResponse { svids: self.issued.values().cloned().collect() });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// All certificates of a PEM text, one after the other without anything between them.
fn der(pem: &str) -> Vec<u8> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).flat_map(|certificate| certificate.unwrap().to_vec()).collect()
}

async fn serve(socket: PathBuf, service: Service) {
    let listener = UnixListener::bind(socket).unwrap();
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .unwrap();
}

#[derive(Clone)]
struct Service {
    state: watch::Sender<SvidResponse>,
    streams: Arc<AtomicUsize>,
    ends: watch::Sender<u64>,
}

impl NamedService for Service {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
                return Ok(Status::unimplemented("X.509 alone").into_http());
            }
            Ok(Grpc::new(ProstCodec::default()).server_streaming(this, request).await)
        })
    }
}

impl ServerStreamingService<SvidRequest> for Service {
    type Response = SvidResponse;
    type ResponseStream = BoxStream<'static, Result<SvidResponse, Status>>;
    type Future = BoxFuture<'static, Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<SvidRequest>) -> Self::Future {
        // The header keeps what can be made to send requests for somebody else from doing it here (SPIFFE Workload Endpoint, section 6).
        let security = request.metadata().get("workload.spiffe.io").is_some_and(|value| value == "true");
        let first = self.state.borrow().clone();
        self.streams.fetch_add(1, Ordering::SeqCst);
        let mut ends = self.ends.subscribe();
        let ended = async move {
            let _either_way = ends.changed().await;
        };
        let updates = WatchStream::new(self.state.subscribe()).map(Ok).take_until(Box::pin(ended));
        Box::pin(async move {
            if !security {
                return Err(Status::invalid_argument("security header missing from request"));
            }
            if first.svids.is_empty() {
                return Err(Status::permission_denied("no identity issued"));
            }
            Ok(Response::new(updates.boxed()))
        })
    }
}
