//! Random fields and random bytes.

use fastrand::Rng;

use super::decode;
use crate::hpack::{Decoder, Encoder, FIELD_OVERHEAD, Indexing, TABLE_SIZE, huffman, integer};

const NAMES: [&str; 8] = [":status", ":method", ":authority", "baggage", "forwarded", "cookie", "x-a", "x-some-longer-name"];

fn text(random: &mut Rng, longest: usize) -> Vec<u8> {
    let length = random.usize(..longest);
    (0..length).map(|_| if random.u8(..8) == 0 { random.u8(..) } else { random.u8(b' '..=b'~') }).collect()
}

#[test]
fn integers_of_any_size_and_prefix_come_back() {
    let mut random = Rng::with_seed(1);
    for _ in 0..20_000 {
        let bits = random.u8(1..=8);
        let most = 1 << random.u8(1..28);
        let value = random.usize(..most);
        let mut out = Vec::new();
        integer::encode(&mut out, value, bits, 0);
        assert_eq!(integer::decode(&mut out.as_slice(), bits), Some(value));
        assert_eq!(integer::decode(&mut &out[..out.len() - 1], bits), None, "cut off");
    }
}

#[test]
fn every_byte_comes_back_from_the_huffman_code() {
    let mut random = Rng::with_seed(2);
    for case in 0..5_000_usize {
        let plain = match case {
            0..256 => vec![u8::try_from(case).unwrap(); 1 + case % 9],
            _ => text(&mut random, 100),
        };
        let (mut coded, mut back) = (Vec::new(), Vec::new());
        huffman::encode(&plain, &mut coded);
        huffman::decode(&coded, &mut back).unwrap();
        assert_eq!(back, plain);
    }
}

#[test]
fn any_bytes_in_huffman_code_give_at_most_eight_for_five_and_no_panic() {
    let mut random = Rng::with_seed(3);
    for _ in 0..20_000 {
        let length = random.usize(..40);
        let coded: Vec<u8> = (0..length).map(|_| if random.bool() { 0xff } else { random.u8(..) }).collect();
        let mut out = Vec::new();
        let result = huffman::decode(&coded, &mut out);
        assert!(out.len() <= coded.len() * 8 / 5);
        if result.is_ok() {
            let mut again = Vec::new();
            huffman::encode(&out, &mut again);
            assert_eq!(again, coded, "there is one way to write a string");
        }
    }
}

#[test]
fn fields_come_back_block_by_block_while_the_table_changes_its_size() {
    for seed in 0..100 {
        let mut random = Rng::with_seed(seed);
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        // A few values that repeat, so that entries are found again and pushed out.
        let values: Vec<Vec<u8>> = (0..12).map(|_| text(&mut random, 600)).collect();
        for _ in 0..60 {
            if random.u8(..5) == 0 {
                encoder.set_table_size(random.u32(..6000));
            }
            let mut block = Vec::new();
            encoder.begin(&mut block);
            let mut expected = Vec::new();
            for _ in 0..random.usize(..12) {
                let name = NAMES[random.usize(..NAMES.len())];
                let value = &values[random.usize(..values.len())];
                let indexing = [Indexing::Keep, Indexing::Keep, Indexing::Once, Indexing::Never][random.usize(..4)];
                encoder.field(&mut block, name, value, indexing);
                expected.push((name.to_owned(), String::from_utf8_lossy(value).into_owned()));
            }
            assert_eq!(decode(&mut decoder, &block).unwrap(), expected);
            assert_eq!((decoder.table().size(), decoder.table().len()), (encoder.table().size(), encoder.table().len()));
            assert!(decoder.table().size() <= TABLE_SIZE);
        }
    }
}

#[test]
fn garbage_is_refused_or_gives_fields_and_the_table_stays_within_its_size() {
    let mut random = Rng::with_seed(4);
    for _ in 0..2_000 {
        let mut decoder = Decoder::new();
        for _ in 0..10 {
            let length = random.usize(..200);
            // Short lengths and indices are what makes fields of garbage.
            let block: Vec<u8> = (0..length).map(|_| if random.bool() { random.u8(..) } else { random.u8(..8) }).collect();
            let mut count = 0;
            let done = decoder.decode(&block, |_| {
                count += 1;
                true
            });
            assert!(count <= block.len(), "a field takes a byte at least");
            assert!(decoder.table().size() <= TABLE_SIZE);
            assert!(decoder.table().len() <= TABLE_SIZE / FIELD_OVERHEAD);
            if done.is_err() {
                break;
            }
        }
    }
}
