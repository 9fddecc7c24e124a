//! One request to the node agent: HTTP/1.1 over its Unix socket.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{answer::Failure, asked::Asked};

/// Pause before an agent that is not there is tried again: it may just be restarting.
const RETRY: Duration = Duration::from_millis(100);
/// The longest answer that is read, in bytes.
const MOST: u64 = 64 << 10;

/// Asks the agent, patiently while it is away; a failure has its words.
///
/// # Errors
/// When it refuses, or does not answer in time.
pub fn ask(asked: &Asked, method: &str, path: &str, body: Option<Value>) -> Result<(), Failure> {
    let until = Instant::now() + asked.timeout;
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    loop {
        let error = match exchange(asked, &request, until) {
            Ok((200..=299, _)) => return Ok(()),
            Ok((status, text)) => {
                let text = text.trim();
                return Err(Failure::refused(if text.is_empty() {
                    format!("the node agent answers {status}")
                } else {
                    text.to_owned()
                }));
            }
            Err(error) => error,
        };
        // It may have acted on a request that it took and did not answer: all of them may be asked twice.
        if Instant::now() + RETRY >= until {
            let socket = asked.socket.display();
            return Err(Failure::away(format!(
                "the node agent does not answer at {socket} ({error}); without it a pod of the mesh would start in clear"
            )));
        }
        std::thread::sleep(RETRY);
    }
}

fn exchange(asked: &Asked, request: &str, until: Instant) -> io::Result<(u16, String)> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "too late");
    let left = || until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()).ok_or_else(late);
    let mut stream = UnixStream::connect(&asked.socket)?;
    stream.set_write_timeout(Some(left()?))?;
    stream.write_all(request.as_bytes())?;
    stream.set_read_timeout(Some(left()?))?;
    let mut answer = Vec::new();
    (&mut stream).take(MOST).read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it does not speak HTTP"))
}

/// Status and body of an answer that ends with the connection.
fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_what_is_none_has_not() {
        assert_eq!(parse("HTTP/1.1 500 Oh\r\na: b\r\n\r\nno rules"), Some((500, "no rules".to_owned())));
        for garbage in ["", "HTTP/1.1 200 OK", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse(garbage), None, "{garbage}");
        }
    }
}
