//! The socket at which the CNI plugin asks: HTTP, as Istio's plugin speaks it, so that either plugin can ask either agent.

use std::{convert::Infallible, path::Path, sync::Arc, time::Duration};

use ambit_zds::file::SocketFile;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::SocketType;
use tokio::{net::UnixListener, task::JoinSet};

use crate::{
    Error,
    node::{Event, Node},
};

/// The longest document of a pod, in bytes.
const MOST: usize = 64 << 10;
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

/// The socket at which the plugin asks; its file is removed when it is dropped, unless another agent listens there by then.
#[derive(Debug)]
pub struct Listener {
    /// First, so that it is dropped before the socket.
    _file: SocketFile,
    socket: UnixListener,
}

impl Listener {
    /// Listens at `path`, in place of whoever listened there before. Only the owner of the file may ask.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let (socket, file) = SocketFile::listen(SocketType::STREAM, path).map_err(Error::path("listen at", path))?;
        let socket = UnixListener::from_std(socket.into()).map_err(Error::path("listen at", path))?;
        Ok(Self { _file: file, socket })
    }
}

/// Answers the plugin for ever.
pub async fn serve(listener: Listener, node: Arc<Node>) {
    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, _)) => {
                    let node = Arc::clone(&node);
                    serving.spawn(async move {
                        let service = service_fn(|request| {
                            let node = Arc::clone(&node);
                            async move { Ok::<_, Infallible>(answer(&node, request).await) }
                        });
                        let mut http = http1::Builder::new();
                        http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                        if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                            tracing::debug!(%error, "the CNI plugin went away");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept the CNI plugin");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = serving.join_next() => {}
        }
    }
}

async fn answer(node: &Node, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    match (method, path.as_str()) {
        (Method::GET, "/status") => match node.agent().rules().backend().await {
            Ok(backend) => reply(StatusCode::OK, backend),
            Err(error) => reply(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        },
        (Method::POST, "/cmdadd" | "/cmddel" | "/cmdcheck") => {
            let event = match Limited::new(request.into_body(), MOST).collect().await {
                Ok(body) => serde_json::from_slice::<Event>(&body.to_bytes()).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            let event = match event {
                Ok(event) => event,
                Err(error) => return reply(StatusCode::BAD_REQUEST, error),
            };
            let done = match path.as_str() {
                "/cmdadd" => node.started(&event).await,
                "/cmdcheck" => node.checked(&event).await,
                _ => {
                    node.ended(&event).await;
                    Ok(())
                }
            };
            match done {
                Ok(()) => reply(StatusCode::OK, String::new()),
                Err(error) => {
                    let (namespace, pod) = (&event.pod_namespace, &event.pod_name);
                    tracing::warn!(namespace, pod, asked = path, %error, "a pod is refused");
                    reply(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                }
            }
        }
        _ => reply(StatusCode::NOT_FOUND, "not found".to_owned()),
    }
}

fn reply(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}
