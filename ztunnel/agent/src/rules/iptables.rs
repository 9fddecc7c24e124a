//! The rules through `iptables-restore`, for kernels without nftables. Chains of our own, reached by the first rule of the built-in ones.

use std::{io, os::fd::AsFd, process::Stdio, time::Duration};

use ambit_runtime::{
    netns::NetNs,
    socket::VOUCHED,
    sys::{Step, before_exec, xtables_info},
};
use nlink::netlink::nftables::Table;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::io::AsyncWriteExt;

use super::{
    nftables,
    table::{Action, Line, MASK, Match, Place},
};

/// How long one run of the program may take; another program may hold its lock.
const LIMIT: Duration = Duration::from_secs(5);
const IN: &str = "AMBIT_IN";
const OUT: &str = "AMBIT_OUT";
const TABLES: [&str; 4] = ["raw", "mangle", "nat", "filter"];

/// Which variant of the programs, by the part of their names after `ip` or `ip6`: each sees only the rules of its own kind.
pub(super) const VARIANTS: [&str; 3] = [OLDER, OVER_NFTABLES, "tables"];
const OLDER: &str = "tables-legacy";
/// The variant that writes rules of nftables.
pub(super) const OVER_NFTABLES: &str = "tables-nft";

/// Writes the rules in place of those that an earlier call wrote: each table whole or not at all.
pub(super) async fn install(variant: &str, netns: &NetNs, lines: &[Line]) -> io::Result<()> {
    for six in [false, true] {
        let there = run(variant, six, "save", netns, "").await?;
        run(variant, six, "restore", netns, &written(lines, six, &there)).await?;
    }
    nftables::wake(netns, dormant(variant, netns).await?).await.map_err(io::Error::other)
}

/// Removes the rules. That they are not there is no error.
pub(super) async fn remove(variant: &str, netns: &NetNs) -> io::Result<()> {
    for six in [false, true] {
        let there = run(variant, six, "save", netns, "").await?;
        let text = removal(&there);
        if !text.is_empty() {
            run(variant, six, "restore", netns, &text).await?;
        }
    }
    Ok(())
}

/// What the programs show of the rules, in a form that is equal where the rules are.
pub(super) async fn shown(variant: &str, netns: &NetNs) -> io::Result<Vec<String>> {
    let mut shown = Vec::new();
    for six in [false, true] {
        shown.extend(ours(&run(variant, six, "save", netns, "").await?).into_iter().map(|line| format!("{six} {line}")));
    }
    shown.extend(dormant(variant, netns).await?.into_iter().map(|table| format!("dormant: {:?} {}", table.family, table.name)));
    Ok(shown)
}

/// The tables whose rules are shown and do nothing; the older iptables has no such thing.
async fn dormant(variant: &str, netns: &NetNs) -> io::Result<Vec<Table>> {
    match variant {
        OLDER => Ok(Vec::new()),
        OVER_NFTABLES => nftables::dormant(netns, &TABLES).await.map_err(io::Error::other),
        // Of either kind; a kernel without nftables has none of its tables.
        _ => Ok(nftables::dormant(netns, &TABLES).await.unwrap_or_default()),
    }
}

/// What the kernel says of the tables without listing them: it differs when rules come, go or change their kind. Only the older iptables.
pub(super) fn outline(netns: &NetNs) -> io::Result<Vec<u8>> {
    let mut outline = Vec::new();
    for (six, family) in [(false, AddressFamily::INET), (true, AddressFamily::INET6)] {
        let socket = netns.run(|| socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP)))??;
        for table in TABLES {
            outline.extend(xtables_info(socket.as_fd(), six, table)?);
        }
    }
    Ok(outline)
}

/// Our lines of what `save` wrote, each with its table, and the first rule of each built-in chain that leads to ours: what comes
/// before it could let a packet pass.
fn ours(saved: &str) -> Vec<String> {
    let (mut table, mut shown) = ("", Vec::new());
    let mut begun: Vec<&str> = Vec::new();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            (table, begun) = (name, Vec::new());
        }
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let chain = rule.split(' ').next().unwrap_or_default();
        let first = !begun.contains(&chain);
        begun.push(chain);
        let jump = rule.ends_with(&format!("-j {IN}")) || rule.ends_with(&format!("-j {OUT}"));
        if [IN, OUT].contains(&chain) || (jump && first) {
            shown.push(format!("{table} {rule}"));
        }
    }
    shown
}

/// The jumps to our chains that `save` wrote, by table.
fn jumps<'a>(saved: &'a str, wanted: &'a str) -> impl Iterator<Item = &'a str> {
    let mut table = "";
    saved.lines().filter_map(move |line| {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let rule = line.strip_prefix("-A ")?;
        let ours = rule.ends_with(&format!("-j {IN}")) || rule.ends_with(&format!("-j {OUT}"));
        (table == wanted && ours).then_some(rule)
    })
}

fn written(lines: &[Line], six: bool, there: &str) -> String {
    let mut text = String::new();
    for table in TABLES {
        let mine: Vec<&Line> = lines.iter().filter(|line| place(line.place).0 == table).collect();
        if mine.is_empty() {
            continue;
        }
        text += &format!("*{table}\n:{IN} - [0:0]\n:{OUT} - [0:0]\n");
        jumps(there, table).for_each(|rule| text += &format!("-D {rule}\n"));
        for (into, ours) in
            [("PREROUTING", IN), ("OUTPUT", OUT)].into_iter().filter(|(into, _)| (table, *into) != ("filter", "PREROUTING"))
        {
            text += &format!("-I {into} 1 -j {ours}\n");
        }
        for line in mine.into_iter().filter(|line| line.six().is_none_or(|wanted| wanted == six)) {
            text += &format!("-A {}{}\n", place(line.place).1, rule(line));
        }
        text += "COMMIT\n";
    }
    text
}

fn removal(there: &str) -> String {
    let mut text = String::new();
    let mut table = "";
    for line in there.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        if line.starts_with(&format!(":{IN} ")) {
            text += &format!("*{table}\n:{IN} - [0:0]\n:{OUT} - [0:0]\n");
            jumps(there, table).for_each(|rule| text += &format!("-D {rule}\n"));
            text += &format!("-X {IN}\n-X {OUT}\nCOMMIT\n");
        }
    }
    text
}

fn place(place: Place) -> (&'static str, &'static str) {
    match place {
        Place::RawIn => ("raw", IN),
        Place::RawOut => ("raw", OUT),
        Place::MarkIn => ("mangle", IN),
        Place::MarkOut => ("mangle", OUT),
        Place::NatIn => ("nat", IN),
        Place::NatOut => ("nat", OUT),
        Place::Leave => ("filter", OUT),
    }
}

fn rule(line: &Line) -> String {
    let matches = line.matches.iter().map(|wanted| match wanted {
        Match::Mark(mark) => format!(" -m mark --mark {mark:#x}/{MASK:#x}"),
        Match::Vouched => format!(" -m mark --mark {VOUCHED:#x}/{VOUCHED:#x}"),
        Match::ConnectionMark(mark) => format!(" -m connmark --mark {mark:#x}/{MASK:#x}"),
        Match::From(ip, length) => format!(" -s {ip}/{length}"),
        Match::To(ip, length) => format!(" -d {ip}/{length}"),
        Match::OutLoopback => " -o lo".to_owned(),
        Match::ToOwn => " -m addrtype --dst-type LOCAL".to_owned(),
        // Written for that family alone.
        Match::Six => String::new(),
        Match::Tcp => " -p tcp".to_owned(),
        Match::Reset => " -p tcp -m tcp --tcp-flags RST RST".to_owned(),
        Match::TcpTo(port) => format!(" -p tcp -m tcp --dport {port}"),
        Match::TcpNotTo(port) => format!(" -p tcp -m tcp ! --dport {port}"),
        Match::UdpTo(port) => format!(" -p udp -m udp --dport {port}"),
        Match::UdpFrom(port) => format!(" -p udp -m udp --sport {port}"),
    });
    let action = match line.action {
        Action::Pass => " -j RETURN".to_owned(),
        Action::Redirect(port) => format!(" -j REDIRECT --to-ports {port}"),
        Action::MarkConnection(mark) => format!(" -j CONNMARK --set-xmark {mark:#x}/{MASK:#x}"),
        Action::MarkPacket(mark) => format!(" -j MARK --set-xmark {mark:#x}/{MASK:#x}"),
        Action::Zone(zone) => format!(" -j CT --zone {zone}"),
        Action::Refuse => " -j REJECT --reject-with tcp-reset".to_owned(),
    };
    matches.chain([action]).collect()
}

/// Runs `iptables-save` or `iptables-restore` in the namespace.
async fn run(variant: &str, six: bool, what: &str, netns: &NetNs, input: &str) -> io::Result<String> {
    let name = format!("{}{variant}-{what}", if six { "ip6" } else { "ip" });
    let mut command = tokio::process::Command::new(&name);
    if what == "restore" {
        command.args(["--noflush", "--wait", "4"]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    before_exec(command.as_std_mut(), vec![Step::EnterNetwork(netns.clone())]);
    let work = async {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("{name} did not end"));
    let output = tokio::time::timeout(LIMIT, work).await.map_err(late)??;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{name}: {}", said.lines().next().unwrap_or("failed without a word"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::table::{Capture, lines};

    #[test]
    fn what_is_written_again_first_takes_away_the_jumps_that_are_there() {
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:AMBIT_IN - [0:0]\n:AMBIT_OUT - [0:0]\n-A PREROUTING -j FOREIGN\n\
                     -A PREROUTING -j AMBIT_IN\n-A OUTPUT -j AMBIT_OUT\n-A AMBIT_OUT -j RETURN\nCOMMIT\n";
        let text = written(&lines(Capture { dns: false }), false, saved);
        assert!(text.contains("-D PREROUTING -j AMBIT_IN\n-D OUTPUT -j AMBIT_OUT\n-I PREROUTING 1 -j AMBIT_IN\n"), "{text}");
        assert!(!text.contains("*raw") && !text.contains("::1") && text.contains("-d 127.0.0.0/8 -j RETURN"), "{text}");
        // A foreign rule before ours is not ours whole.
        assert_eq!(ours(saved), ["nat OUTPUT -j AMBIT_OUT", "nat AMBIT_OUT -j RETURN"]);
        assert!(removal(saved).ends_with("-X AMBIT_IN\n-X AMBIT_OUT\nCOMMIT\n"));
        assert_eq!(removal("*nat\nCOMMIT\n"), "");
    }
}
