//! The handover, byte by byte (wire contract, section 5), and with several proxies at once.

use std::{io::IoSliceMut, mem::MaybeUninit, os::fd::OwnedFd, path::Path};

use ambit_node_agent::{
    Agent, PodInfo,
    rules::{Choice, Rules, table::Capture},
};
use ambit_runtime::netns::NetNs;
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    connect, recvmsg, send, socket_with, sockopt,
};

use crate::{
    proxy::Proxy,
    talk::first_line,
    test,
    world::{PATIENCE, World},
};

pub fn tests() -> Vec<Trial> {
    vec![
        test("the_handover_is_byte_by_byte_what_other_proxies_speak", bytes),
        test("a_new_pod_goes_to_the_newest_proxy_and_is_taken_from_all", rolling),
        test("a_proxy_that_does_not_answer_is_given_up_for_the_one_before_it", mute),
        test("what_is_no_proxy_of_a_known_version_gets_no_pod", strangers),
        test("an_older_proxy_is_told_that_a_pod_has_another_sandbox", anew),
        test("a_proxy_that_stops_listening_is_given_the_pod_again", deaf),
    ]
}

/// The other end of the socket without any code of the workspace: system calls and bytes.
struct Raw(OwnedFd);

impl Raw {
    fn connect(path: &Path) -> anyhow::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(socket))
    }

    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        ensure!(send(&self.0, bytes, SendFlags::NOSIGNAL)? == bytes.len());
        Ok(())
    }

    /// One packet and its descriptors; no bytes at the end.
    fn receive(&self) -> anyhow::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut bytes = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        bytes.truncate(received.bytes);
        let descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        Ok((bytes, descriptors.collect()))
    }

    fn expect(&self, wanted: &[u8], descriptors: usize) -> anyhow::Result<Vec<OwnedFd>> {
        let (bytes, found) = self.receive()?;
        ensure!(bytes == wanted, "{bytes:02x?} is not {wanted:02x?}");
        ensure!(found.len() == descriptors, "{} descriptors, not {descriptors}", found.len());
        Ok(found)
    }
}

/// A field of a message whose content is bytes: a tag of one byte, a length of one byte.
fn field(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[number << 3 | 2, u8::try_from(content.len()).unwrap()], content.as_slice()].concat()
}

const HELLO: [u8; 2] = [8, 1];

async fn bytes() -> anyhow::Result<()> {
    let world = World::start().await?;
    world.object("web", Some("ambient"), false)?;
    let pod = world.sandbox("web").await?;
    // Known before any proxy is: it comes with the snapshot.
    let (started, proxy) = tokio::join!(world.plugin("ADD", "web"), async {
        world.until_state("web", "pending").await?;
        let path = world.path("zds.sock");
        tokio::task::spawn_blocking(move || snapshot(&Raw::connect(&path)?)).await?
    });
    let (netns, raw) = proxy?;
    ensure!(started?.1, "the pod does not start: {}", world.log());
    ensure!(NetNs::from_fd(netns)? == *pod.netns(), "it is another namespace");
    world.object("web", None, false)?;
    tokio::task::spawn_blocking(move || {
        raw.expect(&field(2, &[&field(2, &[b"uid-web"])]), 0)?;
        raw.send(&field(1, &[]))
    })
    .await??;
    world.until("web", "released", |status| status.is_none()).await?;
    world.bed.shutdown().await;
    Ok(())
}

fn snapshot(raw: &Raw) -> anyhow::Result<(OwnedFd, Raw)> {
    raw.send(&HELLO)?;
    let info = field(2, &[&field(1, &[b"web"]), &field(2, &[b"shop"]), &field(3, &[b"web"])]);
    let add = field(1, &[&field(1, &[b"uid-web"]), &info]);
    let netns = raw.expect(&add, 1)?.pop().context("no namespace")?;
    raw.send(&field(1, &[]))?;
    raw.expect(&field(3, &[]), 0)?;
    raw.send(&field(1, &[]))?;
    Ok((netns, Raw(raw.0.try_clone()?)))
}

async fn rolling() -> anyhow::Result<()> {
    let world = World::start().await?;
    let old = world.proxy("old").await?;
    let first = world.pod("first").await?;
    let new = world.proxy("new").await?;
    let heard = new.heard();
    ensure!(heard == ["add uid-first", "snapshot"], "{heard:?}");
    let second = world.pod("second").await?;
    let heard = (old.heard(), new.heard());
    ensure!(heard.0 == ["snapshot", "add uid-first"] && heard.1.last().is_some_and(|last| last == "add uid-second"), "{heard:?}");
    ensure!(first_line(&second, world.far()[0]).await?.starts_with("outbound by new"));
    world.object("first", None, false)?;
    old.wait_for("del uid-first").await?;
    new.wait_for("del uid-first").await?;
    world.until_first_line(&first, "application sees").await?;
    // The newest goes: the one before it gets what it never had, and nothing else.
    drop(new);
    old.wait_for("add uid-second").await?;
    world.until_state("second", "captured").await?;
    ensure!(first_line(&second, world.far()[1]).await?.starts_with("outbound by old"));
    let heard = old.heard();
    ensure!(heard == ["snapshot", "add uid-first", "del uid-first", "add uid-second"], "{heard:?}");
    world.bed.shutdown().await;
    Ok(())
}

async fn mute() -> anyhow::Result<()> {
    let world = World::start().await?;
    let old = world.proxy("old").await?;
    let path = world.path("zds.sock");
    let raw = tokio::task::spawn_blocking(move || {
        let raw = Raw::connect(&path)?;
        raw.send(&HELLO)?;
        raw.expect(&field(3, &[]), 0)?;
        raw.send(&field(1, &[]))?;
        anyhow::Ok(raw)
    })
    .await??;
    world.object("web", Some("ambient"), false)?;
    let pod = world.sandbox("web").await?;
    // It is asked, found to hang, and given up; the pod waits for that and starts when the other one has it.
    let (printed, well) = world.plugin("ADD", "web").await?;
    ensure!(well, "{printed}\n{}", world.log());
    ensure!(old.heard().iter().any(|heard| heard == "add uid-web"), "it started before a proxy had it");
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by old"));
    drop(raw);
    world.bed.shutdown().await;
    Ok(())
}

async fn strangers() -> anyhow::Result<()> {
    let world = World::start().await?;
    let good = world.proxy("good").await?;
    let _pod = world.pod("web").await?;
    for hello in [&[8, 2][..], b"GET / HTTP/1.1\r\n\r\n", &[0; 2000], &[255; 4]] {
        let path = world.path("zds.sock");
        let hello = hello.to_vec();
        let answer = tokio::task::spawn_blocking(move || {
            let raw = Raw::connect(&path)?;
            raw.send(&hello)?;
            raw.receive()
        });
        let (bytes, descriptors) = answer.await??;
        ensure!(bytes.is_empty() && descriptors.is_empty(), "it got {bytes:?}");
    }
    let _late = world.pod("late").await?;
    good.wait_for("add uid-late").await?;
    world.bed.shutdown().await;
    Ok(())
}

async fn anew() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("zds.sock");
    let agent = Agent::listen(&socket, Rules::new(Choice::Nftables, Capture::default()))?;
    let info =
        PodInfo { uid: "u".to_owned(), name: "web".to_owned(), namespace: "shop".parse()?, service_account: "web".parse()? };
    let old = Proxy::connect(&socket, "old").await?;
    old.wait_for("snapshot").await?;
    agent.add(info.clone(), NetNs::create()?).await?;
    let new = Proxy::connect(&socket, "new").await?;
    new.wait_for("snapshot").await?;
    agent.add(info, NetNs::create()?).await?;
    old.wait_for("del u").await?;
    ensure!(old.heard() == ["snapshot", "add u", "del u"], "{:?}", old.heard());
    ensure!(new.heard() == ["add u", "snapshot", "add u"], "{:?}", new.heard());
    Ok(())
}

async fn deaf() -> anyhow::Result<()> {
    let world = World::start().await?;
    let proxy = world.proxy("p").await?;
    let pod = world.pod("web").await?;
    world.until_state("web", "captured").await?;
    proxy.go_deaf("uid-web");
    world.until_state("web", "pending").await?;
    world.until_state("web", "captured").await?;
    let heard = proxy.heard();
    ensure!(heard == ["snapshot", "add uid-web", "del uid-web", "add uid-web"], "{heard:?}");
    ensure!(first_line(&pod, world.far()[0]).await?.starts_with("outbound by p"));
    world.bed.shutdown().await;
    Ok(())
}
