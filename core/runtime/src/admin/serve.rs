//! Accepting and serving admin connections.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::Server;
use crate::drain::Watch;

/// Connections served at once; more wait in the backlog.
const MAX_CONNECTIONS: usize = 64;
/// A client has this long to send its request head, also for the next request of a kept connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a failed accept (for example: out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Serves until the drain begins, then finishes the requests in flight and returns.
    pub async fn run(self, listener: TcpListener, drain: Watch) {
        let server = Arc::new(self);
        let connections = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let next = async {
                let permit = permits.clone().acquire_owned().await;
                (listener.accept().await, permit)
            };
            tokio::select! {
                () = drain.draining() => break,
                (accepted, permit) = next => match accepted {
                    Ok((stream, _)) => {
                        let (server, drain) = (server.clone(), drain.clone());
                        connections.spawn(async move {
                            server.serve(stream, drain).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin server cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, drain: Watch) {
        let service = service_fn(|request: http::Request<Incoming>| {
            let server = Arc::clone(&self);
            async move {
                let reply = server.answer(request.method(), request.uri().path(), request.uri().query()).await;
                Ok::<_, Infallible>(reply.into_response())
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = drain.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "an admin connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::{Query, Reply, decoded};
    use crate::drain::{self, Outcome};
    use crate::readiness::Readiness;

    async fn check(address: std::net::SocketAddr, request: &str, status: u16, body: &str) -> io::Result<()> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{request}: {answer}");
        Ok(())
    }

    #[test]
    fn levels_are_asked_for_as_envoys_users_do() {
        for (asked, levels) in [
            ("level=debug", "debug"),
            ("level=warning", "warn"),
            ("h2=critical&level=info", "info,h2=error"),
            ("waypoint::http=trace", "waypoint::http=trace"),
            ("paths=waypoint%3A%3Ahttp:debug,*:info", "info,waypoint::http:debug"),
            ("level=ztunnel=debug", "ztunnel=debug"),
            ("reset", ""),
        ] {
            assert_eq!(Query::parse(Some(asked)).levels(), levels, "{asked}");
        }
        assert_eq!(decoded("a%2Bb%7c"), Some("a+b|".to_owned()));
        assert_eq!((decoded("%2"), decoded("%zz"), decoded("%ff")), (None, None, None));
    }

    #[tokio::test]
    async fn it_serves_readiness_and_pages_until_it_is_drained() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let readiness = Readiness::new();
        let pending = readiness.task("xds");
        let (trigger, watch) = drain::channel();
        let server = Server::new()
            .with_readiness(readiness)
            .get("/page", |query| Reply::text(query.get("name").unwrap_or("nobody")))
            .post("/act", |_| Reply::text("done").status(StatusCode::ACCEPTED));
        let running = tokio::spawn(server.run(listener, watch));

        check(address, "GET /healthz/ready", 503, "waiting for xds\n").await?;
        pending.done();
        check(address, "GET /healthz/ready", 200, "ready\n").await?;
        check(address, "GET /page?x=1&name=ada", 200, "ada").await?;
        check(address, "POST /act", 202, "done").await?;
        check(address, "GET /act", 405, "method not allowed\n").await?;
        check(address, "GET /none", 404, "not found\n").await?;

        assert_eq!(trigger.drain(Duration::from_secs(5)).await, Outcome::Finished);
        running.await.map_err(io::Error::other)
    }
}
