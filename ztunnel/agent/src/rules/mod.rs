//! The capture rules of a pod: written into its network namespace, compared with what the kernel shows, removed.
//!
//! They belong to the pod, not to the proxy: while no proxy listens, captured connections are refused and never go in clear.
//!
//! What a pod's namespace must show is found out once, by writing the rules into an empty namespace and reading them back. The same
//! trial chooses the backend.

mod iptables;
pub(crate) mod nftables;
mod routing;
pub mod table;

use std::{io, sync::Arc, time::Duration};

use ambit_runtime::netns::NetNs;
use tokio::{sync::OnceCell, time::Instant};

use crate::Error;
use table::{Capture, Line};

/// Which packet filter the rules are written for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The first that works, nftables before iptables.
    #[default]
    Auto,
    /// nftables, over netlink.
    Nftables,
    /// iptables, through `iptables-restore`.
    Iptables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Nftables,
    Iptables(&'static str),
}

/// A backend that works here and what it shows of whole rules.
#[derive(Debug)]
struct Reference {
    backend: Backend,
    shown: Vec<String>,
}

/// How long rules are believed to be whole while their outline stays: what has the same outline may still be something else.
const LONGEST: Duration = Duration::from_secs(5);

/// Remembers when the rules of a namespace were whole.
#[derive(Debug)]
pub struct Whole {
    outline: Vec<u8>,
    at: Instant,
}

/// Writes and reads capture rules. Clones share what was found out.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    choice: Choice,
    capture: Capture,
    reference: Arc<OnceCell<Reference>>,
}

impl Backend {
    /// Whether the kernel tells of every change of the rules.
    fn tells(self) -> bool {
        matches!(self, Self::Nftables | Self::Iptables(iptables::OVER_NFTABLES))
    }

    async fn install(self, netns: &NetNs, lines: &[Line]) -> Result<(), Error> {
        match self {
            Self::Nftables => nftables::install(netns, lines).await.map_err(refused),
            Self::Iptables(variant) => iptables::install(variant, netns, lines).await.map_err(failed),
        }
    }

    async fn remove(self, netns: &NetNs) -> Result<(), Error> {
        match self {
            Self::Nftables => nftables::remove(netns).await.map_err(refused),
            Self::Iptables(variant) => iptables::remove(variant, netns).await.map_err(failed),
        }
    }

    async fn shown(self, netns: &NetNs) -> Result<Vec<String>, Error> {
        match self {
            Self::Nftables => nftables::shown(netns).await.map_err(refused),
            Self::Iptables(variant) => iptables::shown(variant, netns).await.map_err(failed),
        }
    }
}

fn refused(error: nlink::Error) -> Error {
    Error::Rules(error.to_string())
}

fn failed(error: io::Error) -> Error {
    Error::Rules(error.to_string())
}

impl Rules {
    /// Rules for this backend that capture this.
    #[must_use]
    pub fn new(choice: Choice, capture: Capture) -> Self {
        Self { choice, capture, reference: Arc::default() }
    }

    async fn reference(&self) -> Result<&Reference, Error> {
        self.reference.get_or_try_init(|| self.probe()).await
    }

    /// The name of the backend that works here.
    ///
    /// # Errors
    /// When none does.
    pub async fn backend(&self) -> Result<String, Error> {
        Ok(match self.reference().await?.backend {
            Backend::Nftables => "nftables".to_owned(),
            Backend::Iptables(variant) => format!("ip{variant}"),
        })
    }

    async fn probe(&self) -> Result<Reference, Error> {
        let iptables = iptables::VARIANTS.map(Backend::Iptables);
        let candidates = match self.choice {
            Choice::Auto => [[Backend::Nftables].as_slice(), &iptables].concat(),
            Choice::Nftables => vec![Backend::Nftables],
            Choice::Iptables => iptables.to_vec(),
        };
        let lines = table::lines(self.capture);
        let mut wrong = Vec::new();
        for backend in candidates {
            let empty = NetNs::create().map_err(failed)?;
            let tried = async {
                backend.install(&empty, &lines).await?;
                let shown = backend.shown(&empty).await?;
                if shown.len() < lines.len() / 2 {
                    return Err(Error::Rules("what was written is not there".to_owned()));
                }
                Ok(Reference { backend, shown })
            };
            match tried.await {
                Ok(reference) => {
                    tracing::info!(?backend, "capture rules can be written");
                    return Ok(reference);
                }
                Err(error) => wrong.push(format!("{backend:?}: {error}")),
            }
        }
        Err(Error::Rules(format!("no packet filter works here: {}", wrong.join("; "))))
    }

    /// Writes the rules into the namespace, in place of those that are there.
    ///
    /// # Errors
    /// When the kernel refuses, or no backend works.
    pub async fn install(&self, netns: &NetNs) -> Result<(), Error> {
        let reference = self.reference().await?;
        routing::install(netns).await.map_err(refused)?;
        reference.backend.install(netns, &table::lines(self.capture)).await
    }

    /// Removes the rules, and what cut the pod off. That they are not there is no error.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove(&self, netns: &NetNs) -> Result<(), Error> {
        let reference = self.reference().await?;
        // Routing first: with the rules alone connections are still redirected, with routing alone they would be lost.
        routing::remove(netns).await.map_err(refused)?;
        reference.backend.remove(netns).await
    }

    /// What is wrong with the rules in the namespace; nothing when they are whole and ours.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn faults(&self, netns: &NetNs) -> Result<Vec<String>, Error> {
        let reference = self.reference().await?;
        let mut faults = routing::missing(netns).await.map_err(refused)?;
        let shown = reference.backend.shown(netns).await?;
        if shown != reference.shown {
            let there = shown.iter().filter(|line| reference.shown.contains(line)).count();
            faults.push(match shown.len() {
                0 => "the capture rules".to_owned(),
                _ => format!(
                    "{there} of {} capture rules are as they were written, {} others",
                    reference.shown.len(),
                    shown.len() - there
                ),
            });
        }
        Ok(faults)
    }

    /// Whether anything of the capture is in the namespace that does something to its packets.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn traces(&self, netns: &NetNs) -> Result<bool, Error> {
        if routing::traces(netns).await.map_err(refused)? {
            return Ok(true);
        }
        Ok(!self.reference().await?.backend.shown(netns).await?.is_empty())
    }

    /// As [`Rules::faults`], without reading what nobody has changed since it was `whole`. `quiet` says that the kernel, which tells of
    /// changes, has told of none.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn verify(&self, netns: &NetNs, whole: &mut Option<Whole>, quiet: bool) -> Result<Vec<String>, Error> {
        let lately = whole.as_ref().is_some_and(|whole| whole.at.elapsed() < LONGEST);
        if quiet && lately && self.reference().await?.backend.tells() {
            return Ok(Vec::new());
        }
        let now = self.outline(netns).await?;
        let unchanged = whole.take().filter(|whole| now.as_ref() == Some(&whole.outline));
        let believed = unchanged.is_some();
        *whole = unchanged.filter(|whole| whole.at.elapsed() < LONGEST);
        if whole.is_some() {
            if quiet {
                return Ok(Vec::new());
            }
            return routing::missing(netns).await.map_err(refused);
        }
        let faults = match self.faults(netns).await {
            // Nobody has changed anything that would show: that it cannot be listed for a moment is no reason to doubt it.
            Err(error) if believed => {
                tracing::warn!(%error, "capture rules cannot be listed");
                routing::missing(netns).await.map_err(refused)
            }
            faults => faults,
        }?;
        if let Some(outline) = now.filter(|_| faults.is_empty()) {
            *whole = Some(Whole { outline, at: Instant::now() });
        }
        Ok(faults)
    }

    /// What changes when the packet filter does, and costs little to ask for; nothing where there is no such thing.
    async fn outline(&self, netns: &NetNs) -> Result<Option<Vec<u8>>, Error> {
        Ok(match self.reference().await?.backend {
            Backend::Nftables | Backend::Iptables(iptables::OVER_NFTABLES) => {
                Some(nftables::generation(netns).await.map_err(refused)?.to_be_bytes().to_vec())
            }
            Backend::Iptables(_) => iptables::outline(netns).ok(),
        })
    }

    /// Sees that the rules are in force and nothing is cut off: what is there already is not written again.
    ///
    /// # Errors
    /// When the kernel refuses, no backend works, or the rules are not there when they have been written.
    pub async fn ensure(&self, netns: &NetNs) -> Result<(), Error> {
        if !self.faults(netns).await?.is_empty() {
            self.install(netns).await?;
            let faults = self.faults(netns).await?;
            if !faults.is_empty() {
                return Err(Error::Rules(format!("still wrong: {}", faults.join(", "))));
            }
        }
        self.join(netns).await
    }

    /// Lets nothing out of the pod: for when the rules cannot be written or verified.
    ///
    /// # Errors
    /// When the kernel refuses that too.
    pub async fn cut(&self, netns: &NetNs) -> Result<(), Error> {
        routing::cut(netns).await.map_err(refused)
    }

    /// Undoes [`Rules::cut`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn join(&self, netns: &NetNs) -> Result<(), Error> {
        routing::join(netns).await.map_err(refused)
    }
}
