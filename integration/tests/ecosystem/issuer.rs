//! cert-manager as the issuer of the mesh's authority.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ambit_integration::wait;
use anyhow::{Context, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::load::{Load, Outcome};
use crate::user::{PATIENCE, PAUSE, User};

/// Where pods take tunnels.
const HBONE: u16 = 15008;

/// A pod of an identity that its node has no certificate for before the renewal.
const LATE: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "namespace": "shop", "labels": {"app": "orders"}}, "spec": {
    "nodeName": "node-2", "serviceAccountName": "late", "containers": [{"name": "orders", "image": "ghcr.io/ambit-mesh/ambit:0.1.0",
        "command": ["ambit", "demo", "billing", "--name", "orders", "--downstream", "storage=http://storage.data:8080"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}}"#;

pub async fn issues_and_renews(user: &User<'_>) -> anyhow::Result<()> {
    user.in_the_mesh().await?;
    let root = certificates(&secret(user, "cert-manager", "secret/mesh-root", "tls.crt").await?)?;
    let authority = authority(user).await?;
    ensure!(root.len() == 1 && authority != root, "the mesh signs with the root itself");
    let presented = presented(user, "orders", &root).await?;
    ensure!(presented.get(1) == authority.first(), "orders is not known by the authority that cert-manager has made");
    (user.tell)("a pod's certificate is signed by the authority of cert-manager, under its root");

    let load = Load::start(user.network("caller").await?, "orders", user.address("orders").await?, &["/invoices/1"]);
    load.settled("answered", 20, Outcome::fine).await?;
    let since = Instant::now();
    renew(user).await?;
    let look = async || {
        tokio::time::sleep(PAUSE).await;
        match self::authority(user).await {
            Ok(new) if new != authority => Ok(new),
            Ok(_) => Err("it is the one of before".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    };
    let (renewed, _) = wait::until("another authority by cert-manager", PATIENCE, look).await?;
    (user.tell)("cert-manager has renewed the authority");

    // Whoever asks for a certificate once it is followed gets one of the new authority; until then pods come with one of the old.
    let look = async || match late(user, &root).await {
        Ok(presented) if presented.get(1) == renewed.first() => Ok(()),
        Ok(_) => Err("a new pod is known by the authority of before".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    };
    wait::until("a new pod that the new authority has signed for", PATIENCE, look).await?;
    load.settled("answered by old and new", 40, Outcome::fine).await?;
    let asked = load.all_fine(since)?;
    (user.tell)(&format!("a new pod is known by the new authority; {asked} requests meanwhile, none failed"));
    user.cluster.kubectl(&["delete", "pod", "-n", "shop", "late", "--wait=true"]).await?;
    Ok(())
}

/// Makes the late pod anew and gives what it is known by.
async fn late(user: &User<'_>, root: &[CertificateDer<'static>]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    user.cluster.kubectl(&["delete", "pod", "-n", "shop", "late", "--ignore-not-found", "--wait=true"]).await?;
    user.apply("late.json", LATE).await?;
    user.cluster.kubectl(&["wait", "-n", "shop", "--for=condition=Ready", "pod/late", "--timeout=90s"]).await?;
    presented(user, "late", root).await
}

/// Asks for a renewal, as `cmctl renew` does.
async fn renew(user: &User<'_>) -> anyhow::Result<()> {
    let status = serde_json::json!({ "status": { "conditions": [{
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "Certificate re-issuance manually triggered",
    }] } });
    let status = status.to_string();
    let patch = ["patch", "certificate", "-n", "istio-system", "cacerts", "--subresource=status", "--type=merge", "-p", &status];
    user.cluster.kubectl(&patch).await?;
    Ok(())
}

/// The certificates in the Secret that the mesh reads.
async fn authority(user: &User<'_>) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    certificates(&secret(user, "istio-system", "secret/cacerts", "tls.crt").await?)
}

/// A key of a Secret.
async fn secret(user: &User<'_>, namespace: &str, object: &str, key: &str) -> anyhow::Result<String> {
    let template = format!("go-template={{{{index .data \"{key}\" | base64decode}}}}");
    Ok(user.cluster.kubectl(&["get", "-n", namespace, object, "-o", &template]).await?)
}

fn certificates(pem: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let read = read.ok().filter(|read| !read.is_empty());
    read.with_context(|| format!("no certificates: {pem:?}"))
}

/// What a pod shows to those who open a tunnel to it, leaf first; it verifies under this root.
async fn presented(user: &User<'_>, pod: &str, root: &[CertificateDer<'static>]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let address = user.read("shop", &format!("pod/{pod}"), "{.status.podIP}").await?;
    let address: std::net::IpAddr = address.parse().with_context(|| format!("the address of {pod}: {address:?}"))?;
    let stream = user.cluster.control_plane().connect(SocketAddr::new(address, HBONE)).await?.into_std()?;
    let mut roots = RootCertStore::empty();
    for root in root {
        roots.add(root.clone())?;
    }
    let shown = tokio::task::spawn_blocking(move || {
        let mut stream = stream;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Under { roots, provider: Arc::clone(&provider) });
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut connection = ClientConnection::new(Arc::new(config), ServerName::IpAddress(address.into()))?;
        // The peer will refuse a client without a certificate, but not before it has shown its own.
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        let shown = connection.peer_certificates().context("no certificate was shown")?;
        anyhow::Ok(shown.iter().map(|one| one.clone().into_owned()).collect())
    });
    shown.await?.with_context(|| format!("the certificate of {pod}"))
}

/// Verifies a certificate as one under these roots; whose it is does not matter here.
#[derive(Debug)]
struct Under {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Under {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
