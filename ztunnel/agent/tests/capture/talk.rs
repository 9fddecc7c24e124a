//! Applications, and connections to them.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ambit_testbed::{Place, Pod};
use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::world::{PATIENCE, SOON};

/// Where applications listen.
pub const PORT: u16 = 8080;

/// An application: it says who it sees, then echoes.
pub fn serve(pod: &Pod) -> anyhow::Result<()> {
    let listener = pod.listen(SocketAddr::from(([0_u16; 8], PORT)))?;
    tokio::spawn(async move {
        while let Ok((mut stream, from)) = listener.accept().await {
            tokio::spawn(async move {
                let from = from.ip().to_canonical();
                let (mut read, mut write) = stream.split();
                write.write_all(format!("application sees {from}\n").as_bytes()).await?;
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    Ok(())
}

/// A connection on which the other side has said its first line.
pub struct Talk {
    pub first: String,
    stream: BufReader<TcpStream>,
}

impl Talk {
    pub async fn open(from: &Place, to: SocketAddr) -> anyhow::Result<Self> {
        let open = async {
            let mut stream = BufReader::new(from.connect(to).await?);
            let mut first = String::new();
            stream.read_line(&mut first).await?;
            ensure!(first.ends_with('\n'), "it ended with {first:?}");
            Ok(Self { first: first.trim_end().to_owned(), stream })
        };
        tokio::time::timeout(Duration::from_secs(5), open).await.context("no answer")?
    }

    /// The next line.
    pub async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await.context("no line")??;
        Ok(line.trim_end().to_owned())
    }

    /// Sends bytes and waits until they come back.
    pub async fn echo(&mut self, text: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut back)).await.context("no echo")??;
        ensure!(back == text, "something else came back");
        Ok(())
    }

    /// Sends bytes until the connection turns out to be reset.
    pub async fn until_reset(mut self, text: &[u8]) -> anyhow::Result<()> {
        let reset = async {
            loop {
                if let Err(error) = self.echo(text).await {
                    return error;
                }
                tokio::time::sleep(SOON).await;
            }
        };
        let error = tokio::time::timeout(PATIENCE, reset).await.context("it goes on")?;
        match error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
            Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(()),
            _ => bail!("it ended, but not by a reset: {error:?}"),
        }
    }
}

/// The first line of a new connection.
pub async fn first_line(from: &Place, to: SocketAddr) -> anyhow::Result<String> {
    Ok(Talk::open(from, to).await?.first)
}

pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}
