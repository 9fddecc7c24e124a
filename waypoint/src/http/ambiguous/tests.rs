use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}")
}

/// Reads `text` cut in two at `at`. Where it is cut in a line, what comes before the cut has passed.
fn cut(text: &str, at: usize) -> Result<At, Fault> {
    let (first, second) = text.as_bytes().split_at(at);
    let mut framing = Framing::default();
    framing.pass(first)?;
    framing.pass(second).map_err(|fault| Fault { good: fault.good + at, ..fault })?;
    Ok(framing.at)
}

fn byte_by_byte(text: &str) -> Result<At, bool> {
    let mut framing = Framing::default();
    text.bytes().try_for_each(|byte| framing.pass(&[byte])).map_err(|fault| fault.in_body)?;
    Ok(framing.at)
}

#[test]
fn requests_that_can_be_read_in_one_way_pass_however_they_are_cut() {
    let long = format!("x-a: {}", "b".repeat(3 * LONGEST));
    let texts = [
        GET.to_owned(),
        format!("\r\n\r\n{GET}"),
        post(&long, ""),
        post("content-length: 0", ""),
        post("Content-Length:5 \t", "he\n\no"),
        post("Content-Length: \t            000000000000000000000000000000005", "hello"),
        post("x-a: \u{e9}", ""),
        post("Transfer-Encoding: Chunked", "5\r\nhe\n\no\r\n0\r\n\r\n"),
        post(
            "transfer-encoding: chunked",
            "00a;x=\"y\"\r\n0123456789\r\n5 \r\nhello\r\n0\r\nx-a: b\r\ncontent-length: 9\r\n\r\n",
        ),
        // Of another name, or said elsewhere.
        post("content-length-x: 1\r\nx-transfer-encoding: gzip\r\ncontent-length: 1", "a"),
        "POST /content-length:4 HTTP/1.1\r\ncontent-length: 4\r\n\r\n\n\n\n\n".to_owned(),
    ];
    let all = texts.concat();
    for text in texts.iter().chain([&all]) {
        for at in 0..=text.len() {
            assert_eq!(cut(text, at), Ok(At::Before), "{text:?} at {at}");
        }
        assert_eq!(byte_by_byte(text), Ok(At::Before), "{text:?}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_found_in_each_request_however_it_is_cut() {
    const CHUNKED: &str = "transfer-encoding: chunked";
    let bad_heads = [
        post(&format!("content-length: 5\r\n{CHUNKED}"), ""),
        post(&format!("{CHUNKED}\r\ncontent-length: 5"), ""),
        post(&format!("{CHUNKED}\r\nx-a: b\r\nCONTENT-LENGTH:0"), ""),
        post("content-length: 5\r\ncontent-length: 5", ""),
        post("content-length: 5\r\ncontent-length: 6", ""),
        post("content-length: 0\r\ncontent-length: 0", ""),
        post(&format!("{CHUNKED}\r\n{CHUNKED}"), ""),
        post("transfer-encoding: gzip, chunked", ""),
        post("transfer-encoding: identity", ""),
        post("transfer-encoding:", ""),
        post("content-length:", ""),
        post("content-length: +5", ""),
        post("content-length: 5, 5", ""),
        post("content-length: 18446744073709551616", ""),
        post(&format!("content-length:{}5", " ".repeat(LONGEST)), ""),
        post("x-a: b\nx-c: d", ""),
        "GET / HTTP/1.1\nhost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\r\n\n".to_owned(),
        "GET / HTTP/1.1\r\nhost: a\n\r\n".to_owned(),
        "\nGET / HTTP/1.1\r\n\r\n".to_owned(),
    ];
    let bad_bodies = [
        post(CHUNKED, "5\nhello\r\n0\r\n\r\n"),
        post(CHUNKED, "5;a\nhello\r\n0\r\n\r\n"),
        post(CHUNKED, "\r\nhello\r\n0\r\n\r\n"),
        post(CHUNKED, "+5\r\nhello\r\n0\r\n\r\n"),
        post(CHUNKED, "0x5\r\nhello\r\n0\r\n\r\n"),
        post(CHUNKED, "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        post(CHUNKED, &format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(LONGEST))),
        post(CHUNKED, "5\r\nhelloX\r\n0\r\n\r\n"),
        post(CHUNKED, "5\r\nhello\n0\r\n\r\n"),
        post(CHUNKED, "0\r\n\n"),
        post(CHUNKED, "0\r\nx-a: b\n\r\n"),
    ];
    let before = [String::new(), GET.to_owned(), post("content-length: 5", "hello"), post(CHUNKED, "5\r\nhello\r\n0\r\n\r\n")];
    for (bads, in_body) in [(&bad_heads[..], false), (&bad_bodies[..], true)] {
        for (bad, before) in bads.iter().flat_map(|bad| before.iter().map(move |before| (bad, before))) {
            let text = format!("{before}{bad}{GET}");
            for at in 0..=text.len() {
                let fault = cut(&text, at).unwrap_err();
                assert_eq!(fault.in_body, in_body, "{text:?} at {at}");
                let good = before.len()..before.len() + bad.len();
                assert!(good.contains(&fault.good), "{text:?} at {at}: {fault:?}");
            }
            assert_eq!(byte_by_byte(&text), Err(in_body), "{text:?}");
        }
    }
}

#[test]
fn a_connection_on_which_another_protocol_was_asked_for_is_known() {
    let mut framing = Framing::default();
    framing.pass(GET.as_bytes()).unwrap();
    assert!(!framing.may_switch());
    // Nothing of another protocol comes within the head that asks for it.
    framing.pass(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n").unwrap();
    assert!(!framing.may_switch());
    framing.pass(b"\r\n").unwrap();
    assert!(framing.may_switch());
    framing.pass(GET.as_bytes()).unwrap();
    assert!(framing.may_switch());
}
