//! Clients outside of the mesh whose connections are carried: in TLS that is passed on, in TLS that ends here, and in clear.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ambit_api::{
    envoy::pb::{
        envoy::{
            config::{
                listener::v3::{FilterChain, FilterChainMatch, filter::ConfigType},
                rbac::v3 as rbac,
            },
            extensions::filters::network::tcp_proxy::v3::TcpProxy,
        },
        google::protobuf::Duration as ProtoDuration,
    },
    type_url,
};
use ambit_runtime::drain;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::rustls::{ALL_VERSIONS, ClientConnection, pki_types::ServerName};
use waypoint::edge;

use super::{
    edge::{connected, free_port},
    secure::{Made, client, connect, listener},
    support::{
        BILLING, Mesh, WEB,
        endpoint::{self, BANNER, ECHO},
        resources::{self, Ep, Service},
    },
};

const NAME: &str = "ingress|443";

/// How a client begins that asks for a host: its ClientHello.
fn hello(host: &str) -> Vec<u8> {
    let config = client(&[&Made::of("any")], ALL_VERSIONS, "h2");
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// A mesh with a service of bytes, whose endpoint sends back what it gets.
async fn echo(number: u8) -> (Mesh, Service) {
    let mesh = Mesh::start(number).await;
    let echo = Service { protocol: "tcp", ..Service::http("echo", mesh.socket(100, 9001)) };
    mesh.serve(std::slice::from_ref(&echo));
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&echo.cluster(), vec![Ep::Hbone(mesh.socket(1, ECHO), BILLING)]);
    (mesh, echo)
}

/// A chain that carries what says one of these names.
fn for_names(service: &Service, name: &str, hosts: &[&str]) -> FilterChain {
    let server_names = hosts.iter().map(|host| (*host).to_owned()).collect();
    FilterChain {
        name: name.into(),
        filter_chain_match: Some(FilterChainMatch { server_names, ..Default::default() }),
        ..resources::tcp_chain(service)
    }
}

async fn is_ended(mut stream: TcpStream) {
    let mut answer = Vec::new();
    // A reset is as good.
    let _end = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn tls_is_passed_on_by_server_name_to_the_byte_and_ends_beside_it_for_other_names() {
    let (mesh, service) = echo(96).await;
    let (port, own) = (free_port(), Made::of("own.example.com"));
    // One that ends TLS and carries what is in it, and one that passes it on.
    let mut both = listener(port, &[("own", "own.example.com")]);
    both.filter_chains[0].filters = resources::tcp_chain(&service).filters;
    both.filter_chains.push(for_names(&service, "passed", &["*.Example.com", "example.org"]));
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), both.clone())]);
    mesh.deliver(type_url::SECRET, vec![own.secret("own")]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));

    for host in ["a.example.com", "EXAMPLE.org"] {
        let (mut stream, hello) = (connected(port).await, hello(host));
        // In two parts, of which the first says no name yet.
        let (first, rest) = hello.split_at(20);
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        stream.write_all(rest).await.unwrap();
        stream.write_all(b"and what follows").await.unwrap();
        let mut back = vec![0; hello.len() + 16];
        stream.read_exact(&mut back).await.unwrap();
        assert!(back.starts_with(&hello) && back.ends_with(b"and what follows"), "{host}");
        stream.shutdown().await.unwrap();
        let mut farewell = Vec::new();
        stream.read_to_end(&mut farewell).await.unwrap();
        assert_eq!(farewell, b"bye");
    }
    mesh.logged(&["dst.service=echo.shop", "reason=ok", "security=none"]).await;

    let mut stream = connect(port, "own.example.com", client(&[&own], ALL_VERSIONS, "h2")).await.unwrap();
    assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], own.der);
    stream.write_all(b"in TLS").await.unwrap();
    let mut back = [0; 6];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"in TLS");
    drop(stream);
    mesh.logged(&["dst.service=echo.shop", "security=tls"]).await;

    let mut other = connected(port).await;
    other.write_all(&hello("other.example.net")).await.unwrap();
    is_ended(other).await;
    mesh.logged(&["reason=listener_not_found", "other.example.net"]).await;
    let mut clear = connected(port).await;
    clear.write_all(b"GET / HTTP/1.1\r\nhost: a.example.com\r\n\r\n").await.unwrap();
    is_ended(clear).await;
    mesh.logged(&["reason=tls_handshake_failed", "begins with no ClientHello"]).await;

    // Requests cannot be looked at in what is passed on.
    let mut requests = both;
    requests.filter_chains[1].filters = resources::edge(port, "passed").filter_chains.remove(0).filters;
    let rejected = mesh.offer(type_url::LISTENER, vec![(NAME.into(), requests)]).pop().unwrap();
    assert!(rejected.reason.contains("requests in TLS cannot be looked at"), "{}", rejected.reason);
}

#[tokio::test]
async fn bytes_from_outside_of_the_mesh_are_carried_where_the_server_speaks_first_unless_a_policy_says_no() {
    let mesh = Mesh::start(97).await;
    let mut banner = Service { protocol: "tcp", ..Service::http("banner", mesh.socket(100, 9000)) };
    mesh.serve(std::slice::from_ref(&banner));
    endpoint::start(&mesh, 1, "v1", BILLING).await;
    mesh.endpoints(&banner.cluster(), vec![Ep::Hbone(mesh.socket(1, BANNER), BILLING)]);
    let port = free_port();
    let deliver = |service: &Service| {
        let mut listener = resources::edge(port, "ingress|9000");
        listener.filter_chains = vec![resources::tcp_chain(service)];
        mesh.deliver(type_url::LISTENER, vec![("ingress|9000".into(), listener)]);
    };
    deliver(&banner);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    let mut stream = connected(port).await;
    let mut greeting = [0; 14];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello from v1\n");
    drop(stream);

    let allow = rbac::rbac::Action::Allow;
    banner.rbac = vec![resources::rules(allow, "ns[shop]-policy[only-web]-rule[0]", rbac::permission::Rule::Any(true), WEB)];
    deliver(&banner);
    is_ended(connected(port).await).await;
    mesh.logged(&["reason=policy_denied_no_allow_match", "policy=shop/only-web"]).await;
}

#[tokio::test]
async fn a_connection_that_has_carried_nothing_for_its_time_is_ended_and_no_other() {
    const IDLE: Duration = Duration::from_millis(1500);
    let (mesh, service) = echo(237).await;
    let port = free_port();
    let mut chain = resources::tcp_chain(&service);
    for filter in &mut chain.filters {
        let Some(ConfigType::TypedConfig(any)) = &mut filter.config_type else { continue };
        let mut proxy = TcpProxy::decode(any.value.as_slice()).unwrap();
        proxy.idle_timeout = Some(ProtoDuration { seconds: 1, nanos: 500_000_000 });
        any.value = proxy.encode_to_vec();
    }
    let mut listener = resources::edge(port, "ingress|9001");
    listener.filter_chains = vec![chain];
    mesh.deliver(type_url::LISTENER, vec![("ingress|9001".into(), listener)]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));

    let mut stream = connected(port).await;
    let began = Instant::now();
    while began.elapsed() < IDLE + IDLE / 2 {
        stream.write_all(b"a").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'a');
        tokio::time::sleep(IDLE / 10).await;
    }
    let began = Instant::now();
    is_ended(stream).await;
    // The last byte was a pause before.
    assert!(began.elapsed() >= IDLE / 2, "{:?}", began.elapsed());
    mesh.logged(&["dst.service=echo.shop", "reason=idle_timeout"]).await;
}
