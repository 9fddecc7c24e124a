//! What a proxy counts and what it holds.

use std::time::Instant;

use anyhow::ensure;

use crate::{
    mesh::{Mesh, PATIENCE},
    observe::get,
};

/// Connections that a proxy has opened and closed, added up over all of its series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Books {
    pub opened: u64,
    pub closed: u64,
}

pub async fn read(mesh: &Mesh, node: usize) -> anyhow::Result<Books> {
    let text = get(mesh, node, 15020, "/metrics").await?;
    let sum = |name: &str| {
        let values = text.lines().filter(|line| line.starts_with(&format!("istio_tcp_connections_{name}_total{{")));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(|value| value as u64).sum()
    };
    Ok(Books { opened: sum("opened"), closed: sum("closed") })
}

/// Waits until all that was opened is closed.
pub async fn balanced(mesh: &Mesh, node: usize) -> anyhow::Result<Books> {
    let until = Instant::now() + PATIENCE;
    loop {
        let books = read(mesh, node).await?;
        if books.opened == books.closed && books.opened > 0 {
            return Ok(books);
        }
        ensure!(Instant::now() < until, "node {node} has connections that nobody has: {books:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}
