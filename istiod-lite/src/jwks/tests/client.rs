//! Asking, of servers in the process.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::jwks::client::Client;
use crate::jwks::{KeySource, NoKeys, Options};

const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","use":"sig"}]}"#;
const SENT_ON: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const LONG: Duration = Duration::from_secs(30);

/// A server that answers by the path, and ends with this.
pub(super) struct Server {
    pub(super) port: u16,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers on loopback, under TLS if there is a configuration for it. An answer is all bytes, and without one there is silence.
    pub(super) async fn start<F>(tls: Option<ServerConfig>, answer: F) -> Self
    where
        F: Fn(&str) -> Option<String> + Clone + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tls.map(|tls| TlsAcceptor::from(Arc::new(tls)));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, answer).await,
                        // A client may go away in the middle of it.
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, task: task.abort_handle() }
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: impl Fn(&str) -> Option<String>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("accept: application/json\r\n") && !head.contains("authorization"), "{head}");
    let path = head.split(' ').nth(1).unwrap();
    match answer(path) {
        Some(answer) => {
            // It may be too long for the client.
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        None => std::future::pending().await,
    }
}

pub(super) fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn client(options: Options) -> Client {
    Client::new(&Options { jwks_local_addresses: true, ..options })
}

async fn keys(client: &Client, address: String) -> Result<String, String> {
    client.keys(&KeySource::Set(address), LONG).await.map(|keys| keys.to_string()).map_err(|none| none.why().to_owned())
}

async fn of_issuer(client: &Client, issuer: String) -> Result<String, String> {
    client.keys(&KeySource::Issuer(issuer), LONG).await.map(|keys| keys.to_string()).map_err(|none| none.why().to_owned())
}

fn answers(path: &str) -> Option<String> {
    let long = || "x".repeat((1 << 20) + 1);
    Some(match path {
        "/keys" => answer("200 OK", KEYS),
        "/unsized" => format!("HTTP/1.1 200 OK\r\n\r\n{KEYS}"),
        "/secret" => answer("200 OK", r#"{"keys":[{"kty":"oct","k":"AA"}]}"#),
        "/empty" => answer("200 OK", r#"{"keys":[]}"#),
        "/page" => answer("200 OK", "<html>"),
        "/bytes" => answer("200 OK", "").replace("content-length: 0", "content-length: 9") + "short",
        "/long" => answer("200 OK", &long()),
        "/endless" => format!("HTTP/1.1 200 OK\r\n\r\n{}", long()),
        "/head" => format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", long()),
        "/moved" => answer("302 Found", KEYS).replace("\r\n\r\n", "\r\nlocation: /keys\r\n\r\n"),
        "/turned" | "/other" => {
            let (one, other) = (KEYS.replace("use", "kid"), KEYS);
            let list = |set: &str| set.trim_start_matches(r#"{"keys":["#).trim_end_matches("]}").to_owned();
            let (first, second) = if path == "/other" { (one.as_str(), other) } else { (other, one.as_str()) };
            answer("200 OK", &format!(r#"{{"keys":[{},{}]}}"#, list(first), list(second)))
        }
        "/gone" => answer("404 Not Found", KEYS),
        "/no-http" => "SSH-2.0-OpenSSH\r\n".to_owned(),
        _ => return None,
    })
}

#[tokio::test]
async fn what_is_no_set_of_keys_is_not_taken_for_one_and_it_is_said_what_came() {
    let server = Server::start(None, answers).await;
    let client = client(Options::default());
    let at = |path: &str| format!("http://127.0.0.1:{}{path}", server.port);
    assert_eq!(keys(&client, at("/keys")).await.unwrap(), SENT_ON);
    assert_eq!(keys(&client, at("/unsized")).await.unwrap(), SENT_ON);
    let turned = keys(&client, at("/turned")).await.unwrap();
    assert!(turned.contains("kid") && turned == keys(&client, at("/other")).await.unwrap(), "{turned}");
    for (path, part) in [
        ("/secret", "none of its keys can be used, as keys[0]: it is a secret"),
        ("/empty", "it has no keys"),
        ("/page", "no JSON object with a list of keys"),
        ("/bytes", "no whole answer"),
        ("/long", "longer than 1048576 bytes"),
        ("/endless", "longer than 1048576 bytes"),
        ("/head", "no answer"),
        ("/moved", "it answers 302, which is not followed"),
        ("/gone", "it answers 404"),
        ("/no-http", "no answer"),
    ] {
        let error = keys(&client, at(path)).await.unwrap_err();
        assert!(error.contains(part), "{path}: {error}");
    }
    let silent = client.keys(&KeySource::Set(at("/silence")), Duration::from_millis(50)).await;
    assert_eq!(silent.unwrap_err(), NoKeys::Failed("no keys within 50ms".into()));
    // A set without keys is an answer, and what cannot be read is none.
    for (path, withdrawn) in [("/empty", true), ("/secret", true), ("/page", false), ("/gone", false), ("/long", false)] {
        let none = client.keys(&KeySource::Set(at(path)), LONG).await.unwrap_err();
        assert_eq!(matches!(none, NoKeys::Withdrawn(_)), withdrawn, "{path}: {none:?}");
    }
    // The listener is gone again at the end of the statement.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = keys(&client, format!("http://127.0.0.1:{closed}/keys")).await.unwrap_err();
    assert!(error.contains("no connection to 127.0.0.1:"), "{error}");
}

#[tokio::test]
async fn an_issuer_says_itself_where_its_keys_are() {
    let issuers = Server::start(None, |path| match path {
        "/keys" => Some(answer("200 OK", KEYS)),
        path => {
            let (issuer, document) = path.split_once("/.well-known/")?;
            assert_eq!(document, "openid-configuration");
            let named = match issuer {
                "/relative" => r#"{"issuer":"x","jwks_uri":"/keys"}"#,
                "/none" => "{}",
                "/page" => "<html>",
                _ => return Some(answer("404 Not Found", "")),
            };
            Some(answer("200 OK", named))
        }
    })
    .await;
    // The port is not known before the server is there.
    let port = issuers.port;
    let server = Server::start(None, move |path| match path {
        "/good/.well-known/openid-configuration" => {
            Some(answer("200 OK", &format!(r#"{{"jwks_uri":"http://127.0.0.1:{port}/keys"}}"#)))
        }
        _ => None,
    })
    .await;
    let client = client(Options::default());
    for issuer in ["/good", "/good/"] {
        let issuer = format!("http://127.0.0.1:{}{issuer}", server.port);
        assert_eq!(of_issuer(&client, issuer).await.unwrap(), SENT_ON);
    }
    for (issuer, part) in [
        ("/relative", "its jwks_uri: \"/keys\" does not begin with https:// or http://"),
        ("/none", "the discovery document has no jwks_uri"),
        ("/page", "its answer is not JSON"),
        ("/unknown", "it answers 404"),
    ] {
        let error = of_issuer(&client, format!("http://127.0.0.1:{port}{issuer}")).await.unwrap_err();
        assert!(error.contains(part), "{issuer}: {error}");
    }
}

#[tokio::test]
async fn addresses_of_the_machine_itself_are_asked_only_if_that_is_wanted() {
    let server = Server::start(None, answers).await;
    let client = Client::new(&Options::default());
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "169.254.169.254"] {
        let error = keys(&client, format!("http://{host}:{}/keys", server.port)).await.unwrap_err();
        assert!(error.contains("is an address of this machine or link, which is not asked"), "{host}: {error}");
    }
}

/// An authority in a file, and a server's certificate for `localhost` by it.
fn authority(name: &str) -> (NamedTempFile, ServerConfig) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::from_params(&params, &key);
    let own = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&own, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(own.serialize_der()).unwrap())
        .unwrap();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), root.pem()).unwrap();
    (file, config)
}

#[tokio::test]
async fn an_issuer_shows_a_certificate_of_its_name_by_an_authority_that_is_trusted() {
    let (root, tls) = authority("ours");
    let (other, _) = authority("others");
    let server = Server::start(Some(tls), |path| match path {
        "/.well-known/openid-configuration" => Some(answer("200 OK", r#"{"jwks_uri":"http://localhost/keys"}"#)),
        path => answers(path),
    })
    .await;
    let trusting = |file: &NamedTempFile| client(Options { jwks_roots: Some(file.path().to_owned()), ..Options::default() });
    let (at, client) = (|host: &str| format!("https://{host}:{}", server.port), trusting(&root));
    assert_eq!(keys(&client, at("localhost") + "/keys").await.unwrap(), SENT_ON);
    // Twice, by the roots as they were read before.
    assert_eq!(keys(&client, at("localhost") + "/keys").await.unwrap(), SENT_ON);
    let error = keys(&client, at("127.0.0.1") + "/keys").await.unwrap_err();
    assert!(error.contains("no TLS with 127.0.0.1") && error.contains("not valid for name"), "{error}");
    let error = of_issuer(&client, at("localhost")).await.unwrap_err();
    assert!(error.contains("had by https names an address without"), "{error}");
    let error = keys(&trusting(&other), at("localhost") + "/keys").await.unwrap_err();
    assert!(error.contains("no TLS with localhost") && error.contains("UnknownIssuer"), "{error}");
    let broken = NamedTempFile::new().unwrap();
    std::fs::write(broken.path(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let error = keys(&trusting(&broken), at("localhost") + "/keys").await.unwrap_err();
    assert!(error.contains("cannot be read"), "{error}");
}
