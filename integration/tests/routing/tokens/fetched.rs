//! Keys that the control plane fetches from an issuer, who replaces them, and goes away.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ambit_integration::{
    client::{Client, get},
    suite::Suite,
    wait,
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::{EFFECT, ISSUER, Signer, with};
use crate::routing::{CLIENT, ECHO};

const PORT: u16 = 8099;
/// Below the path of a route without conditions.
const PATH: &str = "/first/open";

/// An issuer, where the control plane runs: the mesh has no part in how it is reached.
struct Issuer {
    address: SocketAddr,
    shown: Arc<Shown>,
    _serving: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Shown {
    /// Its keys; without any it answers that it is not available.
    keys: Mutex<Option<String>>,
    /// Requests for keys.
    asked: AtomicUsize,
}

impl Shown {
    fn answer(&self, path: &str, address: SocketAddr) -> Response<Full<Bytes>> {
        let document = json!({ "issuer": format!("http://{address}"), "jwks_uri": format!("http://{address}/keys") }).to_string();
        let body = match path {
            "/.well-known/openid-configuration" => Some(document),
            _ => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
            }
        };
        let status = if body.is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut response = Response::new(Full::from(body.unwrap_or_default()));
        *response.status_mut() = status;
        response
    }
}

impl Issuer {
    async fn start(suite: &Suite) -> anyhow::Result<Self> {
        let place = suite.mesh.bed().control_plane().await?;
        let address = SocketAddr::new(place.ip(), PORT);
        let (listener, shown) = (place.listen(address)?, Arc::<Shown>::default());
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, address, Arc::clone(&shown))));
        Ok(Self { address, shown, _serving: serving })
    }

    fn shows(&self, keys: Option<&Signer>) {
        *self.shown.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys.map(Signer::jwks);
    }

    fn asked(&self) -> usize {
        self.shown.asked.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, shown: Arc<Shown>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shown = Arc::clone(&shown);
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = shown.answer(request.uri().path(), address);
            async move { Ok::<_, Infallible>(answer) }
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// The same issuer by the address of its keys and, elsewhere in a request, by its discovery document.
fn policy(address: SocketAddr) -> String {
    format!(
        r#"apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: fetched, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: echo}}]
  jwtRules:
  - issuer: {ISSUER}
    jwksUri: "http://{address}/keys"
    fromHeaders: [{{name: x-set}}]
  - issuer: "http://{address}"
    fromHeaders: [{{name: x-found}}]
"#
    )
}

/// Waits until a request with this header is answered with this status.
async fn until(client: &Client, header: (&str, &str), status: u16) -> anyhow::Result<()> {
    let (name, value) = header;
    let ask = async || match client.send(get(PATH).header(name, value)).await {
        Ok(answer) if answer.status == status => Ok(()),
        answer => Err(format!("{answer:?}")),
    };
    wait::until(&format!("{status} for {name}"), EFFECT, ask).await.map(drop)
}

pub async fn tokens(suite: &Suite) -> anyhow::Result<()> {
    let (first, second, issuer) = (Signer::create()?, Signer::create()?, Issuer::start(suite).await?);
    let client = suite.client(CLIENT, ECHO, 80)?;
    let found = format!("http://{}", issuer.address);
    let by = |signer: &Signer| anyhow::Ok((signer.token(&with(json!({}))?)?, signer.token(&with(json!({ "iss": found }))?)?));
    let (by_first, by_second) = (by(&first)?, by(&second)?);
    let of = |(set, found): &(String, String)| [("x-set", set.clone()), ("x-found", found.clone())];
    let all = async |tokens: &(String, String), status| {
        for (name, token) in of(tokens) {
            until(&client, (name, token.as_str()), status).await?;
        }
        anyhow::Ok(())
    };
    suite.apply("91-fetched.yaml", &policy(issuer.address))?;
    // Once the policy is in force, nobody is believed.
    until(&client, ("x-set", "x"), 401).await?;
    all(&by_first, 401).await?;
    issuer.shows(Some(&first));
    all(&by_first, 200).await?;
    all(&by_second, 401).await?;
    issuer.shows(Some(&second));
    all(&by_second, 200).await?;
    all(&by_first, 401).await?;
    issuer.shows(None);
    let before = issuer.asked();
    let asked = async || if issuer.asked() >= before + 3 { Ok(()) } else { Err("not asked again".to_owned()) };
    wait::until("requests to an issuer that is away", EFFECT, asked).await?;
    all(&by_second, 200).await?;
    suite.mesh.remove_manifest("91-fetched.yaml")?;
    until(&client, ("x-set", "x"), 200).await
}
