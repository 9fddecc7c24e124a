//! The cluster that a command speaks to, and what its answers mean.

use std::path::PathBuf;
use std::time::Duration;

use istiod_lite::source::kubernetes::client_config;
use kube::{Client, config::Kubeconfig};

use crate::error::{Error, Result};

/// How long the API server may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Which cluster.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ClusterArgs {
    /// File with the clusters and users that kubectl knows; as kubectl finds it ($KUBECONFIG, ~/.kube/config) if not given
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Which of its contexts; the current one if not given
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

impl ClusterArgs {
    /// A client of this cluster.
    ///
    /// # Errors
    /// When there is no such file or context.
    pub async fn client(&self) -> Result<Client> {
        Client::try_from(self.config().await?).map_err(|cause| no_cluster(&cause))
    }

    /// Where this cluster is, and how long it may take to answer.
    ///
    /// # Errors
    /// When there is no such file or context.
    pub async fn config(&self) -> Result<kube::Config> {
        let read = match &self.kubeconfig {
            Some(file) => Kubeconfig::read_from(file),
            None => Kubeconfig::read(),
        };
        let mut config = match read {
            Ok(file) => client_config(file, self.context.as_deref()).await.map_err(|cause| no_cluster(&cause))?,
            // In a pod there is none.
            Err(cause) if self.kubeconfig.is_none() && self.context.is_none() => {
                kube::Config::incluster().map_err(|_| no_cluster(&cause))?
            }
            Err(cause) => return Err(no_cluster(&cause)),
        };
        config.read_timeout = Some(ANSWER);
        config.connect_timeout = Some(Duration::from_secs(10));
        Ok(config)
    }
}

/// That no cluster is meant which there is.
pub(crate) fn no_cluster(cause: &dyn std::fmt::Display) -> Error {
    Error::Missing {
        missing: format!("it is not known which cluster is meant: {cause}"),
        remedy: "--kubeconfig FILE, or the variable KUBECONFIG, and --context NAME; `kubectl config get-contexts` lists them"
            .to_owned(),
    }
}

/// Whether the API server says that there is no such object, or no such kind.
pub(crate) fn is_missing(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// An answer of the API server as an error of the command, with what can be done.
pub(crate) fn failed(doing: &str, error: kube::Error) -> Error {
    let kube::Error::Api(status) = &error else {
        return Error::Missing {
            missing: format!("{doing}: the API server does not answer: {}", causes(&error)),
            remedy: "see whether `kubectl version` gets an answer; --context chooses another cluster".to_owned(),
        };
    };
    let message = &status.message;
    let remedy = match status.code {
        401 => "sign in again: the API server does not know who asks (`kubectl auth whoami`)",
        403 => "ask for these rights, or for the role cluster-admin: `ambit check --pre` lists what is missing",
        409 => "somebody else manages these fields: take the change back, or overrule it with --force-conflicts",
        404 => "the cluster does not have this kind: install its CRDs, or switch off the setting that needs it",
        _ => return Error::Part { doing: doing.to_owned(), cause: message.clone() },
    };
    Error::Missing { missing: format!("{doing}: {message}"), remedy: remedy.to_owned() }
}

/// An error with all that caused it, which the outermost seldom tells.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text.push_str(&format!(": {more}"));
        }
        cause = next.source();
    }
    text
}
