//! A pod: a network namespace with one device to its node.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use crate::node::WeakNode;
use crate::{Error, Families, HostEntry, Node, Place};

/// What a pod is to be.
#[derive(Clone, Debug)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) hosts: Vec<HostEntry>,
    pub(crate) resolv_conf: Option<String>,
    pub(crate) number: Option<u8>,
    pub(crate) families: Families,
}

impl PodSpec {
    /// A pod by namespace and name; the name is also its host name.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            hosts: Vec::new(),
            resolv_conf: None,
            number: None,
            families: Families::Dual,
        }
    }

    /// Limits it to these families; unless given, it has those of the bed.
    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    /// Adds an entry to its `/etc/hosts`; see [`Place::set_hosts`] to change them later.
    #[must_use]
    pub fn host<N: Into<String>>(mut self, ip: IpAddr, names: impl IntoIterator<Item = N>) -> Self {
        self.hosts.push(HostEntry::new(ip, names));
        self
    }

    /// Adds entries to its `/etc/hosts`.
    #[must_use]
    pub fn hosts(mut self, entries: impl IntoIterator<Item = HostEntry>) -> Self {
        self.hosts.extend(entries);
        self
    }

    /// The last part of its addresses on its node, 2 to 250; unless given, one that was not used for long.
    #[must_use]
    pub fn number(mut self, number: u8) -> Self {
        self.number = Some(number);
        self
    }

    /// Content of its `/etc/resolv.conf`; unless given, there is no resolver.
    #[must_use]
    pub fn resolv_conf(mut self, text: impl Into<String>) -> Self {
        self.resolv_conf = Some(text.into());
        self
    }
}

/// A pod. Clones are the same pod. Everything of a [`Place`] works on it.
#[derive(Clone, Debug)]
pub struct Pod(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: PodSpec,
    place: Place,
    /// A node holds its pods, so a pod must not hold its node.
    node: WeakNode,
    host: u8,
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0.place
    }
}

impl Pod {
    pub(crate) fn new(spec: PodSpec, place: Place, node: &Node, host: u8) -> Self {
        Self(Arc::new(Inner { spec, place, node: node.downgrade(), host }))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.0.spec.namespace
    }

    /// Kills its programs, takes its link away and gives its address back. The network namespace goes when nobody holds it any more.
    pub async fn remove(&self) -> Result<(), Error> {
        self.stop_all().await;
        // Only files in a tmpfs of our own; what cannot be removed goes with the mount namespace.
        let _ = std::fs::remove_dir_all(self.dir());
        match self.0.node.upgrade() {
            Some(node) => node.remove_pod(self.0.host).await,
            None => Ok(()),
        }
    }
}
