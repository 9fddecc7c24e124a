//! Very many clients, each with a connection of its own at a port of the proxy. They are another process, this program once more, so that each
//! process has one end of each connection open and no more.

use std::{
    env, fs,
    process::Stdio,
    sync::Mutex,
    time::{Duration, Instant},
};

use ambit_api::type_url;
use ambit_runtime::drain;
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{ChildStdout, Command},
    task::spawn_blocking,
    time::timeout,
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
const CONNECTIONS: usize = 10_000;
const ASKED: &str = "AMBIT_CONNECTIONS";
/// Set to the port by which this program knows that it is the clients.
const CLIENTS_OF: &str = "AMBIT_CLIENTS_OF_PORT";
/// The test, as the program knows it.
const NAME_OF_TEST: &str = "many::thousands_of_connections_are_kept_and_served";
/// What the clients say once so many are open, and once they have all been asked for something again.
const OPEN: &str = "clients that are open:";
const SERVED: &str = "clients that were served again:";
/// Of those that ask something at a time.
const AT_ONCE: usize = 100;
/// The longest that either of it may take: on a machine that does nothing else some seconds.
const LONGEST: Duration = Duration::from_secs(120);
/// What else a process has open, and what is between the proxy and the endpoint.
const OTHERS: usize = 1000;
/// The most that a connection may take of which nothing is asked, with the proxy's end of it alone, in KiB.
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
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many there are to be. Fewer would show less, so that a machine that does not allow them fails.
fn count() -> usize {
    let asked = env::var(ASKED).map_or(CONNECTIONS, |count| count.parse().unwrap());
    let limit = ambit_runtime::sys::raise_open_files().unwrap();
    let wanted = asked + OTHERS;
    assert!(
        limit >= u64::try_from(wanted).unwrap(),
        "a process may have {limit} files open here, by its hard limit (`ulimit -Hn`), and {asked} connections want {wanted}: raise it, as by \
         `ulimit -n {wanted}` as root, `LimitNOFILE=` of systemd or `--ulimit nofile=` of a container, or ask for fewer by {ASKED}"
    );
    asked
}

/// What the clients do: each opens a connection and asks something; when all are open, and the other process has said so, each asks again.
async fn clients(port: u16) {
    let count = count();
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
    let all = open.into_inner().unwrap();
    println!("\n{OPEN} {}", all.len());
    spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    let served = stream::iter(all)
        .map(|mut stream| async move { ask(&mut stream).await.map(|()| stream) })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<TcpStream>>()
        .await
        .unwrap();
    println!("\n{SERVED} {}", served.len());
}

/// The number that the clients say after this.
async fn said(lines: &mut Lines<BufReader<ChildStdout>>, what: &str) -> usize {
    let number = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(number) = line.strip_prefix(what) {
                return number.trim().parse::<usize>().unwrap();
            }
        }
        panic!("the clients have ended, and have not told of {what}")
    };
    timeout(LONGEST, number).await.unwrap_or_else(|_| panic!("nothing was told of {what} within {LONGEST:?}"))
}

/// How many files this process has open.
fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_are_kept_and_served() {
    if let Ok(port) = env::var(CLIENTS_OF) {
        return clients(port.parse().unwrap()).await;
    }
    let count = count();
    let _alone = ALONE.lock().await;
    let mesh = Mesh::start(168).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    backend::start(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    let port = super::support::free_port();
    mesh.deliver(type_url::LISTENER, vec![(NAME.into(), resources::edge(port, NAME))]);
    mesh.deliver(type_url::ROUTE, vec![resources::routes(NAME, vec![resources::to(&service.cluster())])]);
    let (_trigger, watch) = drain::channel();
    let _running = tokio::spawn(edge::run(mesh.proxy.clone(), mesh.store.ports(), watch));
    ask(&mut connected(port).await).await.unwrap();

    let (before, began) = (resident(), Instant::now());
    let mut process = Command::new(env::current_exe().unwrap())
        .args(["--exact", NAME_OF_TEST, "--nocapture"])
        .env(CLIENTS_OF, port.to_string())
        .env(ASKED, count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let open = said(&mut lines, OPEN).await;
    let (grown, files) = (resident().saturating_sub(before), open_files());
    let each = grown / u64::try_from(count).unwrap();
    println!("{open} of {count} connections in {:?}: {grown} KiB, {each} KiB each", began.elapsed());
    assert_eq!(open, count);
    assert!(files >= count, "of {count} connections the proxy has not all open: {files} files are");
    // All of them are open still, and each is good for another request.
    process.stdin.take().unwrap().write_all(b"go on\n").await.unwrap();
    assert_eq!(said(&mut lines, SERVED).await, count);
    assert!(timeout(PATIENCE, process.wait()).await.unwrap().unwrap().success());
    assert!(each < EACH, "{each} KiB each");
}
