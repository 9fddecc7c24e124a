//! Bytes from outside that the node proxy, the node agent and the CNI plugin read, besides tunnels, certificates and DNS, which are tried
//! where they are read (`core/hbone`, `core/tls`, `src/dns/fuzz.rs`).

#![allow(missing_docs)]

mod cni;
mod headers;
mod xds;
mod zds;

use std::path::{Path, PathBuf};

/// A file of seeds.
fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

#[test]
fn what_is_read_from_outside_is_taken_or_refused() {
    ambit_fuzz::together(&[
        zds::requests,
        zds::answers,
        xds::addresses,
        xds::policies,
        headers::requests,
        headers::refusals,
        cni::calls,
        cni::events,
    ]);
}
