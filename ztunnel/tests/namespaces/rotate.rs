//! Certificates and roots that change under load or are revoked, and a proxy that starts without the control plane.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ambit_api::security::{Action, Match, StringMatch, string_match::MatchType};
use ambit_testbed::Pod;
use ambit_tls::authority::{Authority, CERTIFICATE_FILE, FURTHER_ROOTS_FILE, KEY_FILE};
use anyhow::{Context, bail, ensure};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    child::CURRENT,
    load::Load,
    mesh::{Mesh, PATIENCE, call, call_until_it_works, echo, id_of, info_of},
    observe::get,
    test,
};

/// For what waits for a look at a file, and for a loaded machine.
const LONG: Duration = Duration::from_secs(90);

pub fn tests() -> Vec<Trial> {
    vec![
        test("roots_change_under_load_and_no_connection_fails", roots),
        test("a_proxy_that_starts_without_the_control_plane_serves_whom_it_knew_and_opens_nothing", kept),
        test("a_proxy_that_is_to_take_over_without_the_control_plane_stands_by_until_the_one_before_it_ends", stands_by),
        test("a_certificate_that_is_revoked_ends_its_connections_and_is_replaced", revoked),
        test("a_pod_that_comes_back_with_another_account_leaves_no_key_of_the_first", account),
    ]
}

async fn eventually(mesh: &Mesh, what: &str, mut holds: impl AsyncFnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let until = Instant::now() + LONG;
    while Instant::now() < until {
        if holds().await? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!("{what} did not come about:\n{}\n{}", mesh.program_log(0), mesh.program_log(1))
}

/// How many certificates each proxy has obtained.
fn obtained(mesh: &Mesh) -> [usize; 2] {
    [0, 1].map(|node| mesh.program_log(node).matches("certificate obtained").count())
}

/// Writes a file in one step.
fn replace(path: &Path, content: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    Ok(fs::rename(new, path)?)
}

async fn roots() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let ca = mesh.bed.dir().join("ca");
    let second = Authority::load_or_create(&ca.join("second"), &"cluster.local".parse()?)?;
    // The three steps: the next root is believed, it signs, the first one is gone.
    for (step, home, further) in
        [("both", ca.clone(), Some(second.root_pem())), ("signs", ca.join("second"), Some(mesh.authority.root_pem()))]
    {
        fs::create_dir_all(ca.join(step))?;
        for file in [KEY_FILE, CERTIFICATE_FILE] {
            fs::copy(home.join(file), ca.join(step).join(file))?;
        }
        if let Some(further) = further {
            fs::write(ca.join(step).join(FURTHER_ROOTS_FILE), further)?;
        }
    }
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    let mut open = client.connect(to).await?;
    open.write_all(b"from the first to ").await?;
    let both: Vec<_> = server.ips().into_iter().map(|ip| SocketAddr::new(ip, 8080)).collect();
    let load = Load::start(&client, &both, 8);
    let begun = Instant::now();
    for step in ["both", "signs", "second"] {
        let before = obtained(&mesh);
        replace(&ca.join(CURRENT), step)?;
        // What tells the proxies to ask at once, and not at half-life.
        replace(&mesh.bed.dir().join("roots.pem"), step)?;
        eventually(&mesh, step, async || Ok(obtained(&mesh).iter().zip(before).all(|(now, before)| *now > before))).await?;
        for node in [0, 1] {
            let count = |told| mesh.program_log(node).matches(told).count();
            let seen = (count("roots=1"), count("roots=2"));
            ensure!(seen == if step == "second" { (2, 1) } else { (1, 1) }, "{step}: {}", mesh.program_log(node));
        }
        let counts = load.during(Duration::from_secs(1)).await;
        ensure!(counts.well > 0, "{step}: {counts:?}");
    }
    let counts = load.between(begun, Instant::now());
    println!("{counts:?} over three changes of roots");
    ensure!(counts.failed == 0 && counts.well > 300, "{counts:?}");
    // A connection that was open all the time goes on.
    open.write_all(b"the last").await?;
    open.shutdown().await?;
    let mut answer = String::new();
    open.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("from the first to the lastbye"), "{answer}");
    mesh.bed.shutdown().await;
    Ok(())
}

/// Where the proxy of `node` keeps its state.
fn state_of(mesh: &Mesh, node: usize) -> PathBuf {
    mesh.nodes[node].node.dir().join("state/mesh-state")
}

/// Whether the state that `node` keeps has all these names in it.
fn keeps(mesh: &Mesh, node: usize, names: &[&str]) -> bool {
    let kept = fs::read(state_of(mesh, node)).unwrap_or_default();
    names.iter().all(|name| kept.windows(name.len()).any(|part| part == name.as_bytes()))
}

async fn restart(mesh: &mut Mesh, meanwhile: impl Fn(&Mesh) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for number in [0, 1] {
        if let Some(proxy) = mesh.nodes[number].proxy.take() {
            proxy.kill();
            proxy.wait().await;
        }
    }
    meanwhile(mesh)?;
    for number in [0, 1] {
        mesh.start_proxy(number).await?;
    }
    Ok(())
}

async fn refused(pod: &Pod, to: SocketAddr) -> bool {
    // A connection that is refused before it stands ends in many ways; none of them is an answer.
    !call(pod, to, b"let me in").await.is_ok_and(|(_, answer)| answer.ends_with(b"bye"))
}

async fn kept() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_adding(|_, node| vec!["--state-dir".into(), node.join("state").into()]).await?;
    let (client, other, server) = (mesh.pod(0, "web").await?, mesh.pod(0, "other").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    let suffix = StringMatch { match_type: Some(MatchType::Suffix("/sa/other".to_owned())) };
    mesh.policy("no-other", Action::Deny, vec![Match { principals: vec![suffix], ..Default::default() }]);
    call_until_it_works(&client, to, PATIENCE).await?;
    mesh.logged_by_calling(&other, to, 1, &["reason=policy_denied_explicit "]).await?;
    for node in [0, 1] {
        let names = ["shop/no-other", "Pod/shop/web", "Pod/shop/other", "Pod/shop/api"];
        eventually(&mesh, "the state on disk", async || Ok(keeps(&mesh, node, &names))).await?;
    }
    mesh.stop_control_plane().await;
    restart(&mut mesh, |_| Ok(())).await?;
    call_until_it_works(&client, to, LONG).await?;
    for _ in 0..5 {
        ensure!(refused(&other, to).await, "what a policy had closed was opened");
    }
    let shown = get(&mesh, 1, 15000, "/kept_state").await?;
    ensure!(shown.contains("\"in_use\": true") && shown.contains("age_seconds"), "{shown}");
    // A damaged one is none: everything waits.
    restart(&mut mesh, |mesh| {
        for node in [0, 1] {
            let path = state_of(mesh, node);
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes)?;
        }
        Ok(())
    })
    .await?;
    for pod in [&client, &other] {
        ensure!(refused(pod, to).await, "a damaged state was used");
    }
    mesh.start_control_plane().await?;
    call_until_it_works(&client, to, LONG).await?;
    ensure!(refused(&other, to).await, "what a policy has closed was opened");
    eventually(&mesh, "a new file", async || Ok(keeps(&mesh, 1, &["shop/no-other"]))).await?;
    eventually(&mesh, "the control plane", async || Ok(get(&mesh, 1, 15000, "/kept_state").await?.contains("\"in_use\": false")))
        .await?;
    mesh.bed.shutdown().await;
    Ok(())
}

async fn stands_by() -> anyhow::Result<()> {
    let mut mesh = Mesh::start_adding(|_, node| vec!["--state-dir".into(), node.join("state").into()]).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    call_until_it_works(&client, to, PATIENCE).await?;
    eventually(&mesh, "the state on disk", async || Ok(keeps(&mesh, 0, &["Pod/shop/web", "Pod/shop/api"]))).await?;
    mesh.stop_control_plane().await;
    let mut open = client.connect(to).await?;
    open.write_all(b"from the first to ").await?;
    let old = mesh.nodes[0].proxy.take().context("no proxy")?;
    mesh.start_proxy(0).await?;
    eventually(&mesh, "another proxy", async || Ok(mesh.program_log(0).contains("a kept state was read"))).await?;
    // Longer than it waits for the control plane. It listens beside the old one as soon as it takes the pods.
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let answered = tokio::time::timeout(PATIENCE, call(&client, to, b"hello")).await;
        answered.context("never answered")?.context("the proxy that is to stand by has a part of the connections")?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let proxies = *mesh.nodes[0].agent.proxies().borrow();
    ensure!(proxies == 1, "{proxies} proxies have taken the pods");
    open.write_all(b"the last").await?;
    open.shutdown().await?;
    let mut answer = String::new();
    open.read_to_string(&mut answer).await?;
    ensure!(answer.ends_with("from the first to the lastbye"), "{answer}");
    old.stop(LONG).await;
    call_until_it_works(&client, to, LONG).await?;
    let shown = get(&mesh, 0, 15000, "/kept_state").await?;
    ensure!(shown.contains("\"in_use\": true") && shown.contains("\"writes\": true"), "{shown}");
    mesh.bed.shutdown().await;
    Ok(())
}

/// The identities that `node` has a certificate of, and their serial numbers.
async fn certificates(mesh: &Mesh, node: usize) -> anyhow::Result<Vec<(String, String)>> {
    let read: serde_json::Value = serde_json::from_str(&get(mesh, node, 15000, "/config_dump").await?)?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let held = read["certificates"].as_array().cloned().unwrap_or_default();
    Ok(held.iter().filter_map(|held| Some((text(&held["identity"])?, text(&held["serial"])?))).collect())
}

async fn revoked() -> anyhow::Result<()> {
    let mesh = Mesh::start_adding(|bed, _| vec!["--crl".into(), bed.join("crl.pem").into()]).await?;
    let (client, server) = (mesh.pod(0, "web").await?, mesh.pod(1, "api").await?);
    let _echo = echo(&server, 8080)?;
    let to = SocketAddr::new(server.ip(), 8080);
    // Without a list nobody is believed.
    mesh.logged_by_calling(&client, to, 0, &["reason=peer_revocation_unknown "]).await?;
    let revoke =
        |serials: &[&str]| replace(&mesh.bed.dir().join("crl.pem"), &mesh.authority.revocation_list(serials, LONG * 100)?);
    revoke(&[])?;
    call_until_it_works(&client, to, LONG).await?;
    // Whose certificate it is, and who notices that of the other end.
    for (owner, other) in [(0, 1), (1, 0)] {
        let mut open = client.connect(to).await?;
        open.write_all(b"hello").await?;
        let mut greeting = [0; 8];
        open.read_exact(&mut greeting).await?;
        let before = certificates(&mesh, owner).await?;
        revoke(&[&before[0].1])?;
        let mut answer = String::new();
        // It ends, in order or not, before the client has said that it is done.
        let _either_way = tokio::time::timeout(LONG, open.read_to_string(&mut answer)).await.context("the connection goes on")?;
        ensure!(!answer.contains("bye"), "{answer}");
        let noticed = || match other {
            1 => mesh.logged_now(1, &["reason=peer_revoked "]).is_some(),
            _ => mesh.program_log(0).contains("because their peers' certificates are revoked"),
        };
        eventually(&mesh, "the reason", async || Ok(noticed())).await?;
        // Its proxy knows too, and has asked for another one.
        call_until_it_works(&client, to, LONG).await?;
        ensure!(certificates(&mesh, owner).await?[0].1 != before[0].1);
    }
    mesh.bed.shutdown().await;
    Ok(())
}

async fn account() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let pod = mesh.pod(0, "web").await?;
    let identities = async || -> anyhow::Result<Vec<String>> {
        Ok(certificates(&mesh, 0).await?.into_iter().map(|(identity, _)| identity).collect())
    };
    // Nobody has connected: it was fetched when the pod was captured.
    eventually(&mesh, "the certificate", async || Ok(identities().await? == [id_of("web")])).await?;
    let mut info = info_of(&pod);
    info.service_account = "other".parse()?;
    mesh.nodes[0].agent.add(info, pod.netns().clone()).await?;
    eventually(&mesh, "the other certificate alone", async || Ok(identities().await? == [id_of("other")])).await?;
    mesh.bed.shutdown().await;
    Ok(())
}
