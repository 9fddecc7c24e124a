//! What is said of a connection is what becomes of it: the explanation, from the same state, against the proxies' own log.

mod random;

use std::net::SocketAddr;

use ambit_api::{security::Authorization, type_url, workload};
use ambit_model::{
    Reason,
    explain::{self, Carriage, Explanation, Question, StateAlone, Verdict},
};
use ambit_testbed::Pod;
use anyhow::{Context, ensure};
use fastrand::Rng;
use libtest_mimic::Trial;
use tokio::{net::TcpSocket, time::timeout};

use crate::{
    mesh::{Mesh, PATIENCE, echo, id_of, talk},
    observe::get,
    test,
    waypoint::waypoint,
};

/// How many states of the mesh are tried.
const WORLDS: u16 = 500;
/// The first of the ports from which connections are made, each from one of its own, by which the log tells of it. Below those that the
/// kernel gives to others.
const FIRST_PORT: u16 = 10_000;
/// The last number of service addresses.
const VIP: u8 = 10;
const GATEWAY: u8 = 9;
/// The policies that a world may have.
const POLICIES: [&str; 4] = ["p0", "p1", "p2", "p3"];

pub fn tests() -> Vec<Trial> {
    vec![test("what_is_explained_of_a_connection_is_what_becomes_of_it_in_500_random_worlds", worlds)]
}

/// The pods of all worlds.
struct Bed {
    mesh: Mesh,
    /// In the mesh, on the first node.
    web: Pod,
    /// Outside the mesh, on the first node.
    legacy: Pod,
    /// In the mesh: `near` on the first node, the others on the second.
    near: Pod,
    api: Pod,
    other: Pod,
    /// Outside the mesh, on the second node.
    plain: Pod,
}

async fn worlds() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let bed = Bed {
        web: mesh.pod(0, "web").await?,
        legacy: mesh.outsider(0, "legacy", true).await?,
        near: mesh.pod(0, "near").await?,
        api: mesh.pod(1, "api").await?,
        other: mesh.pod(1, "other").await?,
        plain: mesh.outsider(1, "plain", true).await?,
        mesh,
    };
    for pod in [&bed.near, &bed.api, &bed.other, &bed.plain] {
        drop(echo(pod, 8080)?);
    }
    // A port of the proxy's own, which outside the mesh is one like any other.
    drop(echo(&bed.plain, 15006)?);
    let gateway = bed.mesh.outsider(1, "gw", true).await?;
    let _asked = waypoint(&bed.mesh, &gateway, &id_of("gw"))?;
    bed.mesh.service("gw", &bed.mesh.vips(GATEWAY), &["gw"], |service| service.ports[0] = port(15008, 15008));
    let mut counts = [0_usize; 2];
    for number in 0..WORLDS {
        let mut dice = Rng::with_seed(number.into());
        bed.become_world(&mut dice, number);
        bed.settled(number).await.with_context(|| format!("world {number}"))?;
        for port in [FIRST_PORT + number, FIRST_PORT + WORLDS + number] {
            let (from, to, asked) = bed.connection(&mut dice);
            let carried = bed.agrees((from, port), to, &asked).await.with_context(|| format!("world {number}"))?;
            counts[usize::from(carried)] += 1;
        }
    }
    println!("{WORLDS} worlds: {} connections refused, {} carried, all as explained", counts[0], counts[1]);
    ensure!(counts.iter().all(|count| *count > 100), "the worlds are too much alike: {counts:?}");
    bed.mesh.bed.shutdown().await;
    Ok(())
}

/// A policy and a service that only this world has, as they are called.
fn markers(number: u16) -> [String; 2] {
    [format!("marker/world-{number}"), format!("shop/world-{number}.shop.svc.cluster.local")]
}

fn port(service_port: u32, target_port: u32) -> workload::Port {
    workload::Port { service_port, target_port, app_protocol: 0 }
}

impl Bed {
    /// Sends the proxies what makes this world of the one before it.
    fn become_world(&self, dice: &mut Rng, number: u16) {
        for name in ["web", "near", "api", "other", "plain"] {
            self.mesh.change(name, |workload| random::change(dice, &self.mesh, workload));
        }
        self.mesh.change("gw", |workload| workload.status = i32::from(dice.u8(..4) == 0));
        let endpoints: Vec<&str> = ["near", "api", "other", "plain"].into_iter().filter(|_| dice.bool()).collect();
        let (waypoint, balancing) = (random::which_waypoint(dice, &self.mesh), random::balancing(dice));
        self.mesh.service("api", &self.mesh.vips(VIP), &endpoints, |service| {
            service.waypoint = waypoint;
            service.load_balancing = balancing;
        });
        for name in POLICIES {
            match dice.u8(..3) {
                0 => self.mesh.put(type_url::AUTHORIZATION, &format!("shop/{name}"), &random::policy(dice, name)),
                _ => self.mesh.remove_policy(name),
            }
        }
        // Last, so that a proxy that has these and not those before has everything: what is removed is told after what is new.
        let name = format!("world-{number}");
        let marker = Authorization { name, namespace: "marker".to_owned(), scope: 2, ..Default::default() };
        self.mesh.put(type_url::AUTHORIZATION, &format!("marker/world-{number}"), &marker);
        self.mesh.service(&format!("world-{number}"), &[], &[], |_| {});
        if let Some([policy, service]) = number.checked_sub(1).map(markers) {
            self.mesh.remove(type_url::AUTHORIZATION, &policy);
            self.mesh.remove(type_url::ADDRESS, &service);
        }
    }

    /// Waits until both proxies are in this world.
    async fn settled(&self, number: u16) -> anyhow::Result<()> {
        let until = std::time::Instant::now() + 2 * PATIENCE;
        let named = |dump: &str, number: u16| markers(number).map(|name| dump.contains(&format!("\"{name}\"")));
        for node in [0, 1] {
            loop {
                let dump = get(&self.mesh, node, 15000, "/config_dump").await?;
                if named(&dump, number) == [true; 2]
                    && number.checked_sub(1).is_none_or(|before| named(&dump, before) == [false; 2])
                {
                    break;
                }
                ensure!(std::time::Instant::now() < until, "node {node} does not come into it");
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    /// Who connects to what, and a way to ask for it.
    fn connection(&self, dice: &mut Rng) -> (&Pod, SocketAddr, String) {
        let from = [&self.web, &self.web, &self.near, &self.legacy][dice.usize(..4)];
        let outside = from.name() == "legacy";
        let family = dice.usize(..2);
        // For those outside the mesh nothing in this bed translates the service's address.
        let (ip, port, names) = if outside || dice.bool() {
            let pod = [&self.api, &self.other, &self.plain][dice.usize(..3)];
            let port = if outside { 8080 } else { [8080, 8080, 8080, 15006][dice.usize(..4)] };
            (pod.ips()[family], port, vec![format!("shop/{}", pod.name())])
        } else {
            let names = ["api", "api.shop", "api.shop.svc.cluster.local"].map(str::to_owned).to_vec();
            (self.mesh.vips(VIP)[family], [80, 80, 80, 81][dice.usize(..4)], names)
        };
        let to = SocketAddr::new(ip, port);
        let asked = dice.choice(&names).filter(|_| dice.bool()).map_or_else(|| to.to_string(), |name| format!("{name}:{port}"));
        (from, to, asked)
    }

    /// Makes the connection, and compares what becomes of it with what is explained. Whether it was carried.
    async fn agrees(&self, (from, port): (&Pod, u16), to: SocketAddr, asked: &str) -> anyhow::Result<bool> {
        let question = Question::new(&format!("shop/{}", from.name()), asked)?;
        let explained = self.mesh.told.read(|mesh| explain::connection(mesh, &StateAlone, &question))?;
        self.proxy_says_so(from, asked, &explained).await?;
        let socket = from.netns().run(if to.is_ipv4() { TcpSocket::new_v4 } else { TcpSocket::new_v6 })??;
        let at = SocketAddr::new(from.ips()[usize::from(to.is_ipv6())], port);
        socket.bind(at)?;
        let answered = match timeout(PATIENCE, socket.connect(to)).await {
            Ok(Ok(stream)) => talk(stream, b"hello").await.is_ok(),
            Ok(Err(_)) | Err(_) => false,
        };
        let logged = self.logged(from, to, at, &explained).await?;
        let fits = |way: &explain::Way| match &logged {
            Some((reason, workload)) => {
                way.logged().map(Reason::label) == Some(reason.as_str())
                    && (way.to.is_none() || way.to.as_ref().is_some_and(|to| to.rsplit('/').next() == Some(workload)))
            }
            None => way.verdict == Verdict::Allowed,
        };
        ensure!(explained.ways.iter().any(fits), "{logged:?} and not as explained:\n{explained}");
        let carried = logged.is_none_or(|(reason, _)| reason == "ok");
        ensure!(carried == answered, "answered: {answered}\n{explained}");
        Ok(carried)
    }

    /// Asks the proxy that decides first, which knows no other ways than those that follow from what it was sent.
    async fn proxy_says_so(&self, from: &Pod, asked: &str, explained: &Explanation) -> anyhow::Result<()> {
        let node = usize::from(from.name() == "legacy");
        let page = get(&self.mesh, node, 15000, &format!("/explain?from=shop/{}&to={asked}", from.name())).await?;
        let mut page: serde_json::Value = serde_json::from_str(&page)?;
        let ways = |explanation: &mut serde_json::Value| -> Vec<serde_json::Value> {
            let ways = explanation["ways"].as_array_mut().map(std::mem::take).unwrap_or_default();
            let without_grounds = |mut way: serde_json::Value| {
                way.as_object_mut().map(|way| way.remove("steps"));
                way
            };
            ways.into_iter().map(without_grounds).collect()
        };
        let (said, follow) = (ways(&mut page["explanation"]), ways(&mut serde_json::to_value(explained)?));
        ensure!(!said.is_empty() && said.iter().all(|way| follow.contains(way)), "{}\nand not\n{explained}", page["text"]);
        Ok(())
    }

    /// The reason and the destination's workload in the log of the proxy that decides first; nothing where none decides.
    async fn logged(
        &self,
        from: &Pod,
        to: SocketAddr,
        at: SocketAddr,
        explained: &Explanation,
    ) -> anyhow::Result<Option<(String, String)>> {
        let outside = from.name() == "legacy";
        if outside && self.plain.ips().contains(&to.ip()) {
            return Ok(None);
        }
        let (node, direction) = if outside { (1, "direction=inbound") } else { (0, "direction=outbound") };
        let line = self.mesh.logged(node, &[direction, &format!(" src.addr={at} ")]).await;
        let line = line.with_context(|| explained.to_string())?;
        let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)).unwrap_or_default().to_owned();
        ensure!(explained.ways.iter().all(|way| way.carriage != Carriage::Nothing || way.to.is_none()), "{explained}");
        Ok(Some((field("reason="), field("dst.workload="))))
    }
}
