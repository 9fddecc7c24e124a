//! Who reaches whom.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use ambit_runtime::socket::{self, ConnectOptions, ListenOptions, PROXY_MARK};
use ambit_testbed::{Bed, BedConfig, Families, Place, PodSpec, Protocol, ServiceRule};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("pods_of_two_nodes_reach_each_other_over_ipv4_and_ipv6", pods_reach_each_other),
        test("in_a_bed_of_ipv6_alone_there_is_no_ipv4", ipv6_alone),
        test("a_pod_of_ipv6_alone_lives_beside_others", ipv6_pod),
        test("pods_of_one_node_reach_each_other", pods_of_one_node),
        test("pods_reach_the_control_plane", pods_reach_the_control_plane),
        test("a_service_address_reaches_every_endpoint_and_changes_at_once", service_addresses),
        test("a_service_address_without_endpoints_refuses", service_without_endpoints),
        test("a_connection_to_a_neighbour_by_a_service_address_goes_on", neighbour_by_service_address),
        test("a_service_address_carries_udp", udp_service),
        test("a_pod_reaches_itself_through_a_service_address", hairpin),
        test("an_unplugged_node_is_not_reached", unplugged),
        test("a_connection_can_keep_a_foreign_source_address", foreign_source),
        test("a_removed_pod_is_gone_and_its_name_is_free", removed_pod),
    ]
}

/// A server that answers each connection with its own name and the address of the client, until the runtime ends.
pub fn serve(place: &Place, address: IpAddr, port: u16, name: &str) -> anyhow::Result<SocketAddr> {
    let listener = place.listen(SocketAddr::new(address, port))?;
    let (address, name) = (listener.local_addr()?, name.to_owned());
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = listener.accept().await {
            let answer = format!("{name} {}", socket::canonical(peer).ip());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    Ok(address)
}

async fn read(mut stream: TcpStream) -> anyhow::Result<String> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Connects and checks what the server says it sees.
async fn check(from: &Place, to: SocketAddr, expected: &str) -> anyhow::Result<()> {
    let stream = from.connect(to).await.with_context(|| format!("connect to {to}"))?;
    let answer = read(stream).await?;
    ensure!(answer == expected, "{to} answered {answer:?}, not {expected:?}");
    Ok(())
}

async fn pods_reach_each_other() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let one = bed.add_node("node-1").await?;
    let two = bed.add_node("node-2").await?;
    let client = one.add_pod(PodSpec::new("shop", "client")).await?;
    let server = two.add_pod(PodSpec::new("shop", "server")).await?;
    ensure!(client.ips()[0].to_string() == "10.244.1.2" && server.ips()[1].to_string() == "fd44:0:0:2::2");
    for (to, from) in [(server.ips()[0], client.ips()[0]), (server.ips()[1], client.ips()[1])] {
        let address = serve(&server, to, 80, "server")?;
        check(&client, address, &format!("server {from}")).await?;
        check(&one, address, &format!("server {}", if to.is_ipv4() { one.ips()[0] } else { one.ips()[1] })).await?;
    }
    Ok(())
}

async fn ipv6_alone() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig { families: Families::Ipv6, ..BedConfig::default() }).await?;
    let (one, two) = (bed.add_node("node-1").await?, bed.add_node("node-2").await?);
    let plane = bed.control_plane().await?;
    let client = one.add_pod(PodSpec::new("shop", "client")).await?;
    let server = two.add_pod(PodSpec::new("shop", "server")).await?;
    for to in [&*server, &**plane, &*two] {
        ensure!(to.ips().len() == 1 && to.ip().is_ipv6(), "{:?}", to.ips());
        check(&client, serve(to, to.ip(), 0, "server")?, &format!("server {}", client.ip())).await?;
    }
    let vip: IpAddr = "fd96::7".parse()?;
    one.set_services(&[ServiceRule::tcp(vip, 80, [serve(&server, server.ip(), 80, "server")?])]).await?;
    check(&client, (vip, 80).into(), &format!("server {}", client.ip())).await?;
    for place in [&*one, &*client] {
        for to in ["10.244.2.2:80", "172.30.0.2:80", "10.96.0.7:80"] {
            let error = place.connect(to.parse()?).await.err().context("IPv4 leads somewhere")?;
            ensure!(error.kind() == std::io::ErrorKind::NetworkUnreachable, "{to}: {error}");
        }
    }
    Ok(())
}

async fn ipv6_pod() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let both = node.add_pod(PodSpec::new("shop", "both")).await?;
    let alone = node.add_pod(PodSpec::new("shop", "alone").families(Families::Ipv6)).await?;
    ensure!(alone.ips().len() == 1 && alone.ip().is_ipv6(), "{:?}", alone.ips());
    check(&both, serve(&alone, alone.ip(), 80, "alone")?, &format!("alone {}", both.ips()[1])).await?;
    check(&alone, serve(&both, both.ips()[1], 80, "both")?, &format!("both {}", alone.ip())).await?;
    ensure!(alone.connect((both.ip(), 80).into()).await.is_err(), "it has IPv4");
    Ok(())
}

async fn pods_of_one_node() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let client = node.add_pod(PodSpec::new("shop", "client")).await?;
    let server = node.add_pod(PodSpec::new("shop", "server")).await?;
    for (to, from) in server.ips().into_iter().zip(client.ips()) {
        let address = serve(&server, to, 80, "server")?;
        check(&client, address, &format!("server {from}")).await?;
        check(&server, address, &format!("server {to}")).await?;
    }
    Ok(())
}

async fn pods_reach_the_control_plane() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let plane = bed.control_plane().await?;
    let late = bed.add_node("node-2").await?;
    for from in [node.add_pod(PodSpec::new("a", "x")).await?, late.add_pod(PodSpec::new("a", "x")).await?] {
        for (to, ip) in plane.ips().into_iter().zip(from.ips()) {
            check(&from, serve(plane, to, 0, "plane")?, &format!("plane {ip}")).await?;
        }
    }
    ensure!(plane.ips().iter().map(ToString::to_string).eq(["172.30.0.100", "fd30::100"]));
    Ok(())
}

async fn service_addresses() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let one = bed.add_node("node-1").await?;
    let two = bed.add_node("node-2").await?;
    let client = one.add_pod(PodSpec::new("shop", "client")).await?;
    let near = one.add_pod(PodSpec::new("shop", "near")).await?;
    let far = two.add_pod(PodSpec::new("shop", "far")).await?;
    let vips: [IpAddr; 2] = ["10.96.0.7".parse()?, "fd96::7".parse()?];
    let mut rules = Vec::new();
    for (family, vip) in vips.into_iter().enumerate() {
        let endpoints = [serve(&near, near.ips()[family], 8080, "near")?, serve(&far, far.ips()[family], 9090, "far")?];
        rules.push(ServiceRule::tcp(vip, 80, endpoints));
    }
    one.set_services(&rules).await?;
    for (vip, from) in vips.into_iter().zip(client.ips()) {
        let mut answers: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..60 {
            *answers.entry(read(client.connect((vip, 80).into()).await?).await?).or_default() += 1;
        }
        let counts: Vec<_> = ["near", "far"].map(|name| answers.get(&format!("{name} {from}")).copied().unwrap_or(0)).into();
        // Each of 60 falls on either with equal chance: fewer than 10 on one side is a chance of 1 in 10^7.
        ensure!(counts.iter().sum::<u32>() == 60 && counts.iter().all(|count| *count >= 10), "{vip}: {answers:?}");
    }
    // Programs on the node itself, too.
    ensure!(read(one.connect((vips[0], 80).into()).await?).await?.starts_with(['n', 'f']));

    for rule in &mut rules {
        rule.endpoints.truncate(1);
    }
    one.set_services(&rules).await?;
    for (vip, from) in vips.into_iter().zip(client.ips()) {
        for _ in 0..10 {
            check(&client, (vip, 80).into(), &format!("near {from}")).await?;
        }
    }
    Ok(())
}

async fn neighbour_by_service_address() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let client = node.add_pod(PodSpec::new("shop", "client")).await?;
    let server = node.add_pod(PodSpec::new("shop", "server")).await?;
    let vips: [IpAddr; 2] = ["10.96.0.7".parse()?, "fd96::7".parse()?];
    let endpoints: Vec<_> = server.ips().into_iter().map(|ip| SocketAddr::new(ip, 8080)).collect();
    node.set_services(&vips.map(|vip| ServiceRule::tcp(vip, 80, endpoints.clone()))).await?;
    for (vip, endpoint) in vips.into_iter().zip(endpoints) {
        let listener = server.listen(endpoint)?;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        let mut stream = client.connect((vip, 80).into()).await?;
        for turn in 0..50 {
            stream.write_u8(turn).await?;
            let answer = tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await;
            ensure!(answer.with_context(|| format!("{vip}: no answer to {turn}"))?? == turn);
            // What the node tells of other ways takes a moment to have an effect.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

async fn service_without_endpoints() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let client = node.add_pod(PodSpec::new("shop", "client")).await?;
    for vip in ["10.96.1.1".parse()?, "fd96::1".parse::<IpAddr>()?] {
        node.set_services(&[ServiceRule::tcp(vip, 80, [])]).await?;
        for place in [&*client, &*node] {
            let error = place.connect((vip, 80).into()).await.err().context("connected to nothing")?;
            ensure!(error.kind() == std::io::ErrorKind::ConnectionRefused, "{vip}: {error}");
        }
    }
    Ok(())
}

async fn udp_service() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let client = node.add_pod(PodSpec::new("shop", "client")).await?;
    let server = node.add_pod(PodSpec::new("shop", "dns")).await?;
    for (vip, family) in [("10.96.0.10".parse::<IpAddr>()?, 0), ("fd96::10".parse()?, 1)] {
        let bind = |place: &Place| place.netns().run(|| UdpSocket::bind((place.ips()[family], 0)));
        let (asker, answerer) = (bind(&client)??, bind(&server)??);
        asker.set_read_timeout(Some(Duration::from_secs(2)))?;
        answerer.set_read_timeout(Some(Duration::from_secs(2)))?;
        let rule = ServiceRule { vip, port: 53, protocol: Protocol::Udp, endpoints: vec![answerer.local_addr()?] };
        node.set_services(&[rule]).await?;
        asker.send_to(b"question", (vip, 53))?;
        let mut text = [0; 16];
        let (length, from) = answerer.recv_from(&mut text)?;
        ensure!(text[..length] == *b"question" && from == asker.local_addr()?);
        answerer.send_to(b"answer", from)?;
        let (length, from) = asker.recv_from(&mut text)?;
        ensure!(text[..length] == *b"answer" && from == (vip, 53).into(), "{from}");
    }
    Ok(())
}

async fn hairpin() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let pod = node.add_pod(PodSpec::new("shop", "own")).await?;
    for (family, vip) in ["10.96.0.7".parse::<IpAddr>()?, "fd96::7".parse()?].into_iter().enumerate() {
        node.set_services(&[ServiceRule::tcp(vip, 80, [serve(&pod, pod.ips()[family], 8080, "own")?])]).await?;
        let answer = read(pod.connect((vip, 80).into()).await?).await?;
        ensure!(answer.starts_with("own "), "{answer}");
    }
    Ok(())
}

async fn unplugged() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let one = bed.add_node("node-1").await?;
    let two = bed.add_node("node-2").await?;
    let address = serve(&two, two.ip(), 80, "two")?;
    let expected = format!("two {}", one.ip());
    check(&one, address, &expected).await?;
    two.set_connected(false).await?;
    let options = ConnectOptions { timeout: Duration::from_millis(200), ..ConnectOptions::default() };
    ensure!(one.connect_with(address, options).await.is_err());
    two.set_connected(true).await?;
    check(&one, address, &expected).await
}

async fn foreign_source() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let pod = node.add_pod(PodSpec::new("shop", "server")).await?;
    // The answer must find its way back to a socket of the pod although the address is foreign: the route of wire contract §5.
    route_marked_to_self(&pod).await?;
    for (to, source) in pod.ips().into_iter().zip(["10.244.9.9".parse::<IpAddr>()?, "fd44:0:0:9::9".parse()?]) {
        let address = serve(&pod, to, 80, "server")?;
        let options = ConnectOptions { bind_source: Some(source), mark: Some(PROXY_MARK), ..ConnectOptions::default() };
        let answer = read(pod.connect_with(address, options).await?).await?;
        ensure!(answer == format!("server {source}"), "{answer}");
    }
    // The other way round: a listener on a foreign address.
    let foreign: SocketAddr = "10.244.9.77:80".parse()?;
    let listener = socket::listen(foreign, &ListenOptions { transparent: true, netns: Some(pod.netns()), ..Default::default() })?;
    let (client, accepted) = tokio::join!(pod.connect(foreign), listener.accept());
    ensure!(client?.peer_addr()? == foreign && accepted?.0.local_addr()? == foreign);
    let mixed = ConnectOptions { bind_source: Some("10.0.0.1".parse()?), ..ConnectOptions::default() };
    let error = pod.connect_with((pod.ips()[1], 80).into(), mixed).await.err().context("mixed families")?;
    ensure!(error.kind() == std::io::ErrorKind::InvalidInput, "{error}");
    Ok(())
}

/// Everything that is not for the pod's own link goes to itself, so that a foreign address can be answered.
async fn route_marked_to_self(place: &Place) -> anyhow::Result<()> {
    use nlink::netlink::types::route::RouteType;
    use std::os::fd::AsFd;
    let connection = nlink::netlink::Connection::<nlink::Route>::new_in(place.netns().as_fd())?;
    connection.add_route(nlink::Ipv4Route::new("10.244.9.0".parse()?, 24).dev("lo").route_type(RouteType::Local)).await?;
    connection.add_route(nlink::Ipv6Route::new("fd44:0:0:9::".parse()?, 64).dev("lo").route_type(RouteType::Local)).await?;
    Ok(())
}

async fn removed_pod() -> anyhow::Result<()> {
    let bed = Bed::new(BedConfig::default()).await?;
    let node = bed.add_node("node-1").await?;
    let client = node.add_pod(PodSpec::new("shop", "client")).await?;
    let first = node.add_pod(PodSpec::new("shop", "server")).await?;
    let sleeper = first.spawn(ambit_testbed::Command::new("sleep").arg("1000"))?;
    let address = serve(&first, first.ip(), 80, "first")?;
    check(&client, address, &format!("first {}", client.ip())).await?;
    first.remove().await?;
    ensure!(!sleeper.is_running() && node.pods().len() == 1);
    let options = ConnectOptions { timeout: Duration::from_millis(200), ..ConnectOptions::default() };
    ensure!(client.connect_with(address, options).await.is_err());
    let second = node.add_pod(PodSpec::new("shop", "server")).await?;
    ensure!(second.ip() != first.ip(), "an address was given again at once");
    check(&client, serve(&second, second.ip(), 80, "second")?, &format!("second {}", client.ip())).await
}
