//! The node proxy as a process of the test: this program again, with certificates signed from the authority's directory.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use ambit_identity::{SpiffeId, TrustDomain};
use ambit_tls::{
    Svid, SvidSource, TlsError,
    authority::{Authority, LocalSource},
};
use ambit_xds::client::Target;
use clap::Parser;

/// A file in the authority's directory that names the directory below it that is in force, if it is another.
pub const CURRENT: &str = "current";
/// The first argument that makes this program a node proxy.
pub const NAME: &str = "node-proxy";

#[derive(Debug, Parser)]
struct Arguments {
    /// [`NAME`].
    _name: String,
    #[command(flatten)]
    config: ztunnel::Config,
    #[arg(long)]
    authority: PathBuf,
}

/// Runs the node proxy if that is what this process is.
pub fn run() -> Option<ExitCode> {
    if std::env::args().nth(1).as_deref() != Some(NAME) {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Some(match runtime.block_on(proxy()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

async fn proxy() -> anyhow::Result<()> {
    let Arguments { config, authority, .. } = Arguments::parse();
    ambit_runtime::telemetry::init_logging(&config.log, ambit_runtime::telemetry::LogFormat::Text)?;
    let source = Arc::new(Elsewhere { directory: authority, trust_domain: config.trust_domain.parse()? });
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", config.control_plane.xds_address))?.connect_lazy();
    let shutdown = ambit_runtime::signal::shutdown()?;
    Ok(ztunnel::run_with(config, source, Target::Channel(channel), async { _ = shutdown.await }).await?)
}

/// An authority that signs on a thread of its own, as a real one does on a machine of its own. Its files may change at any time.
#[derive(Clone)]
struct Elsewhere {
    directory: PathBuf,
    trust_domain: TrustDomain,
}

impl Elsewhere {
    fn sign(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        let directory = match std::fs::read_to_string(self.directory.join(CURRENT)) {
            Ok(current) => self.directory.join(current),
            Err(_) => self.directory.clone(),
        };
        let authority = Authority::load_or_create(&directory, &self.trust_domain)?;
        LocalSource::new(Arc::new(authority), Duration::from_secs(3600)).svid(id)
    }
}

#[async_trait::async_trait]
impl SvidSource for Elsewhere {
    async fn issue(&self, id: &SpiffeId) -> Result<Svid, TlsError> {
        let (source, id) = (self.clone(), id.clone());
        let signed = tokio::task::spawn_blocking(move || source.sign(&id)).await;
        signed.unwrap_or_else(|error| Err(TlsError::Configuration(error.to_string())))
    }
}
