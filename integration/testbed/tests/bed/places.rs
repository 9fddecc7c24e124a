//! Programs in nodes and pods.

use std::time::Duration;

use ambit_testbed::{Bed, BedConfig, Command, HostEntry, Output, PodSpec};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("a_program_sees_the_hosts_name_and_devices_of_its_pod", sees_its_pod),
        test("a_change_of_hosts_is_seen_by_a_running_program", hosts_change),
        test("a_program_can_be_signalled_waited_for_and_measured", signals_and_usage),
        test("output_goes_to_a_file_of_the_bed", output_to_file),
        test("temporary_files_are_made_in_memory", temporary_files),
        test("a_program_that_does_not_exist_is_named", missing_program),
        test("a_panic_inside_a_namespace_brings_the_thread_back", panic_inside),
    ]
}

async fn sees_its_pod() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let spec = PodSpec::new("shop", "web")
        .host("10.96.0.9".parse()?, ["storage", "storage.shop"])
        .resolv_conf("nameserver 10.96.0.10\n");
    let pod = node.add_pod(spec).await?;
    let seen = pod
        .run(Command::new("cat").args(["/etc/hosts", "/etc/resolv.conf", "/proc/sys/kernel/hostname", "/proc/net/dev"]))
        .await?;
    ensure!(seen.status.success(), "{}", seen.stderr);
    for line in [
        "127.0.0.1 localhost",
        "10.244.1.2 web",
        "fd44:0:0:1::2 web",
        "10.96.0.9 storage storage.shop",
        "nameserver 10.96.0.10",
        "web",
    ] {
        ensure!(seen.stdout.lines().any(|seen| seen == line), "no line {line:?} in {}", seen.stdout);
    }
    let devices: Vec<_> = seen.stdout.lines().filter_map(|line| line.trim().split_once(": ")).map(|(name, _)| name).collect();
    ensure!(devices.len() == 2 && devices.contains(&"lo") && devices.contains(&"eth0"), "{devices:?}");
    let outside = std::fs::read_to_string("/etc/hosts")?;
    ensure!(!outside.contains("storage.shop"), "the hosts file of the machine was changed");
    Ok(())
}

async fn hosts_change() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let pod = bed.add_node("node-1").await?.add_pod(PodSpec::new("shop", "web")).await?;
    let shell = pod.spawn(
        Command::new("sh").args(["-c", "while read line; do cat /etc/hosts; echo end; done"]).output(Output::Piped).stdin_piped(),
    )?;
    let (mut stdin, stdout) = (shell.take_stdin().context("stdin")?, shell.take_stdout().context("stdout")?);
    let mut lines = BufReader::new(stdout).lines();
    let long: Vec<_> = (0..50).map(|n| HostEntry::new([10, 96, 0, n].into(), [format!("service-{n}")])).collect();
    for entries in [&long[..], &long[3..4], &[]] {
        pod.set_hosts(entries)?;
        stdin.write_all(b"again\n").await?;
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await?.filter(|line| line != "end") {
            seen.push(line);
        }
        ensure!(seen.len() == 4 + entries.len(), "{seen:?}");
        ensure!(entries.iter().all(|entry| seen.contains(&format!("{} {}", entry.ip, entry.names[0]))), "{seen:?}");
    }
    Ok(())
}

async fn signals_and_usage() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let busy = node.spawn(Command::new("sh").name("busy").args(["-c", "while :; do :; done"]))?;
    ensure!(busy.name() == "busy" && node.processes().len() == 1);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let usage = busy.usage()?;
    ensure!(usage.cpu_seconds > 0.0 && usage.cpu_seconds < 2.0 && usage.rss_bytes > 100_000 && usage.threads == 1, "{usage:?}");
    busy.signal(Signal::SIGUSR1);
    ensure!(busy.wait().await.signal() == Some(Signal::SIGUSR1 as i32));
    ensure!(!busy.is_running() && node.processes().is_empty() && busy.usage().is_err());

    let stubborn = node.spawn(Command::new("sh").args(["-c", "trap '' TERM; echo up; sleep 1000"]).stdout(Output::Piped))?;
    let mut lines = BufReader::new(stubborn.take_stdout().context("stdout")?).lines();
    ensure!(lines.next_line().await?.as_deref() == Some("up"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (alone, both) = (stubborn.usage()?, stubborn.usage_with_children()?);
    ensure!(both.threads == alone.threads + 1 && both.rss_bytes > alone.rss_bytes, "{alone:?} {both:?}");
    ensure!(stubborn.stop(Duration::from_millis(50)).await.signal() == Some(Signal::SIGKILL as i32));
    Ok(())
}

async fn output_to_file() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let path = bed.dir().join("log");
    let status =
        node.spawn(Command::new("sh").args(["-c", "echo out; echo err >&2"]).output(Output::File(path.clone())))?.wait().await;
    ensure!(status.success());
    ensure!(std::fs::read_to_string(path)? == "out\nerr\n");
    Ok(())
}

async fn temporary_files() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let made = node.run(Command::new("mktemp")).await?.stdout;
    ensure!(made.starts_with(&format!("{}/", bed.dir().display())), "{made}");
    let told = node.run(Command::new("sh").args(["-c", "echo $TMPDIR"]).env("TMPDIR", "/elsewhere")).await?.stdout;
    ensure!(told == "/elsewhere\n", "{told}");
    drop(bed);
    ensure!(!std::path::Path::new(made.trim()).exists());
    Ok(())
}

async fn missing_program() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let error = node.spawn(Command::new("no-such-program")).err().context("it started")?;
    ensure!(error.to_string().contains("no-such-program"), "{error}");
    Ok(())
}

async fn panic_inside() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let home = ambit_runtime::netns::NetNs::current()?;
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.netns().run(|| std::panic::resume_unwind(Box::new("inside")))
    }));
    ensure!(caught.is_err());
    ensure!(ambit_runtime::netns::NetNs::current()? == home);
    let nested = node
        .netns()
        .run(|| home.run(ambit_runtime::netns::NetNs::current).map(|inner| (inner, ambit_runtime::netns::NetNs::current())))??;
    ensure!(nested.0? == home && nested.1? == *node.netns());
    Ok(())
}
