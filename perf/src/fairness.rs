//! Small requests beside a stream without end.

use crate::{
    bench::{Bench, NOISE, Shape, noise::Noise},
    figure::{FAIR_FULL, FAIR_PACED},
    paths::Path,
};

/// Gbit/s of the stream that leaves the processors time.
const PACED: &str = "1";

/// The 99th percentile of paced small requests alone, beside a stream at full speed and beside one of 1 Gbit/s. With ours, the stream
/// comes from another pod of the client's node and identity and so goes through the same tunnels; an Envoy is its pod's alone, so
/// there the stream comes from the client's pod. Another program serves it in the server's pod.
///
/// # Errors
/// When a load fails.
pub async fn measure(bench: &mut Bench, path: Path) -> anyhow::Result<()> {
    let small = Shape::new("paced", 16, bench.seconds);
    let alone = bench.quiet(path, &small).await?.sample.p99_ms.unwrap_or(f64::NAN);
    // The stream begins before the requests and ends after them.
    let stream = Shape::new("elephant", 1, bench.seconds + 1.0);
    for (figure, stream) in [(FAIR_FULL, stream.clone()), (FAIR_PACED, stream.with("--gbits", PACED))] {
        let pod = if path == Path::EnvoyTcp { "client" } else { "elephant" };
        let watch = Noise::begin()?;
        let elephant = bench.start(path, pod, &stream)?;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let beside = bench.load(path, &small).await?;
        let carried = bench.finish(elephant, &stream).await?;
        let others = watch.others(beside.cpu_seconds + carried.cpu_seconds)?;
        bench.results.taken += 1;
        let name = path.name();
        if others > NOISE {
            let percent = others * 100.0;
            bench.results.notes.push(format!("{name} {}: other processes used {percent:.0} % of the machine", figure.key));
        }
        bench.results.set(name, figure, bench.round, beside.p99_ms.unwrap_or(f64::NAN) / alone);
    }
    Ok(())
}
