//! What this program is when it is started again: a part of the mesh, or a pod of the fixture.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ambit_hbone::{Incoming, ServerConfig, copy, server};
use ambit_identity::SpiffeId;
use ambit_tls::authority::{Authority, LocalSource};
use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming as Body;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The first argument that makes this program a pod: `pod <name> <identity> <authority directory> <identities>`,
/// the last of who may open tunnels to it, with commas between.
pub const POD: &str = "fixture-pod";
const PARTS: [&str; 3] = ["istiod", "waypoint", "envoy"];

/// Runs what this process is for, if not the tests.
pub fn run() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let first = arguments.get(1)?.as_str();
    let result = if PARTS.contains(&first) {
        ambit::cli::run().map(drop).map_err(anyhow::Error::from)
    } else if first == POD {
        let runtime = tokio::runtime::Runtime::new().ok()?;
        runtime.block_on(pod(&arguments))
    } else {
        return None;
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

/// A pod whose node proxy is this process: HBONE on 15008 for those who are named alone, HTTP on 8080, and on 5432 a server that
/// speaks first.
async fn pod(arguments: &[String]) -> anyhow::Result<()> {
    let [_, _, name, identity, directory, known] = arguments else { anyhow::bail!("wrong arguments: {arguments:?}") };
    let identity: SpiffeId = identity.parse()?;
    let known: Arc<[SpiffeId]> = known.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let authority = Authority::load_or_create(&PathBuf::from(directory), identity.trust_domain())?;
    let svid = LocalSource::new(Arc::new(authority), Duration::from_secs(3600)).svid(&identity)?;
    let tls = ambit_tls::server_config(&svid, &[])?;
    let any = |port: u16| SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], port));
    let (hbone, http, banner) =
        (TcpListener::bind(any(15008)).await?, TcpListener::bind(any(8080)).await?, TcpListener::bind(any(5432)).await?);
    let name: Arc<str> = name.as_str().into();
    tokio::spawn(serve_http(http, name));
    tokio::spawn(serve_banner(banner));
    loop {
        let (stream, _) = hbone.accept().await?;
        let (tls, known) = (Arc::clone(&tls), Arc::clone(&known));
        tokio::spawn(async move {
            let (stream, peer) = ambit_tls::handshake::accept(stream, tls, Duration::from_secs(5)).await?;
            let known = known.contains(&peer);
            server::serve(stream, &ServerConfig::default(), std::future::pending(), move |incoming| tunnel(incoming, known))
                .await?;
            anyhow::Ok(())
        });
    }
}

/// The end of a tunnel: only those who are named may come this way.
async fn tunnel(incoming: Incoming, known: bool) {
    let port = incoming.authority().ok().map(ambit_hbone::Authority::port);
    let Some(port) = port.filter(|_| known) else {
        let _gone = incoming.refuse(StatusCode::UNAUTHORIZED, HeaderMap::new());
        return;
    };
    match TcpStream::connect(("127.0.0.1", port)).await {
        Ok(upstream) => {
            if let Ok(tunnel) = incoming.accept(HeaderMap::new()) {
                copy::pump(tunnel, upstream, &copy::Counters::default()).await;
            }
        }
        Err(_) => _ = incoming.refuse(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new()),
    }
}

async fn serve_http(listener: TcpListener, name: Arc<str>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let name = Arc::clone(&name);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&name)));
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ended = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

/// Says what was asked: `{"pod", "version", "path", "authority", "headers", "length"}`. `/slow` takes two seconds, `/upgrade` echoes bytes.
async fn answer(mut request: Request<Body>, name: Arc<str>) -> anyhow::Result<Response<Full<Bytes>>> {
    if request.headers().get(http::header::UPGRADE).is_some() {
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded.await?));
            tokio::io::copy(&mut read, &mut write).await?;
            anyhow::Ok(())
        });
        let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        return Ok(response.header("connection", "upgrade").header("upgrade", "websocket").body(Full::default())?);
    }
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let length = request.body_mut().collect().await?.to_bytes().len();
    let headers: std::collections::BTreeMap<&str, Vec<&str>> = request
        .headers()
        .keys()
        .map(|name| (name.as_str(), request.headers().get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()))
        .collect();
    let path = request.uri().path_and_query().map(ToString::to_string);
    let host = request.uri().authority().map(ToString::to_string);
    let body = serde_json::json!({
        "pod": &*name, "version": format!("{:?}", request.version()), "path": path, "authority": host, "headers": headers, "length": length,
    });
    let body = Full::new(Bytes::from(serde_json::to_vec(&body).context("encoding the answer")?));
    Ok(Response::builder().header("x-pod", &*name).header("x-remove-me", "1").header("server", "fixture").body(body)?)
}

async fn serve_banner(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            stream.write_all(b"220 ready\r\n").await?;
            let mut buffer = [0; 4096];
            loop {
                let count = stream.read(&mut buffer).await?;
                if count == 0 {
                    return stream.shutdown().await;
                }
                stream.write_all(&buffer[..count]).await?;
            }
        });
    }
}
