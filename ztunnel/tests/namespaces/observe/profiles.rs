//! Profiles of a node proxy that carries connections.

use std::{net::SocketAddr, time::Instant};

use anyhow::ensure;
use prost::Message;

use super::{answer, get};
use crate::mesh::{Mesh, PATIENCE, call, call_until_it_works, echo};

/// `Profile` of `profile.proto`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    kinds: Vec<Kind>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    locations: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    functions: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    texts: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Kind {
    #[prost(int64, tag = "1")]
    name: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    locations: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    lines: Vec<Line>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
}

impl Profile {
    fn kinds(&self) -> Vec<&str> {
        self.kinds.iter().map(|kind| self.texts[kind.name as usize].as_str()).collect()
    }

    /// Whether a sample with a value was taken below a function of this name.
    fn has(&self, name: &str) -> bool {
        let function = |id: u64| self.functions.iter().find(|function| function.id == id).unwrap();
        let named = |line: &Line| self.texts[function(line.function).name as usize].contains(name);
        let location = |id: &u64| self.locations.iter().find(|location| location.id == *id).unwrap();
        let below = |sample: &Sample| sample.locations.iter().any(|id| location(id).lines.iter().any(named));
        self.samples.iter().any(|sample| sample.values.iter().any(|value| *value > 0) && below(sample))
    }
}

/// Profiles are taken while pods call, until one has seen the proxy at work.
pub async fn name() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let calls = async {
        loop {
            let _either_way = call(&client, to, &[b'x'; 64 << 10]).await;
        }
    };
    let profiles = async {
        let kinds =
            [("profile", &["samples", "cpu"][..]), ("heap", &["alloc_objects", "alloc_space", "inuse_objects", "inuse_space"])];
        for (page, kinds) in kinds {
            let until = Instant::now() + 3 * PATIENCE;
            loop {
                let (status, body) = answer(&mesh, 0, 15000, &format!("GET /debug/pprof/{page}?seconds=1")).await?;
                ensure!(status == 200, "{page}: {status}: {}", String::from_utf8_lossy(&body));
                let profile = Profile::decode(&*body)?;
                ensure!(profile.kinds() == kinds, "{:?}", profile.kinds());
                if profile.has("ztunnel") {
                    break;
                }
                ensure!(Instant::now() < until, "{page}: {} samples, {:?}", profile.samples.len(), profile.texts);
            }
        }
        anyhow::Ok(())
    };
    tokio::select! {
        profiles = profiles => profiles?,
        () = calls => {}
    }
    call_until_it_works(&client, to, PATIENCE).await?;
    let memory: serde_json::Value = serde_json::from_str(&get(&mesh, 0, 15000, "/debug/memory").await?)?;
    let is_some = |part: &str, name: &str| memory[part][name].as_u64().is_some_and(|bytes| bytes > 100 << 10);
    ensure!(is_some("allocator", "in_use") && is_some("process", "rss"), "{memory}");
    ensure!(answer(&mesh, 0, 15000, "GET /debug/pprof/profile?seconds=0").await?.0 == 400);
    ensure!(answer(&mesh, 0, 15020, "GET /debug/pprof/profile").await?.0 == 404);
    mesh.bed.shutdown().await;
    Ok(())
}
