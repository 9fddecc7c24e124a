//! Small requests beside a stream without end.

use std::time::Duration;

use crate::{
    bench::{Bench, Shape, noise::Noise},
    figure::{FAIR_FULL, FAIR_PACED},
    paths::Path,
};

/// Gbit/s of the stream that leaves the processors time.
const PACED: &str = "1";

/// How long the stream runs before the requests begin.
const HEAD_START: Duration = Duration::from_millis(200);

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
        let what = format!("{} {}", path.name(), figure.key);
        let p99 = bench.quietest(&what, async |bench: &Bench| beside(bench, path, &small, &stream).await).await?;
        bench.results.set(path.name(), figure, bench.round, p99 / alone);
    }
    Ok(())
}

/// The 99th percentile of small requests beside a stream, and the noise meanwhile.
async fn beside(bench: &Bench, path: Path, small: &Shape, stream: &Shape) -> anyhow::Result<(f64, f64)> {
    let pod = if path == Path::EnvoyTcp { "client" } else { "elephant" };
    let watch = Noise::begin()?;
    let elephant = bench.start(path, pod, stream)?;
    tokio::time::sleep(HEAD_START).await;
    let requests = bench.load(path, small).await?;
    let carried = bench.finish(elephant, stream).await?;
    let others = watch.others(requests.cpu_seconds + carried.cpu_seconds)?;
    Ok((requests.p99_ms.unwrap_or(f64::NAN), others))
}
