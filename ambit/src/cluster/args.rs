//! What `ambit cluster` and `ambit image` are told.

use std::path::PathBuf;
use std::time::Duration;

use ambit_cluster::ProxyMode;
use clap::{Args, Subcommand, ValueEnum};

use crate::up::duration;

/// Name of a cluster that is given none.
const NAME: &str = "ambit";

/// A command about a Kubernetes cluster on this machine.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Start a cluster, and keep it until Ctrl-C, `ambit cluster down`, or nobody reads what it says any more (`| head`)
    #[command(
        after_help = "Examples:\n  sudo ambit cluster up\n  sudo ambit cluster up --nodes 3 --for 10m\n  sudo ambit cluster up --background\n\n\
                      Its files, the kubeconfig too, are root's and in root's cache directory: run kubectl as root as well.\n\
                      Kubernetes is built from its Go module at first, which takes 8 to 15 minutes and needs Go; `sudo ambit cluster build` does that alone."
    )]
    Up(UpArgs),
    /// End a cluster, and remove what one left that was killed
    #[command(after_help = "Example:\n  sudo ambit cluster down")]
    Down(NameArgs),
    /// What the nodes and the DNS of a cluster are like
    #[command(after_help = "Example:\n  sudo ambit cluster status --json")]
    Status(StatusArgs),
    /// Make an image known to every node, for pods with `imagePullPolicy: Never`
    #[command(after_help = "Examples:\n  ambit image --output ambit.tar && sudo ambit cluster load ambit.tar\n  \
                            podman save --format oci-archive -o web.tar web:1 && sudo ambit cluster load web.tar")]
    Load(LoadArgs),
    /// Build Kubernetes and CoreDNS, if they are not built yet, and do nothing else
    #[command(after_help = "Example:\n  sudo ambit cluster build\n\nThey are kept for whoever runs it; a cluster is root's.")]
    Build,
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name of the cluster, if there are several: small letters, digits and dashes
    #[arg(long, default_value = NAME, value_parser = name)]
    pub name: String,
}

/// What a cluster is to be like.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub cluster: NameArgs,
    /// How many nodes
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub nodes: u8,
    /// End it after this time, such as 20s or 10m
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Return when it is ready, and leave it running
    #[arg(long)]
    pub background: bool,
    /// Images to make known to its nodes, as `ambit cluster load` does
    #[arg(long, value_name = "TAR")]
    pub image: Vec<PathBuf>,
    /// Leave out the image of Ambit itself, which is made of this program
    #[arg(long)]
    pub bare: bool,
    /// How the nodes translate service addresses
    #[arg(long, value_enum, default_value_t = Proxy::Nftables)]
    pub proxy: Proxy,
}

/// How nodes translate service addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    /// nftables
    Nftables,
    /// iptables
    Iptables,
}

impl From<Proxy> for ProxyMode {
    fn from(proxy: Proxy) -> Self {
        match proxy {
            Proxy::Nftables => Self::Nftables,
            Proxy::Iptables => Self::Iptables,
        }
    }
}

/// Which cluster, and how to print it.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub cluster: NameArgs,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Which image, and which cluster.
#[derive(Debug, Args)]
pub struct LoadArgs {
    /// The image: a tar with an OCI image layout
    #[arg(value_name = "TAR")]
    pub image: PathBuf,
    #[command(flatten)]
    pub cluster: NameArgs,
}

/// How the image of Ambit is made.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Where to write it: a tar with an OCI image layout
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Name and tag of the image; that by which the chart asks for it if not given
    #[arg(long, default_value = super::image::NAME)]
    pub name: String,
    /// More programs of this machine to put beside /ambit and the ambit-cni that lies beside this program; they may need no other libraries
    #[arg(long, value_name = "PROGRAM")]
    pub with: Vec<PathBuf>,
}

/// A name that can be part of others.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if text.is_empty() || text.len() > 30 || !text.chars().all(fits) {
        return Err("1 to 30 small letters, digits and dashes are a name".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_could_lead_elsewhere_is_refused() {
        assert_eq!(name("ambit-2").as_deref(), Ok("ambit-2"));
        for wrong in ["", "..", "a/b", "A", "a b", &"a".repeat(31)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
