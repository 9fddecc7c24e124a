//! The instructions of the hot path, counted by valgrind: framing, sealing, opening, pumping.
//!
//! A script of requests is played in a process of its own on the processor that valgrind makes up, and once more with twice as many: what the
//! second needs more is what requests cost, without the start, the certificates and the handshake. All of it is on one thread and the tunnel in
//! memory, so that nothing depends on who comes first; only the applications have sockets, as a pump takes nothing else. ztunnel's own handler takes
//! nothing else for the tunnel either.

use std::{
    env, io,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, PoisonError},
    time::Duration,
};

use ambit_hbone::{Pool, PoolConfig, Spread};
use ambit_tls::{StoreConfig, SvidStore, client_config, handshake};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    ONE_AT_A_TIME, handler,
    line::{ANSWER, ANYWHERE, LIMIT, REQUEST, carry, id, key, near, serve, source, to},
    uncounted::Uncounted,
};

/// What is counted, and the most instructions for each.
///
/// They are those of both proxies, the two applications and the kernel's ways into them, in programs as tests are built (`profile.dev`: our crates
/// not optimised, those of others are), on a processor with AVX2 as valgrind shows it. A copy of 4 KiB or more costs one for each byte. The limits
/// are some percent above what is counted, as another compiler or C library may need more.
const SCRIPTS: [Script; 4] = [
    Script { what: "a lone request", connections: 1, answer: ANSWER, kind: Kind::Requests, count: 200, most: 135_000.0 },
    Script { what: "a request among 32", connections: 32, answer: ANSWER, kind: Kind::Requests, count: 10 * 32, most: 72_000.0 },
    Script { what: "a megabyte", connections: 1, answer: 1 << 20, kind: Kind::OneAnswer, count: 16, most: 9_500_000.0 },
    Script {
        what: "a new connection into ztunnel",
        connections: 1,
        answer: 1,
        kind: Kind::IntoZtunnel,
        count: 100,
        most: INTO_ZTUNNEL,
    },
];

/// The most instructions for a new connection into ztunnel's own handler, with one request.
const INTO_ZTUNNEL: f64 = 530_000.0;

/// What is counted of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Requests on connections that stand.
    Requests,
    /// Parts of one answer.
    OneAnswer,
    /// Connections into ztunnel's own handler.
    IntoZtunnel,
}

#[derive(Debug)]
struct Script {
    what: &'static str,
    /// Connections that ask together.
    connections: usize,
    /// Bytes of an answer.
    answer: usize,
    kind: Kind,
    /// How many in the shorter run.
    count: usize,
    most: f64,
}

/// Which script a process is to play, and how many: `a lone request=200`.
const ASKED: &str = "AMBIT_GUARD_SCRIPT";

/// How long a script may take where it takes a hundred times as long as it needs.
const PATIENCE: Duration = Duration::from_mins(5);

/// Bytes on their way in the tunnel, each way: about what sockets hold.
const TUNNEL: usize = 256 << 10;
/// Bytes that an application writes or reads at once.
const PIECE: usize = 256 << 10;
static ZEROS: [u8; PIECE] = [0; PIECE];

/// Serves each connection with [`answer`].
async fn applications() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            tokio::spawn(answer(tcp));
        }
    });
    address
}

/// Answers each request with as many bytes as it begins with.
async fn answer(mut tcp: TcpStream) {
    while let Ok(mut left) = tcp.read_u64().await {
        tcp.read_exact(&mut [0; REQUEST - 8]).await.unwrap();
        while left > 0 {
            let most = left.min(PIECE as u64);
            tcp.write_all(&ZEROS[..most as usize]).await.unwrap();
            left -= most;
        }
    }
}

async fn ask(tcp: &mut TcpStream, bytes: usize) {
    let mut request = [1; REQUEST];
    request[..8].copy_from_slice(&(bytes as u64).to_be_bytes());
    tcp.write_all(&request).await.unwrap();
}

async fn hear(tcp: &mut TcpStream, buffer: &mut [u8], bytes: usize) {
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        tcp.read_exact(&mut buffer[..most]).await.unwrap();
        left -= most;
    }
}

/// By how long bytes wait it would be decided whether there are more connections.
fn one_connection() -> PoolConfig {
    PoolConfig { spread: Spread { connections: 1, ..Spread::default() }, ..PoolConfig::default() }
}

/// What connects to it reaches `application` through ztunnel's own handler.
async fn into_ztunnel(application: SocketAddr) -> SocketAddr {
    let source = source();
    let far = handler::inbound(source.clone()).await;
    near(source, far, application.to_string(), one_connection()).await
}

/// A connection that has been answered once.
async fn open(near: SocketAddr, buffer: &mut [u8]) -> TcpStream {
    let mut client = TcpStream::connect(near).await.unwrap();
    client.set_nodelay(true).unwrap();
    ask(&mut client, 1).await;
    hear(&mut client, buffer, 1).await;
    client
}

/// The pair: what connects to it reaches `application`.
async fn pair(application: SocketAddr) -> SocketAddr {
    let source = source();
    let svid = source.svid(&id("web")).unwrap();
    let store = SvidStore::new(Arc::new(source), StoreConfig::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let pool = Pool::new(one_connection());
        while let Ok((tcp, _)) = listener.accept().await {
            tcp.set_nodelay(true).unwrap();
            let (store, config) = (store.clone(), client_config(&svid, &[id("api")]).unwrap());
            let dial = move || async move {
                let (near, far) = tokio::io::duplex(TUNNEL);
                tokio::spawn(serve(far, store, application));
                handshake::connect(near, config, LIMIT).await
            };
            tokio::spawn(carry(tcp, pool.clone(), key(application), to(ANYWHERE), dial));
        }
    });
    address
}

impl Script {
    /// Plays it with `count` of what it counts.
    fn play(&self, count: usize) {
        let (turns, bytes) = match self.kind {
            Kind::OneAnswer => (1, count * self.answer),
            Kind::Requests | Kind::IntoZtunnel => (count / self.connections, self.answer),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(PATIENCE, self.requests(turns, bytes)).await.unwrap();
        });
        runtime.shutdown_timeout(Duration::ZERO);
    }

    async fn requests(&self, turns: usize, bytes: usize) {
        let applications = applications().await;
        let near = if self.kind == Kind::IntoZtunnel { into_ztunnel(applications).await } else { pair(applications).await };
        let mut buffer = vec![0; PIECE];
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            // One after the other, so that tunnels are opened in the same way each time.
            clients.push(open(near, &mut buffer).await);
        }
        for _ in 0..turns {
            if self.kind == Kind::IntoZtunnel {
                clients = vec![open(near, &mut buffer).await];
                continue;
            }
            for client in &mut clients {
                ask(client, bytes).await;
            }
            for client in &mut clients {
                hear(client, &mut buffer, bytes).await;
            }
        }
    }

    /// Whether this process may play it.
    fn permitted(&self) -> Result<(), Uncounted> {
        if self.kind == Kind::IntoZtunnel { handler::permitted() } else { Ok(()) }
    }

    /// Instructions for each of what it counts.
    fn counted(&self) -> Result<f64, Uncounted> {
        // Side by side: how long they take changes nothing.
        let (once, twice) = (self.begin(self.count)?, self.begin(2 * self.count)?);
        let (once, twice) = (instructions(once), instructions(twice));
        Ok((twice - once) / self.count as f64)
    }

    /// Begins to play it in a process of its own, where instructions are counted. Of valgrind's tools that count them this is the quickest.
    fn begin(&self, count: usize) -> Result<Child, Uncounted> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]).arg(env::current_exe().unwrap());
        command.args(["--exact", "instructions::a_script_is_played_to_its_end", "--nocapture", "--test-threads=1"]);
        command.env(ASKED, format!("{}={count}", self.what));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().map_err(|error: io::Error| Uncounted::Program { name: "valgrind", package: "valgrind", error })
    }
}

/// What valgrind has counted when the process has come to its end: `==7== I   refs:      2,879,081`.
fn instructions(child: Child) -> f64 {
    let output = child.wait_with_output().unwrap();
    let (out, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let well = output.status.success() && out.contains("1 passed");
    let counted = said.lines().filter(|line| line.starts_with("==")).find_map(|line| {
        let (_, count) = line.split_once(" refs:")?;
        count.trim().replace(',', "").parse().ok()
    });
    counted.filter(|_| well).unwrap_or_else(|| panic!("valgrind has not counted: {}\n{out}\n{said}", output.status))
}

/// Whether the limits are those of a processor like this one, of which valgrind shows what it knows itself.
#[cfg(target_arch = "x86_64")]
fn is_the_processor() -> bool {
    std::arch::is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_the_processor() -> bool {
    false
}

#[test]
fn the_hot_path_needs_few_instructions() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_the_processor() {
        return Uncounted::Machine("the limits are those of x86-64 with AVX2".to_owned()).tell("instructions");
    }
    let mut beyond = Vec::new();
    for script in &SCRIPTS {
        if let Err(uncounted) = script.permitted() {
            uncounted.tell(&format!("instructions for {}", script.what));
            continue;
        }
        let each = match script.counted() {
            Ok(each) => each,
            Err(uncounted) => return uncounted.tell("instructions"),
        };
        println!("{}: {each:.0} instructions, at most {:.0} are allowed", script.what, script.most);
        // None at all would mean that nothing was played.
        if !(1000.0..=script.most).contains(&each) {
            beyond.push(format!("{each:.0} instructions for {}, at most {:.0} are allowed", script.what, script.most));
        }
    }
    assert!(beyond.is_empty(), "{}", beyond.join("; "));
}

/// The script that this process was begun for, or else a little of each.
#[test]
fn a_script_is_played_to_its_end() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(asked) = env::var(ASKED) else {
        let permitted = SCRIPTS.iter().filter(|script| script.permitted().is_ok());
        return permitted.for_each(|script| script.play(script.connections));
    };
    let (what, count) = asked.split_once('=').unwrap();
    let script = SCRIPTS.iter().find(|script| script.what == what).unwrap();
    script.play(count.parse().unwrap());
}
