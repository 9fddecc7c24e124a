//! What a node's proxy says of itself.

use std::net::SocketAddr;

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{World, ports};

impl World {
    /// A page of the newest proxy of a node; nothing when it does not answer well.
    async fn page(&self, number: usize, port: u16, path: &str) -> anyhow::Result<String> {
        let mut stream = self.nodes[number].place.connect(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        Ok(body.to_owned())
    }

    /// Waits until the newest proxy of a node says that it is ready.
    pub async fn proxy_is_ready(&self, number: usize) -> anyhow::Result<()> {
        let [_, _, ready] = ports(self.nodes[number].started);
        self.until("a proxy that is ready", async || self.page(number, ready, "/healthz/ready").await.is_ok()).await
    }

    /// Waits until the proxy of each node was told of these pods, and that they are in the mesh.
    pub async fn proxies_know(&self, names: &[&str]) -> anyhow::Result<()> {
        for number in 0..self.nodes.len() {
            let [admin, ..] = ports(self.nodes[number].started);
            let known = async || -> anyhow::Result<bool> {
                let dump: Value = serde_json::from_str(&self.page(number, admin, "/config_dump").await?)?;
                let workloads = dump["workloads"].as_array().context("no workloads")?;
                let known = |name: &&str| workloads.iter().any(|held| held["name"] == **name && held["protocol"] == "HBONE");
                Ok(names.iter().all(known))
            };
            self.until("proxies that know all pods", async || known().await.unwrap_or(false)).await?;
        }
        Ok(())
    }

    /// How many certificates the proxies of a node have obtained.
    pub fn certificates(&self, number: usize) -> usize {
        let log = std::fs::read_to_string(self.nodes[number].place.dir().join("ztunnel.log")).unwrap_or_default();
        log.matches("certificate obtained").count()
    }
}
