//! The format of `pprof`: `profile.proto` of github.com/google/pprof, not compressed.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::modules::Modules;

/// What is counted.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
}

/// A profile under way.
pub(super) struct Profile {
    message: Message,
    texts: Texts,
    locations: HashMap<u64, u64>,
}

/// Each text once; the first is the empty one.
struct Texts {
    numbers: HashMap<String, u64>,
    message: Message,
}

impl Texts {
    fn number(&mut self, text: &str) -> u64 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len() as u64;
        self.numbers.insert(text.to_owned(), number);
        self.message.bytes(6, text.as_bytes());
        number
    }
}

impl Profile {
    pub(super) fn new(kinds: &[Kind], period: Kind, every: i64) -> Self {
        let mut texts = Texts { numbers: HashMap::new(), message: Message::default() };
        texts.number("");
        let mut message = Message::default();
        let mut kind = |kind: &Kind| {
            let mut value = Message::default();
            value.number(1, texts.number(kind.name));
            value.number(2, texts.number(kind.unit));
            value
        };
        for counted in kinds {
            message.message(1, &kind(counted));
        }
        message.message(11, &kind(&period));
        message.number(12, every.cast_unsigned());
        Self { message, texts, locations: HashMap::new() }
    }

    /// Adds what was counted at a stack, the innermost frame first.
    pub(super) fn add(&mut self, stack: &[u64], values: &[i64]) {
        let mut sample = Message::default();
        for address in stack {
            let next = self.locations.len() as u64 + 1;
            sample.number(1, *self.locations.entry(*address).or_insert(next));
        }
        for value in values {
            // Each of them counts, zeros too.
            sample.always(2, value.cast_unsigned());
        }
        self.message.message(2, &sample);
    }

    /// Says what is at the addresses, and writes it all.
    pub(super) fn finish(mut self, modules: &Modules, ended: SystemTime, took: Duration) -> Vec<u8> {
        for (number, module) in (1..).zip(modules.all()) {
            let mut mapping = Message::default();
            mapping.number(1, number);
            mapping.number(2, module.start);
            mapping.number(3, module.end);
            mapping.number(4, module.offset);
            mapping.number(5, self.texts.number(&module.path));
            // Functions are named; lines and what was inlined are not.
            mapping.number(7, 1);
            self.message.message(3, &mapping);
        }
        self.name(modules);
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let begun = ended.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(took);
        self.message.number(9, nanoseconds(begun));
        self.message.number(10, nanoseconds(took));
        self.message.0.extend(self.texts.message.0);
        self.message.0
    }

    fn name(&mut self, modules: &Modules) {
        let mut locations: Vec<(u64, u64)> = self.locations.iter().map(|(address, number)| (*address, *number)).collect();
        // So that the symbols of one file are in memory at a time.
        locations.sort_unstable();
        let mut functions: HashMap<u64, u64> = HashMap::new();
        let mut symbols = (None, None);
        for (address, number) in locations {
            let mut location = Message::default();
            location.number(1, number);
            location.number(3, address);
            if let Some(module) = modules.number(address.saturating_sub(1)) {
                location.number(2, module as u64 + 1);
                if symbols.0 != Some(module) {
                    symbols = (Some(module), modules.all().get(module).and_then(super::modules::Module::symbols));
                }
                let found = symbols.1.as_ref().and_then(|symbols| symbols.at(address.saturating_sub(1)));
                if let Some((start, name)) = found {
                    let next = functions.len() as u64 + 1;
                    let function = *functions.entry(start).or_insert(next);
                    if function == next {
                        let name = self.texts.number(name);
                        let mut message = Message::default();
                        [(1, next), (2, name), (3, name)].into_iter().for_each(|(field, value)| message.number(field, value));
                        self.message.message(5, &message);
                    }
                    let mut line = Message::default();
                    line.number(1, function);
                    location.message(4, &line);
                }
            }
            self.message.message(4, &location);
        }
    }
}

/// A message in the encoding of protocol buffers.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// A field that is left out when it is zero.
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.always(field, value);
        }
    }

    fn always(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }
}
