//! Runs the body of a test in a process of its own, where its memory can be measured.

use std::{env, fs, process::Command};

const MARK: &str = "TORTURE_ALONE";

/// Runs `body` in a new process whose one test is `name` (its path in this binary), and passes its failure on.
pub fn alone<F: Future<Output = ()>>(name: &str, body: F) {
    if env::var_os(MARK).is_some() {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
        println!("{name}: {} KiB now, {} KiB at most", resident("VmRSS"), resident("VmHWM"));
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        // One arena, so that what was freed is used again whichever thread asks.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    assert!(told.contains("1 passed"), "the test did not run by itself: {told}");
    println!("{told}");
}

/// A line of this process's status, in KiB.
pub fn resident(line: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}
