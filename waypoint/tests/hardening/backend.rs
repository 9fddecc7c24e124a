//! A server of HTTP/1.1 that takes nothing which could be read in two ways, and keeps what has come.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// A request that came whole.
#[derive(Debug, Clone)]
pub struct Got {
    /// Its lines, the first one among them, without their ends.
    pub head: Vec<String>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn is_for(&self, path: &str) -> bool {
        self.head.first().is_some_and(|line| line.split(' ').nth(1) == Some(path))
    }

    /// The values of a header.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let fields = self.head.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

#[derive(Default)]
pub struct Backend {
    pub got: Mutex<Vec<Got>>,
    /// What nobody should send.
    pub odd: Mutex<Vec<String>>,
}

pub async fn start(address: SocketAddr) -> Arc<Backend> {
    let listener = TcpListener::bind(address).await.unwrap();
    let backend = Arc::new(Backend::default());
    let kept = backend.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let kept = kept.clone();
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &kept).await
                    && error.kind() == io::ErrorKind::InvalidData
                {
                    kept.odd.lock().unwrap().push(error.to_string());
                }
            });
        }
    });
    backend
}

fn odd(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

async fn serve(stream: TcpStream, backend: &Backend) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let line = line(&mut stream).await?;
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let mut got = Got { head, body: Vec::new() };
        got.body = body(&got, &mut stream).await?;
        backend.got.lock().unwrap().push(got);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    }
}

async fn body(got: &Got, stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    match (&got.values("content-length")[..], &got.values("transfer-encoding")[..]) {
        ([], []) => Ok(Vec::new()),
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| odd(format!("a length of {length:?}")))?;
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await?;
            Ok(body)
        }
        ([], ["chunked"]) => chunks(stream).await,
        both => Err(odd(format!("lengths and codings {both:?}"))),
    }
}

async fn chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = line(stream).await?;
        let length = usize::from_str_radix(&size, 16).map_err(|_| odd(format!("a chunk of {size:?}")))?;
        if length == 0 {
            // Trailers, to the empty line.
            while !line(stream).await?.is_empty() {}
            return Ok(body);
        }
        let mut chunk = vec![0; length];
        stream.read_exact(&mut chunk).await?;
        body.extend(chunk);
        let end = line(stream).await?;
        if !end.is_empty() {
            return Err(odd(format!("{end:?} after a chunk")));
        }
    }
}

/// A line without its end, which must be CRLF.
async fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    match line.strip_suffix(b"\r\n") {
        Some(line) if !line.iter().any(|byte| matches!(byte, b'\r' | b'\0')) => Ok(String::from_utf8_lossy(line).into_owned()),
        // A connection that ends in the middle of a line is nothing odd.
        None if !line.ends_with(b"\n") => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(odd(format!("a line {text:?}"))),
    }
}
