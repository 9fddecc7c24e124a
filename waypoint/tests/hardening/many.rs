//! Very many clients, each with a connection of its own at a port of the proxy.

use std::{sync::Mutex, time::Instant};

use ambit_api::type_url;
use ambit_runtime::drain;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use waypoint::edge;

use super::{
    ALONE, PATIENCE, backend, resident,
    support::{
        Mesh,
        resources::{self, Ep, Service},
    },
};

/// Connections, or as many as `AMBIT_CONNECTIONS` says.
const CONNECTIONS: usize = 2000;
/// Of those that ask something at a time.
const AT_ONCE: usize = 100;
/// What else this process has open, and what is between the proxy and the endpoint.
const OTHERS: u64 = 1000;
/// The most that a connection may take of which nothing is asked, with the client's end of it, in KiB.
const EACH: u64 = 128;
const NAME: &str = "ingress|80";

async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET /many HTTP/1.1\r\nhost: billing.shop\r\n\r\n").await?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    while !answer.ends_with(b"\r\n\r\nok") {
        match stream.read(&mut buffer).await? {
            0 => return Err(std::io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

/// A connection to the port, as soon as it is open.
async fn connected(port: u16) -> TcpStream {
    let began = Instant::now();
    loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => return stream,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_are_kept_and_served() {
    let asked = std::env::var("AMBIT_CONNECTIONS").map_or(CONNECTIONS, |count| count.parse().unwrap());
    // Both ends of each are in this process.
    let may = ambit_runtime::sys::raise_open_files().unwrap().saturating_sub(OTHERS) / 2;
    let count = asked.min(usize::try_from(may).unwrap());
    assert!(count > 0, "this process may have too few files open");
    let _alone = ALONE.lock().await;
    let mesh = Mesh::start(168).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    let port = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge(port, NAME))]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes(NAME, vec![resources::to(&service.cluster())])]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    ask(&mut connected(port).await).await.unwrap();

    let (before, began) = (resident(), Instant::now());
    let open = Mutex::new(Vec::with_capacity(count));
    stream::iter(0..count)
        .map(|_| async {
            let mut stream = connected(port).await;
            ask(&mut stream).await?;
            open.lock().unwrap().push(stream);
            std::io::Result::Ok(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .unwrap();
    let grown = resident().saturating_sub(before);
    let each = grown / u64::try_from(count).unwrap();
    println!("{count} of {asked} connections in {:?}: {grown} KiB, {each} KiB each with both ends", began.elapsed());
    // All of them are open still, and each is good for another request.
    let all = open.into_inner().unwrap();
    assert_eq!(all.len(), count);
    stream::iter(all)
        .map(|mut stream| async move { ask(&mut stream).await })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await
        .unwrap();
    assert!(each < EACH, "{each} KiB each");
}
