//! The gRPC programs: serving them, and calling them with every call counted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::dial::Dialer;
use super::downstream::wait;
use super::proto::notifications_client::NotificationsClient;
use super::proto::permissions_client::PermissionsClient;
use super::proto::{CheckRequest, CheckResponse, SendRequest, SendResponse};
use super::stats::{Edge, Registry};
use super::{MARKER, pool};
use crate::demo::config::DownstreamArg;
use crate::error::{Error, Result};

/// Age after which a connection is replaced for new calls.
const MAX_AGE: Duration = Duration::from_secs(3);

/// Patience for one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// An answer that carries the version of the program that gave it.
trait Versioned {
    fn version(&self) -> &str;
}

impl Versioned for CheckResponse {
    fn version(&self) -> &str {
        &self.version
    }
}

impl Versioned for SendResponse {
    fn version(&self) -> &str {
        &self.version
    }
}

/// A program called over gRPC.
#[derive(Clone)]
pub struct GrpcDownstream {
    dialer: Arc<Dialer>,
    authority: String,
    edge: Arc<Edge>,
    channel: Arc<Mutex<Option<(Channel, Instant)>>>,
}

impl GrpcDownstream {
    /// A caller of the program at `to`, counted in `registry`.
    pub fn new(to: &DownstreamArg, registry: &Registry) -> Self {
        let edge = registry.edge(&to.host, to.port, "grpc");
        let authority = format!("{}:{}", to.host, to.port);
        Self { dialer: Arc::new(Dialer::new(&to.host, to.port)), authority, edge, channel: Arc::default() }
    }

    /// Asks the permissions program whether `user` may do `action`.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn check(&self, user: &str, action: &str) -> Result<bool> {
        let request = CheckRequest { user: user.into(), action: action.into(), note: MARKER.into() };
        let call = async { PermissionsClient::new(self.channel().await?).check(request).await };
        Ok(self.counted(call).await?.allowed)
    }

    /// Asks the notifications program to tell `user` something; the identifier of the message.
    ///
    /// # Errors
    /// If the call fails.
    pub async fn send(&self, user: &str, text: String) -> Result<String> {
        let request = SendRequest { user: user.into(), text, note: MARKER.into() };
        let call = async { NotificationsClient::new(self.channel().await?).send(request).await };
        Ok(self.counted(call).await?.id)
    }

    /// Waits until the program has started; gives up after a while, for it may be refused for good.
    pub async fn wait_started(&self) {
        wait(|| async {
            let Ok(channel) = self.channel().await else { return false };
            let mut grpc = tonic::client::Grpc::new(channel);
            if grpc.ready().await.is_err() {
                return false;
            }
            let path = http::uri::PathAndQuery::from_static("/ambit.demo.v1.Ready/Check");
            let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
            let answer: std::result::Result<Response<CheckResponse>, Status> =
                grpc.unary(Request::new(CheckRequest::default()), path, codec).await;
            // A started server answers for itself that it has no such service; anything in between says otherwise.
            !answer.is_err_and(|status| status.code() != Code::Unimplemented)
        })
        .await;
    }

    async fn counted<T: Versioned>(&self, call: impl Future<Output = std::result::Result<Response<T>, Status>>) -> Result<T> {
        let start = Instant::now();
        let late = |_| Status::deadline_exceeded("no answer within 5 s");
        match tokio::time::timeout(CALL_TIMEOUT, call).await.map_err(late).flatten() {
            Ok(answer) => {
                let answer = answer.into_inner();
                self.edge.record(start.elapsed(), Ok(answer.version()));
                Ok(answer)
            }
            Err(status) => {
                let error = format!("{:?}: {}", status.code(), pool::describe(&status));
                self.edge.record(start.elapsed(), Err(error.clone()));
                *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
                Err(Error::Call(error))
            }
        }
    }

    async fn channel(&self) -> std::result::Result<Channel, Status> {
        {
            let kept = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((channel, _)) = kept.as_ref().filter(|(_, born)| born.elapsed() < MAX_AGE) {
                return Ok(channel.clone());
            }
        }
        let unavailable = |error: tonic::transport::Error| Status::unavailable(pool::describe(&error));
        let endpoint = Endpoint::from_shared(format!("http://{}", self.authority)).map_err(unavailable)?;
        let dialer = self.dialer.clone();
        let connector = tower::service_fn(move |_: http::Uri| {
            let dialer = dialer.clone();
            async move { dialer.dial().await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await.map_err(unavailable)?;
        let mut kept = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some((channel.clone(), Instant::now()));
        Ok(channel)
    }
}

/// Serves gRPC until SIGTERM or SIGINT.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve<S>(listen: SocketAddr, service: S) -> Result<()>
where
    S: tower::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let server = tonic::transport::Server::builder().add_service(service);
    let served = server.serve_with_shutdown(listen, super::http::shutdown()).await;
    served.map_err(|error| Error::Call(format!("serving gRPC on {listen}: {}", pool::describe(&error))))
}
