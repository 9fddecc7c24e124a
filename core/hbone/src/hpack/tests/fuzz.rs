//! Header blocks that are like those of honest peers: what is read can be written again, and the tables stay within their size.

use ambit_fuzz::{Corpus, Target};

use super::decode;
use crate::{
    Authority,
    hpack::{Decoder, Encoder, FIELD_OVERHEAD, Indexing, TABLE_SIZE},
};

/// A block of a tunnel's request, with every way of indexing.
fn block(encoder: &mut Encoder) -> Vec<u8> {
    let mut block = Vec::new();
    encoder.begin(&mut block);
    encoder.field(&mut block, ":method", b"CONNECT", Indexing::Keep);
    encoder.field(&mut block, ":authority", b"10.244.1.5:8080", Indexing::Once);
    encoder.field(&mut block, "baggage", b"k8s.namespace.name=shop,service.name=web", Indexing::Keep);
    encoder.field(&mut block, "forwarded", b"for=\"10.0.0.1:4711\";host=api.shop.svc", Indexing::Never);
    block
}

pub(crate) fn what_is_read_of_a_block_is_read_again_when_it_is_written_again() {
    let mut encoder = Encoder::new();
    let corpus = Corpus::new().with("a request", block(&mut encoder)).with("the same again, by the table", block(&mut encoder));
    let tokens: [&[u8]; 6] = [b"\x20", b"\x3f\xe1\x1f", b"\xbe", b"\x40\x01a\x01b", b"\x0f\x2f", b"\xff\xff\xff\xff\xff"];
    Target::new("header blocks", corpus).tokens(tokens).run(|bytes, dice| {
        // In two blocks, as the second finds what the first has left in the table.
        let (first, second) = bytes.split_at(if dice.u8(..4) > 0 { bytes.len() } else { dice.usize(..=bytes.len()) });
        let (mut decoder, mut encoder, mut again) = (Decoder::new(), Encoder::new(), Decoder::new());
        let mut read = false;
        for part in [first, second] {
            let fields = decode(&mut decoder, part);
            assert!(decoder.table().size() <= TABLE_SIZE && decoder.table().len() <= TABLE_SIZE / FIELD_OVERHEAD);
            let Ok(fields) = fields else { return read };
            assert!(fields.len() <= part.len(), "a field takes a byte at least");
            // What is no text was read as text here.
            if fields.iter().all(|(name, value)| !name.contains('\u{fffd}') && !value.contains('\u{fffd}')) {
                let mut block = Vec::new();
                encoder.begin(&mut block);
                for (name, value) in &fields {
                    let indexing = [Indexing::Keep, Indexing::Once, Indexing::Never][dice.usize(..3)];
                    encoder.field(&mut block, name, value.as_bytes(), indexing);
                }
                assert_eq!(decode(&mut again, &block).unwrap(), fields);
            }
            read |= !fields.is_empty();
        }
        read
    });
}

pub(crate) fn a_target_that_is_read_reads_back_as_it_is_written() {
    let targets = ["10.244.1.5:8080", "[fd44::1:5]:80", "[::ffff:1.2.3.4]:80", "orders.shop.svc.cluster.local:9000", "a_b-c.d:1"];
    let corpus = targets.iter().fold(Corpus::new(), |corpus, text| corpus.with(*text, *text));
    let target = Target::new("targets of tunnels", corpus).tokens([":80", "[", "]", ".", "::", "%eth0", "@", "0"]).longest(600);
    target.run(|bytes, _| {
        let Ok(target) = String::from_utf8_lossy(bytes).parse::<Authority>() else { return false };
        let text = target.to_string();
        assert_eq!(text.parse::<Authority>().unwrap(), target);
        assert!(text.len() <= 253 + 6 && text.is_ascii() && target.port() != 0);
        true
    });
}
