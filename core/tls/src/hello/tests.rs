use ambit_fuzz::{Corpus, Target};

use super::{Hello, LONGEST, LONGEST_HELLO, client_hello};

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes()[..], content].concat()
}

/// An extension of this type.
fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(content)].concat()
}

/// The extension `server_name` with this one name.
fn named(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0][..], &vector16(name)].concat()))
}

/// A ClientHello as a message of the handshake. Without extensions at all if they are none.
fn message(extensions: Option<&[u8]>) -> Vec<u8> {
    let head = [&[3, 3][..], &[7; 32], &[2, 1, 2], &[0, 4, 0x13, 1, 0x13, 2], &[1, 0]].concat();
    let body = [head, extensions.map(vector16).unwrap_or_default()].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], &body].concat()
}

/// A message in records with so many bytes of it in each.
fn records(message: &[u8], each: usize) -> Vec<u8> {
    message.chunks(each).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

fn whole(extensions: &[u8]) -> Vec<u8> {
    records(&message(Some(extensions)), 1 << 14)
}

fn of(name: &str) -> Hello {
    Hello::Of(Some(name.to_owned()))
}

#[test]
fn the_name_is_found_among_other_extensions_in_any_case_and_in_any_number_of_records() {
    let extensions = [extension(43, &[2, 3, 4]), named(b"A.Example.com"), extension(16, b"\0\x03\x02h2")].concat();
    let said = message(Some(&extensions));
    for each in [1, 2, 3, 4, 5, 50, 1 << 14] {
        assert_eq!(client_hello(&records(&said, each)), of("a.example.com"), "{each} in a record");
    }
    let more = [whole(&extensions), b"what follows".to_vec()].concat();
    assert_eq!(client_hello(&more), of("a.example.com"));
    assert_eq!(client_hello(&whole(&extension(43, &[2, 3, 4]))), Hello::Of(None));
    assert_eq!(client_hello(&whole(&[])), Hello::Of(None));
    assert_eq!(client_hello(&records(&message(None), 99)), Hello::Of(None));
}

#[test]
fn of_a_part_it_is_said_how_much_it_takes_and_never_more_than_there_is() {
    for each in [3, 40, 1 << 14] {
        let bytes = records(&message(Some(&named(b"a.example"))), each);
        for end in 0..bytes.len() {
            let Hello::More(wanted) = client_hello(&bytes[..end]) else { panic!("{end} of {}", bytes.len()) };
            assert!((end + 1..=bytes.len()).contains(&wanted), "{wanted} after {end} of {}", bytes.len());
        }
    }
}

#[test]
fn what_is_not_as_it_should_be_has_no_name() {
    let good = whole(&named(b"a.example"));
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let twice = [named(b"a.example"), named(b"b.example")].concat();
    let two = extension(0, &vector16(&[&[0][..], &vector16(b"a"), &[0], &vector16(b"b")].concat()));
    for (what, bytes) in [
        ("an alert", changed(0, 21)),
        ("SSL 2", changed(1, 2)),
        ("another message", changed(5, 2)),
        ("a session of 33 bytes", changed(5 + 4 + 34, 33)),
        ("an odd list of ciphers", changed(5 + 4 + 34 + 3 + 1, 3)),
        ("an empty record", b"\x16\x03\x01\0\0".to_vec()),
        ("a record that is too long", b"\x16\x03\x01\x40\x01".to_vec()),
        ("a message that is too long", b"\x16\x03\x01\0\x04\x01\0\x40\x01".to_vec()),
        ("HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
        ("the extension twice", whole(&twice)),
        ("two names", whole(&two)),
        ("a name of no bytes", whole(&named(b""))),
        ("a name of 256 bytes", whole(&named(&[b'a'; 256]))),
        ("a name with a zero", whole(&named(b"a\0b"))),
        ("a name that is not ASCII", whole(&named("ä.example".as_bytes()))),
        ("a name of another type", whole(&extension(0, &vector16(&[&[1][..], &vector16(b"a")].concat())))),
        ("something behind the name", whole(&extension(0, &[vector16(&[&[0][..], &vector16(b"a")].concat()), vec![0]].concat()))),
        ("an extension that ends too soon", whole(&[0, 0, 0, 9, 0])),
        ("something behind the extensions", {
            let message = message(Some(&named(b"a.example")));
            let mut longer = [&message[..], &[0]].concat();
            longer[3] += 1;
            records(&longer, 1 << 14)
        }),
    ] {
        assert_eq!(client_hello(&bytes), Hello::Other, "{what}");
    }
    assert_eq!(client_hello(&good), of("a.example"));
}

#[test]
fn no_more_is_asked_for_than_a_hello_may_take() {
    let long = vec![0; LONGEST_HELLO - 200];
    let bytes = whole(&[extension(21, &long), named(b"a.example")].concat());
    assert_eq!(client_hello(&bytes), of("a.example"));
    // One byte in each record: it would be six times as long.
    let bytes = records(&message(Some(&extension(21, &long))), 1);
    assert_eq!(client_hello(&bytes[..LONGEST]), Hello::Other);
}

/// No bytes panic, or make it ask for what is there or for too much.
pub(crate) fn random_bytes() {
    let extensions = [extension(43, &[2, 3, 4]), named(b"a.example.com"), extension(16, b"\0\x03\x02h2")].concat();
    let said = message(Some(&extensions));
    let corpus = Corpus::new()
        .with("in one record", records(&said, 1 << 14))
        .with("in small records", records(&said, 7))
        .with("in tiny records", records(&said, 1))
        .with("without extensions", records(&message(None), 1 << 14));
    let tokens = vec![vec![22, 3, 1, 0], vec![1, 0, 0], named(b"b"), extension(0, b""), vec![0xff, 0xff], vec![0, 0]];
    Target::new("ClientHellos", corpus).tokens(tokens).longest(LONGEST).run(|bytes, _| {
        let said = client_hello(bytes);
        match &said {
            Hello::More(wanted) => assert!((bytes.len() + 1..=LONGEST).contains(wanted), "{wanted} of {}", bytes.len()),
            Hello::Of(Some(name)) => assert!((1..=255).contains(&name.len()) && !name.contains(' ')),
            Hello::Of(None) | Hello::Other => {}
        }
        said != Hello::Other
    });
}
