//! Listeners at the edge of the mesh.

use std::sync::Arc;

use ambit_tls::Certificates;
use serde::Serialize;
use tokio_rustls::rustls::ServerConfig;

use super::Chain;

/// A listener at the edge of the mesh, for clients that prove no identity: requests or bytes in clear, or in TLS, which may be passed on.
#[derive(Debug, Clone, Serialize)]
pub struct Edge {
    /// The port it listens on.
    pub port: u16,
    /// What takes requests in clear, or bytes of which nothing is looked at.
    pub clear: Option<Arc<Chain>>,
    /// What takes what comes in TLS, by the server name that a client asks for; where there is any, nothing is taken in clear.
    pub secure: Vec<SecureChain>,
}

/// A filter chain for what comes in TLS.
#[derive(Debug, Clone, Serialize)]
pub struct SecureChain {
    /// The server names that it is for, in lower case, `*.` for one label or more; none for any, and for clients that ask for none.
    pub names: Vec<String>,
    /// The secrets with its certificates.
    pub secrets: Vec<Arc<str>>,
    /// What takes the requests, or the bytes.
    pub chain: Arc<Chain>,
    /// The certificates that the secrets hold now.
    #[serde(skip)]
    pub certificates: Arc<Certificates>,
    /// How TLS is spoken with them; `None` where it is passed on as it is.
    #[serde(skip)]
    pub tls: Option<Arc<ServerConfig>>,
}

impl Edge {
    /// All chains.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<Chain>> {
        self.clear.iter().chain(self.secure.iter().map(|secure| &secure.chain))
    }

    /// Whether TLS is passed on by some chain.
    #[must_use]
    pub fn passes_on(&self) -> bool {
        self.secure.iter().any(|secure| secure.tls.is_none())
    }

    /// Chains that were there before show what they showed, until they have certificates of their own.
    pub fn follow(&self, before: &Self) {
        for fresh in &self.secure {
            if let Some(was) = before.secure.iter().find(|was| was.chain.name == fresh.chain.name) {
                fresh.certificates.follow(&was.certificates);
            }
        }
    }

    /// The chain of a connection: that in clear, or the one of this name that its server name led to.
    #[must_use]
    pub fn chain(&self, secure: Option<&str>) -> Option<&Arc<Chain>> {
        match secure {
            None => self.clear.as_ref(),
            Some(name) => self.secure.iter().map(|secure| &secure.chain).find(|chain| &*chain.name == name),
        }
    }

    /// The chain for a server name in lower case: one for the whole name, then for the longest wildcard, then for any.
    #[must_use]
    pub fn select(&self, name: Option<&str>) -> Option<&SecureChain> {
        let fitting = self.secure.iter().filter_map(|chain| Some((chain.closeness(name)?, chain)));
        fitting.max_by_key(|(closeness, _)| *closeness).map(|(_, chain)| chain)
    }
}

impl SecureChain {
    /// How closely it says a server name; `None` where it is for others.
    fn closeness(&self, name: Option<&str>) -> Option<(bool, usize)> {
        if self.names.is_empty() {
            return Some((false, 0));
        }
        let name = name?;
        let closeness = |own: &String| match own.strip_prefix('*') {
            None => (own == name).then_some((true, own.len())),
            Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some((false, own.len())),
        };
        self.names.iter().filter_map(closeness).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled::{Proxy, TcpChain};

    fn chain(name: &str, names: &[&str]) -> SecureChain {
        let certificates = Arc::<Certificates>::default();
        let tls = Some(ambit_tls::edge_config(certificates.clone(), &[]).unwrap());
        let proxy = Proxy::Tcp(TcpChain { clusters: Vec::new(), logs: None, idle: None });
        let chain = Arc::new(Chain { name: name.into(), rbac: Vec::new(), upstream_identity: None, proxy, metrics: None });
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        SecureChain { names, secrets: Vec::new(), chain, certificates, tls }
    }

    #[test]
    fn a_server_name_leads_to_the_chain_that_says_it_most_closely() {
        let secure = vec![
            chain("any", &[]),
            chain("wide", &["*.example.com"]),
            chain("deep", &["*.a.example.com"]),
            chain("whole", &["x.a.example.com", "example.org"]),
        ];
        let mut edge = Edge { port: 443, clear: None, secure };
        for (name, expected) in [
            (Some("x.a.example.com"), "whole"),
            (Some("y.a.example.com"), "deep"),
            (Some("a.example.com"), "wide"),
            (Some("b.c.example.com"), "wide"),
            (Some("example.com"), "any"),
            (Some("example.org"), "whole"),
            (None, "any"),
        ] {
            let found = edge.select(name).unwrap();
            assert_eq!(&*found.chain.name, expected, "{name:?}");
        }
        assert!(!edge.passes_on());
        edge.secure.remove(0);
        assert!(edge.select(Some("example.com")).is_none() && edge.select(None).is_none());
        assert!(edge.chain(None).is_none() && edge.chain(Some("deep")).is_some() && edge.chain(Some("any")).is_none());
    }
}
