//! A resolver of the node, as good or bad as the first part of the name says.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use ambit_runtime::socket::{ListenOptions, receive};
use ambit_testbed::Pod;
use domain::{
    base::{
        Message, MessageBuilder,
        iana::{Class, Rcode},
        record::Ttl,
    },
    rdata::{A, Aaaa},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

/// What it was asked: from where, over TCP or not, and the bytes.
pub struct Asked {
    pub from: SocketAddr,
    pub tcp: bool,
    pub bytes: Vec<u8>,
}

/// A resolver in a pod, on both of its addresses.
pub struct Resolver {
    pub asked: Arc<Mutex<Vec<Asked>>>,
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Answers names with `address`; those that begin with `twice` only if it is not the `first` resolver.
    pub fn start(pod: &Pod, address: IpAddr, first: bool) -> anyhow::Result<Self> {
        let (asked, mut tasks) = (Arc::<Mutex<Vec<Asked>>>::default(), JoinSet::new());
        for ip in pod.ips() {
            let at = SocketAddr::new(ip, 53);
            let socket = receive(at, &ListenOptions { netns: Some(pod.netns()), ..ListenOptions::default() })?;
            tasks.spawn(udp(Arc::new(socket), Arc::clone(&asked), address, first));
            tasks.spawn(tcp(pod.listen(at)?, Arc::clone(&asked), address, first));
        }
        Ok(Self { asked, _tasks: tasks })
    }

    /// How often it was asked.
    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Who asked this but for its number, after so many other queries.
    pub fn asker_since(&self, before: usize, tcp: bool, query: &[u8]) -> Option<IpAddr> {
        let asked = self.asked.lock().unwrap();
        let found = asked.iter().skip(before).find(|asked| asked.tcp == tcp && asked.bytes[2..] == query[2..]);
        found.map(|asked| asked.from.ip().to_canonical())
    }

    /// The addresses that asked for names that begin with `name`.
    pub fn askers(&self, name: &str) -> Vec<IpAddr> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| first_part(&asked.bytes) == name).map(|asked| asked.from.ip().to_canonical()).collect()
    }
}

fn first_part(query: &[u8]) -> String {
    let message = Message::from_octets(query).unwrap();
    message.sole_question().map(|question| question.qname().first().to_string()).unwrap_or_default()
}

/// What is said to a query, one after the other.
fn says(query: &[u8], tcp: bool, address: IpAddr, first: bool) -> Vec<Vec<u8>> {
    let part = first_part(query);
    let good = answer(query, Rcode::NOERROR, &[address]);
    match part.as_str() {
        "silent" => Vec::new(),
        "twice" if first => vec![answer(query, Rcode::SERVFAIL, &[])],
        "failing" => vec![answer(query, Rcode::SERVFAIL, &[])],
        "nobody" => vec![answer(query, Rcode::NXDOMAIN, &[])],
        "big" if !tcp => {
            let mut cut = answer(query, Rcode::NOERROR, &[]);
            cut[2] |= 2;
            vec![cut]
        }
        // More than the client takes, in one datagram and without saying so.
        "rude" if !tcp => vec![answer(query, Rcode::NOERROR, &[[192, 0, 2, 9].into(); 60])],
        "forged" => {
            let (mut number, mut question) = (answer(query, Rcode::NOERROR, &[[6, 6, 6, 6].into()]), good.clone());
            number[0] ^= 1;
            // Another name in the question.
            question[13] ^= 1;
            vec![number, question, vec![1, 2, 3], good]
        }
        _ => vec![good],
    }
}

fn answer(query: &[u8], code: Rcode, addresses: &[IpAddr]) -> Vec<u8> {
    let message = Message::from_octets(query).unwrap();
    let mut answer = MessageBuilder::new_vec().start_error(&message, code);
    let name = *message.sole_question().unwrap().qname();
    let ttl = Ttl::from_secs(if first_part(query) == "brief" { 1 } else { 60 });
    for address in addresses {
        let pushed = match address {
            IpAddr::V4(ip) => answer.push((name, Class::IN, ttl, A::new(*ip))),
            IpAddr::V6(ip) => answer.push((name, Class::IN, ttl, Aaaa::new(*ip))),
        };
        pushed.unwrap();
    }
    answer.finish()
}

async fn udp(socket: Arc<UdpSocket>, asked: Arc<Mutex<Vec<Asked>>>, address: IpAddr, first: bool) {
    let (mut buffer, mut slow) = ([0; 4096], JoinSet::new());
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let query = buffer[..length].to_vec();
        let (answers, wait) = (says(&query, false, address, first), first_part(&query) == "slow");
        asked.lock().unwrap().push(Asked { from, tcp: false, bytes: query });
        let socket = Arc::clone(&socket);
        slow.spawn(async move {
            if wait {
                // Longer than the proxy waits before it asks again beside.
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
            for answer in answers {
                let _client_gone = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn tcp(listener: TcpListener, asked: Arc<Mutex<Vec<Asked>>>, address: IpAddr, first: bool) {
    let mut connections = JoinSet::new();
    while let Ok((stream, from)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        connections.spawn(async move { drop(connection(stream, from, &asked, address, first).await) });
    }
}

async fn connection(
    mut stream: TcpStream,
    from: SocketAddr,
    asked: &Mutex<Vec<Asked>>,
    address: IpAddr,
    first: bool,
) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        let answers = says(&query, true, address, first);
        asked.lock().unwrap().push(Asked { from, tcp: true, bytes: query });
        for answer in answers {
            stream.write_u16(u16::try_from(answer.len()).map_err(std::io::Error::other)?).await?;
            stream.write_all(&answer).await?;
        }
    }
}
