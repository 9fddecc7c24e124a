//! Responses that a client could take for others than the waypoint does: none of them comes through.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{
    PATIENCE,
    support::{
        Mesh, WEB,
        client::tunnel,
        resources::{Ep, Service},
    },
};

/// What an endpoint answers after its status line, and whether that comes through.
const ANSWERS: [(&str, bool); 13] = [
    ("content-length: 5\r\n\r\nhello", true),
    ("transfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
    ("content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
    ("transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
    ("content-length: 99\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
    ("content-length: 5\r\ncontent-length: 5\r\n\r\nhello", false),
    ("content-length: 5\r\ncontent-length: 6\r\n\r\nhello", false),
    ("content-length: 5, 5\r\n\r\nhello", false),
    ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
    ("transfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", false),
    ("transfer-encoding: identity\r\n\r\nhello", false),
    ("content-length: 5\r\nx-a: b\r\n c\r\n\r\nhello", false),
    ("content-length : 5\r\n\r\nhello", false),
];

/// Answers each request with what it asks for by its path, and closes.
async fn endpoint(address: SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut first = String::new();
    stream.read_line(&mut first).await?;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
    }
    let number: usize = first.split([' ', '/']).find_map(|part| part.parse().ok()).unwrap();
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{}", ANSWERS[number].0).as_bytes()).await?;
    stream.shutdown().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_could_be_read_in_two_ways_does_not_come_through() {
    let mesh = Mesh::start(170).await;
    let service = Service::http("billing", mesh.socket(100, 80));
    mesh.serve(std::slice::from_ref(&service));
    endpoint(mesh.socket(1, 8080)).await;
    mesh.endpoints(&service.cluster(), vec![Ep::Clear(mesh.socket(1, 8080))]);
    for (number, (sent, passes)) in ANSWERS.into_iter().enumerate() {
        let mut stream = tunnel(&mesh, WEB, service.vip).await.unwrap();
        let request = format!("GET /{number} HTTP/1.1\r\nhost: billing.shop\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        let asking = async {
            let _ended = stream.read_to_end(&mut got).await;
        };
        assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "no end: {sent:?}");
        let got = String::from_utf8_lossy(&got);
        let status = if passes { "HTTP/1.1 200 " } else { "HTTP/1.1 503 " };
        assert!(got.starts_with(status) && got.contains("hello") == passes, "{sent:?}: {got:?}");
    }
}
