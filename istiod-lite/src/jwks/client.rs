//! Asks one address for keys: over HTTP/1.1, with one request and no credentials, under limits.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ambit_model::jwt::Keys;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::{Address, is_local};
use super::trust::Trust;
use super::{KeySource, NoKeys, Options, without};

/// Bytes of an answer.
const MAX_BODY: usize = 1 << 20;
/// Bytes of the head of an answer.
const MAX_HEAD: usize = 64 << 10;
/// How long one of several addresses of a host may take to be connected to.
const CONNECT: Duration = Duration::from_secs(2);

/// Asks.
#[derive(Debug)]
pub(super) struct Client {
    trust: Trust,
    local: bool,
}

impl Client {
    /// By these options.
    pub(super) fn new(options: &Options) -> Self {
        Self { trust: Trust::new(options.jwks_roots.clone()), local: options.jwks_local_addresses }
    }

    /// The keys of a source, as a set with nothing in it but what can be used, within this time.
    ///
    /// # Errors
    /// Why they cannot be had, in the same words as long as the cause is the same.
    pub(super) async fn keys(&self, source: &KeySource, patience: Duration) -> Result<Arc<str>, NoKeys> {
        let asked = Box::pin(self.ask(source));
        timeout(patience, asked).await.unwrap_or_else(|_| Err(format!("no keys within {patience:?}").into()))
    }

    async fn ask(&self, source: &KeySource) -> Result<Arc<str>, NoKeys> {
        let first = Address::parse(&source.address())?;
        let answer = self.get(&first).await?;
        let KeySource::Issuer(_) = source else { return read(&answer) };
        let named = jwks_uri(&answer)?;
        let second = Address::parse(&named).map_err(|why| format!("its jwks_uri: {why}"))?;
        let of_keys = |why: String| format!("its jwks_uri {named}: {why}");
        if first.tls && !second.tls {
            // Whose keys they are would be known from whoever is on the way.
            return Err(of_keys("a document had by https names an address without".into()).into());
        }
        let answer = self.get(&second).await.map_err(of_keys)?;
        read(&answer).map_err(|none| none.said(of_keys))
    }

    async fn get(&self, address: &Address) -> Result<Bytes, String> {
        let stream = self.connect(address).await?;
        if !address.tls {
            return exchange(stream, address).await;
        }
        let name =
            ServerName::try_from(address.host.clone()).map_err(|_| format!("{:?} is no name of a server", address.host))?;
        let connector = TlsConnector::from(self.trust.config().await?);
        let stream = connector.connect(name, stream).await.map_err(|error| format!("no TLS with {}: {error}", address.host))?;
        exchange(stream, address).await
    }

    /// The address is looked at after the name was looked up, and is the one that is connected to.
    async fn connect(&self, address: &Address) -> Result<TcpStream, String> {
        let Address { host, port, .. } = address;
        let found = lookup_host((host.as_str(), *port)).await.map_err(|error| format!("{host} is not found: {error}"))?;
        // Names are found in one order now and in another then, and what is said is to be the same.
        let mut failed = BTreeMap::new();
        for to in found {
            if !self.local && is_local(to.ip()) {
                let why = format!("{} of {host} is an address of this machine or link, which is not asked", to.ip());
                failed.insert(to, why);
                continue;
            }
            let why = match timeout(CONNECT, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => format!("no connection to {to}: {error}"),
                Err(_) => format!("no connection to {to} within {CONNECT:?}"),
            };
            failed.insert(to, why);
        }
        Err(failed.into_values().next().unwrap_or_else(|| format!("{host} has no address")))
    }
}

/// Sends the request and takes the whole answer. Whoever drops this drops the connection.
async fn exchange<S>(stream: S, address: &Address) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |error: hyper::Error| format!("no answer: {error}");
    let request = Request::get(address.path.as_str())
        .header(header::HOST, address.authority.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, "istiod-lite")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let mut builder = http1::Builder::new();
    let (mut sender, connection) = builder.max_buf_size(MAX_HEAD).handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        if status.is_redirection() {
            // Where to is not said: it may be nobody's business who wrote the rule.
            return Err(format!("it answers {}, which is not followed: give the address that it leads to", status.as_u16()));
        }
        if status != http::StatusCode::OK {
            return Err(format!("it answers {}", status.as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| {
            if error.is::<LengthLimitError>() {
                format!("its answer is longer than {MAX_BODY} bytes")
            } else {
                format!("no whole answer: {error}")
            }
        })
    };
    // The connection is what moves the bytes, and may be over before all of them were read.
    let mut answer = pin!(answer);
    let connection = pin!(connection);
    tokio::select! {
        answer = &mut answer => return answer,
        _ = connection => {}
    }
    answer.await
}

/// Where a discovery document says that the keys are.
fn jwks_uri(document: &[u8]) -> Result<String, String> {
    let document: Value = serde_json::from_slice(document).map_err(|_| "its answer is not JSON".to_owned())?;
    let named = document.get("jwks_uri").and_then(Value::as_str);
    named.map(str::to_owned).ok_or_else(|| "the discovery document has no jwks_uri".into())
}

/// The keys in an order of their own: an issuer may list the same ones now so and now so, and every change makes waypoints anew.
fn read(answer: &[u8]) -> Result<Arc<str>, NoKeys> {
    let text = std::str::from_utf8(answer).map_err(|_| "its answer is not JSON".to_owned())?;
    let keys = Keys::parse(text).map_err(|error| error.to_string())?;
    match without(&keys) {
        Some(why) => Err(NoKeys::Withdrawn(why)),
        None => Ok(keys.sorted().to_jwks().into()),
    }
}
