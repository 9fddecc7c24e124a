//! Who allocates, and what memory is in use.

use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

use super::encode::{Kind, Profile};
use super::modules::Modules;
use super::{aside, duration, refused};
use crate::admin::{Query, Reply};
use crate::sys::{HEAP_RATE, HeapSampler, allocator_bytes};

/// `/debug/pprof/heap?seconds=N`: what is allocated in the next N seconds, and what of it is held at their end.
pub async fn heap(query: Query) -> Reply {
    let limit = match duration(&query) {
        Ok(limit) => limit,
        Err(reply) => return reply,
    };
    let sampler = match HeapSampler::start() {
        Ok(sampler) => sampler,
        Err(error) => return refused(&error),
    };
    tokio::time::sleep(limit).await;
    aside(move || {
        let allocated = sampler.read();
        drop(sampler);
        let kinds = [("alloc_objects", "count"), ("alloc_space", "bytes"), ("inuse_objects", "count"), ("inuse_space", "bytes")];
        let kinds = kinds.map(|(name, unit)| Kind { name, unit });
        let mut profile = Profile::new(&kinds, Kind { name: "space", unit: "bytes" }, HEAP_RATE as i64);
        for (stack, all) in &allocated {
            profile.add(stack, &[all.objects, all.bytes, all.held_objects, all.held_bytes].map(|number| number as i64));
        }
        Ok(profile.finish(&Modules::load()?, SystemTime::now(), limit))
    })
    .await
}

/// `/debug/memory`: what memory the process uses, and what its allocator says of it; bytes.
pub fn memory(_: &Query) -> Reply {
    let allocator: BTreeMap<_, _> = allocator_bytes().into_iter().flatten().collect();
    // Written by the kernel as `Name: number kB`.
    let process: BTreeMap<String, u64> = fs::read_to_string("/proc/self/smaps_rollup")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let (name, size) = line.split_once(':')?;
            let kilobytes: u64 = size.trim().strip_suffix("kB")?.trim().parse().ok()?;
            Some((name.to_ascii_lowercase(), kilobytes * 1024))
        })
        .collect();
    Reply::json(&BTreeMap::from([("allocator", serde_json::json!(allocator)), ("process", serde_json::json!(process))]))
}
