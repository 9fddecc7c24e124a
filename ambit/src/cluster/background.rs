//! `ambit cluster up --background`: a process of its own, until it is ready.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::args::UpArgs;
use super::place::ClusterPlace;
use crate::error::{Error, Result};

/// Pause between two looks whether it is ready.
const LOOK: Duration = Duration::from_millis(50);

/// Starts it, shows what it says until it is ready, and returns.
pub(super) fn run(args: &UpArgs) -> Result<()> {
    // Whatever is to be built is built here, where it can be seen and interrupted.
    ambit_cluster::cluster::check().map_err(super::failed)?;
    super::programs()?;
    let place = ClusterPlace::of(&args.cluster.name)?;
    let path = place.directory.with_extension("out");
    let failed = |cause| Error::path("making", &path, cause);
    let said = File::create(&path).map_err(failed)?;
    let mut shown = File::open(&path).map_err(failed)?;
    // Whatever it says later is read by nobody.
    std::fs::remove_file(&path).map_err(failed)?;

    let mut command = Command::new("/proc/self/exe");
    command.args(["cluster", "up", "--name", &place.name, "--nodes", &args.nodes.to_string()]);
    command.args(["--proxy", if args.proxy == super::args::Proxy::Iptables { "iptables" } else { "nftables" }]);
    if let Some(duration) = args.duration {
        command.arg("--for").arg(format!("{}s", duration.as_secs_f64()));
    }
    if args.bare {
        command.arg("--bare");
    }
    for image in &args.image {
        command.arg("--image").arg(image);
    }
    // In a process group of its own, Ctrl-C at this terminal is not for it.
    let errors = said.try_clone().map_err(failed)?;
    command.stdin(Stdio::null()).stdout(said).stderr(errors).process_group(0);
    super::on_one_thread(show(command, &place, &mut shown))
}

/// Starts the cluster's process, and shows what it says until it is ready.
async fn show(mut command: Command, place: &ClusterPlace, shown: &mut File) -> Result<()> {
    let stop = ambit_runtime::signal::shutdown().map_err(|error| Error::part("waiting for signals", error))?;
    tokio::pin!(stop);
    let mut child = command.spawn().map_err(|cause| Error::io("starting the cluster's process", cause))?;
    let mut stopped = false;
    loop {
        let ended = child.try_wait().map_err(|cause| Error::io("waiting for the cluster's process", cause))?;
        let ready = !stopped && place.is_ready(child.id());
        // Read after the look, so that nothing that it said before is missed.
        let mut text = Vec::new();
        shown.read_to_end(&mut text).map_err(|cause| Error::io("reading what the cluster's process says", cause))?;
        let _shown = std::io::stdout().write_all(&text);
        match ended {
            Some(_) if stopped => return Err(Error::NotReady("it was stopped before it was ready, and is gone".to_owned())),
            Some(status) => return Err(Error::NotReady(format!("the cluster's process ended ({status})"))),
            None if ready => {
                println!("It runs in the background; `ambit cluster down --name {}` ends it.", place.name);
                return Ok(());
            }
            None => {}
        }
        tokio::select! {
            // Whoever does not wait for it any more does not want it.
            _signal = &mut stop, if !stopped => {
                stopped = true;
                // It has not been waited for, so that nobody else has its number.
                let _already_gone = i32::try_from(child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
