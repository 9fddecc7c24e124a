//! The examples of RFC 7541, appendix C, and rules of its sections.

use super::{decode, hex};
use crate::hpack::{BadBlock, Decoder, Encoder, Indexing, fixed, huffman, integer};

type Fields = &'static [(&'static str, &'static str)];

/// A table of 256 bytes, as the RFC's answers use it.
const SMALL_TABLE: &str = "3fe101";

/// Decodes block after block: what it must give, and the table's size after it.
fn check(setup: &str, blocks: &[(&str, Fields, usize)]) {
    let mut decoder = Decoder::new();
    assert_eq!(decode(&mut decoder, &hex(setup)), Ok(Vec::new()));
    for (block, fields, size) in blocks {
        let expected: Vec<_> = fields.iter().map(|(name, value)| (String::from(*name), String::from(*value))).collect();
        assert_eq!(decode(&mut decoder, &hex(block)).unwrap(), expected, "{block}");
        assert_eq!(decoder.table().size(), *size, "{block}");
    }
}

fn refused(block: &str) -> &'static str {
    let BadBlock(why) = decode(&mut Decoder::new(), &hex(block)).unwrap_err();
    why
}

#[test]
fn the_examples_for_integers() {
    for (value, bits, bytes) in [(10, 5, vec![10]), (1337, 5, vec![31, 154, 10]), (42, 8, vec![42])] {
        let mut out = Vec::new();
        integer::encode(&mut out, value, bits, 0);
        assert_eq!(out, bytes);
        let mut input = out.as_slice();
        assert_eq!(integer::decode(&mut input, bits), Some(value));
        assert!(input.is_empty());
    }
}

#[test]
fn the_examples_for_single_fields() {
    check("", &[("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", &[("custom-key", "custom-header")], 55)]);
    check("", &[("040c 2f73 616d 706c 652f 7061 7468", &[(":path", "/sample/path")], 0)]);
    check("", &[("1008 7061 7373 776f 7264 0673 6563 7265 74", &[("password", "secret")], 0)]);
    check("", &[("82", &[(":method", "GET")], 0)]);
}

const REQUESTS: [(Fields, usize); 3] = [
    (&[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")], 57),
    (
        &[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "www.example.com"),
            ("cache-control", "no-cache"),
        ],
        110,
    ),
    (
        &[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ],
        164,
    ),
];

const ANSWERS: [(Fields, usize); 3] = [
    (
        &[
            (":status", "302"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ],
        222,
    ),
    (
        &[
            (":status", "307"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com"),
        ],
        222,
    ),
    (
        &[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            ("location", "https://www.example.com"),
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ],
        215,
    ),
];

fn check_all(setup: &str, blocks: [&str; 3], expected: [(Fields, usize); 3]) {
    let rows: Vec<_> = blocks.into_iter().zip(expected).map(|(block, (fields, size))| (block, fields, size)).collect();
    check(setup, &rows);
}

#[test]
fn the_examples_for_requests_without_huffman_code() {
    let blocks = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    check_all("", blocks, REQUESTS);
}

#[test]
fn the_examples_for_requests_in_huffman_code() {
    let blocks = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    check_all("", blocks, REQUESTS);
}

#[test]
fn the_examples_for_answers_without_huffman_code() {
    let blocks = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 \
         7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a \
         4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
    ];
    check_all(SMALL_TABLE, blocks, ANSWERS);
}

#[test]
fn the_examples_for_answers_in_huffman_code() {
    let blocks = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae \
         82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 \
         d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    check_all(SMALL_TABLE, blocks, ANSWERS);
}

#[test]
fn every_name_of_the_static_table_is_found_at_its_first_index() {
    let mut names = std::collections::HashMap::new();
    for index in 1..=fixed::LEN {
        let field = fixed::get(index).unwrap();
        let name = std::str::from_utf8(&field.name).unwrap().to_owned();
        let first = *names.entry(name.clone()).or_insert(index);
        assert_eq!(fixed::name(&name), Some(first));
        if name == ":status" {
            assert_eq!(fixed::field(&name, &field.value), Some(index));
        }
    }
    assert!(fixed::get(0).is_none() && fixed::get(fixed::LEN + 1).is_none());
    assert_eq!(fixed::name("x-other"), None);
}

#[test]
fn a_block_that_breaks_a_rule_is_refused() {
    assert_eq!(refused("80"), "a header field has an index beyond the tables");
    assert_eq!(refused("be"), "a header field has an index beyond the tables");
    assert_eq!(refused("7e00"), "a header field has an index beyond the tables");
    assert_eq!(refused("ff"), "a header block ends within a field");
    assert_eq!(refused("ffffffffffffff7f"), "a header block ends within a field");
    assert_eq!(refused("4001"), "a header block ends within a field");
    assert_eq!(refused("40016101"), "a header block ends within a field");
    assert_eq!(refused("3fe21f"), "the peer's header table is larger than allowed");
    assert_eq!(refused("8220"), "a header table's size changes within a block");
    assert_eq!(refused("400161 84ffffffff"), "a header string does not follow the Huffman code");
}

#[test]
fn huffman_padding_is_ones_and_shorter_than_a_byte() {
    let decoded = |bytes: &[u8]| huffman::decode(bytes, &mut Vec::new());
    // `a` is 00011.
    assert_eq!(decoded(&[0b0001_1111]), Ok(()));
    assert!(decoded(&[0b0001_1000]).is_err(), "padding of zeros");
    assert!(decoded(&[0b0001_1111, 0xff]).is_err(), "padding of eleven bits");
    assert!(decoded(&[0xff]).is_err(), "padding of eight bits");
    assert!(decoded(&[0xff; 4]).is_err(), "the end symbol");
    assert_eq!(decoded(&[]), Ok(()));
}

#[test]
fn secrets_are_never_indexed_and_repeated_fields_become_a_byte() {
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    encoder.field(&mut out, "password", b"secret", Indexing::Never);
    assert_eq!(out, hex("1008 7061 7373 776f 7264 0673 6563 7265 74"));
    out.clear();
    encoder.field(&mut out, "forwarded", b"for=10.0.0.1", Indexing::Once);
    assert_eq!(encoder.table().len(), 0);
    encoder.field(&mut out, "baggage", b"k8s.namespace.name=a", Indexing::Keep);
    out.clear();
    encoder.field(&mut out, "baggage", b"k8s.namespace.name=a", Indexing::Keep);
    assert_eq!(out, [0x80 | 62]);
}

#[test]
fn a_peer_that_changes_its_table_is_told_that_we_follow() {
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    encoder.set_table_size(1 << 20);
    encoder.begin(&mut out);
    assert!(out.is_empty(), "4096 bytes are all that is used");
    encoder.set_table_size(0);
    encoder.set_table_size(100);
    encoder.begin(&mut out);
    assert_eq!(out, hex("20 3f45"));
    out.clear();
    encoder.begin(&mut out);
    assert!(out.is_empty(), "once is enough");
    encoder.set_table_size(0);
    encoder.set_table_size(4096);
    encoder.begin(&mut out);
    assert_eq!(out, hex("20 3fe11f"));
}
