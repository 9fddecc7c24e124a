//! The files that the process's code is from: the program and its libraries.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, NativeEndian};

use super::symbols::Symbols;

/// A slice of a table of the compiler.
pub(super) type Slice<'a> = EndianSlice<'a, NativeEndian>;

/// All of them, sorted by address.
pub(super) struct Modules(Vec<Module>);

/// One file that is mapped.
pub(super) struct Module {
    pub(super) path: String,
    /// Addresses of its code.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where in the file the code is.
    pub(super) offset: u64,
    /// What is added to the addresses in the file.
    pub(super) bias: u64,
    tables: Option<Tables>,
}

/// The tables for unwinding, as they are in the file.
struct Tables {
    header: Vec<u8>,
    frames: Vec<u8>,
    bases: BaseAddresses,
}

impl Modules {
    /// Reads what is mapped now.
    pub(super) fn load() -> io::Result<Self> {
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mut modules: Vec<Module> = Vec::new();
        let mut first: Option<(&str, u64)> = None;
        for line in maps.lines() {
            let Some((start, end, permissions, offset, path)) = mapping(line) else { continue };
            if offset == 0 {
                first = Some((path, start));
            }
            // A file's parts lie one after the other, the first of them with its head.
            let Some((_, base)) = first.filter(|(known, _)| permissions.contains('x') && *known == path) else { continue };
            modules.push(Module { path: path.to_owned(), start, end, offset, bias: base, tables: None });
        }
        for module in &mut modules {
            // What cannot be read is not unwound, and has no names.
            let Ok(elf) = Elf::open(&module.path) else { continue };
            if !elf.relocatable {
                module.bias = 0;
            }
            module.tables = elf.tables(module.bias).ok();
        }
        modules.sort_by_key(|module| module.start);
        Ok(Self(modules))
    }

    pub(super) fn all(&self) -> &[Module] {
        &self.0
    }

    /// The number of the one whose code is at this address.
    pub(super) fn number(&self, address: u64) -> Option<usize> {
        let number = self.0.partition_point(|module| module.end <= address);
        self.0.get(number).filter(|module| module.start <= address).map(|_| number)
    }

    pub(super) fn at(&self, address: u64) -> Option<&Module> {
        self.0.get(self.number(address)?)
    }
}

impl Module {
    /// The tables for unwinding: index, frames, and where they are in memory.
    pub(super) fn tables(&self) -> Option<(EhFrameHdr<Slice<'_>>, EhFrame<Slice<'_>>, &BaseAddresses)> {
        let Tables { header, frames, bases } = self.tables.as_ref()?;
        Some((EhFrameHdr::new(header, NativeEndian), EhFrame::new(frames, NativeEndian), bases))
    }

    /// Reads its symbols.
    pub(super) fn symbols(&self) -> Option<Symbols> {
        let elf = Elf::open(&self.path).ok()?;
        // What a distribution strips still has the names that others link to.
        let (symbols, texts) = elf.symbols(".symtab", ".strtab").or_else(|| elf.symbols(".dynsym", ".dynstr"))?;
        Some(Symbols::parse(&symbols, texts, self.bias))
    }
}

/// Start, end, permissions, offset and path of a line of `/proc/<pid>/maps`, if it is of a file.
fn mapping(line: &str) -> Option<(u64, u64, &str, u64, &str)> {
    let mut words = line.splitn(6, ' ');
    let (range, permissions, offset) = (words.next()?, words.next()?, words.next()?);
    let path = words.nth(2)?.trim_start();
    let (start, end) = range.split_once('-')?;
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    path.starts_with('/').then_some((hex(start)?, hex(end)?, permissions, hex(offset)?, path))
}

/// A file in the Executable and Linkable Format, 64 bits.
struct Elf {
    file: File,
    relocatable: bool,
    sections: Vec<Section>,
}

struct Section {
    name: String,
    address: u64,
    offset: u64,
    size: u64,
}

/// The largest section that is read, in bytes.
const MOST: u64 = 256 << 20;

impl Elf {
    fn open(path: &str) -> io::Result<Self> {
        // The program itself may have been replaced by another version.
        let own = fs::read_link("/proc/self/exe").is_ok_and(|own| own.to_str() == Some(path));
        let file = File::open(if own { "/proc/self/exe" } else { path })?;
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0)?;
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        if !head.starts_with(b"\x7fELF\x02") {
            return Err(bad());
        }
        let relocatable = number(&head, 16, 2) == Some(3);
        let (at, size) = (number(&head, 40, 8).ok_or_else(bad)?, number(&head, 58, 2).ok_or_else(bad)?);
        let (count, names) = (number(&head, 60, 2).ok_or_else(bad)?, number(&head, 62, 2).ok_or_else(bad)?);
        let table = bytes(&file, at, size * count)?;
        let entry = |index: u64| {
            let start = usize::try_from(index * size).ok()?;
            let entry = table.get(start..)?;
            Some((number(entry, 0, 4)?, number(entry, 16, 8)?, number(entry, 24, 8)?, number(entry, 32, 8)?))
        };
        let (_, _, offset, length) = entry(names).ok_or_else(bad)?;
        let texts = bytes(&file, offset, length)?;
        let sections = (0..count).filter_map(entry).map(|(name, address, offset, size)| Section {
            name: text(&texts, name).to_owned(),
            address,
            offset,
            size,
        });
        Ok(Self { sections: sections.collect(), relocatable, file })
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    fn read(&self, section: &Section) -> io::Result<Vec<u8>> {
        bytes(&self.file, section.offset, section.size)
    }

    fn tables(&self, bias: u64) -> io::Result<Tables> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let header = self.section(".eh_frame_hdr").ok_or_else(missing)?;
        let frames = self.section(".eh_frame").ok_or_else(missing)?;
        let at = |section: &Section| section.address.wrapping_add(bias);
        let mut bases = BaseAddresses::default().set_eh_frame_hdr(at(header)).set_eh_frame(at(frames));
        if let Some(code) = self.section(".text") {
            bases = bases.set_text(at(code));
        }
        if let Some(got) = self.section(".got") {
            bases = bases.set_got(at(got));
        }
        Ok(Tables { header: self.read(header)?, frames: self.read(frames)?, bases })
    }

    fn symbols(&self, symbols: &str, texts: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        let (symbols, texts) = (self.section(symbols)?, self.section(texts)?);
        Some((self.read(symbols).ok()?, self.read(texts).ok()?))
    }
}

fn bytes(file: &File, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let size = Some(size).filter(|size| *size <= MOST).and_then(|size| usize::try_from(size).ok());
    let mut bytes = vec![0; size.ok_or(io::ErrorKind::FileTooLarge)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// An unsigned number of up to 8 bytes, little end first, as on all machines that this is built for.
pub(super) fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A text that ends with a zero.
pub(super) fn text(texts: &[u8], at: u64) -> &str {
    let from = usize::try_from(at).ok().and_then(|at| texts.get(at..)).unwrap_or_default();
    let text = from.split(|byte| *byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_among_what_is_mapped_with_its_tables_and_names() {
        let modules = Modules::load().unwrap();
        let here = mapping as *const () as u64;
        let module = modules.at(here).unwrap();
        assert!(module.path.contains("ambit_runtime") && module.tables().is_some(), "{}", module.path);
        let symbols = module.symbols().unwrap();
        let (_, name) = symbols.at(here + 1).unwrap();
        assert!(name.contains("mapping"), "{name}");
        assert!(modules.all().iter().any(|module| module.path.contains("libc") && module.tables().is_some()));
        assert!(modules.at(1).is_none() && modules.at(u64::MAX).is_none());
    }

    #[test]
    fn a_line_of_a_file_is_read_and_others_are_not() {
        let line = "7f00-7f10 r-xp 00001000 fe:00 7          /usr/lib/a name.so (deleted)";
        assert_eq!(mapping(line), Some((0x7f00, 0x7f10, "r-xp", 0x1000, "/usr/lib/a name.so (deleted)")));
        assert_eq!(mapping("7f00-7f10 rw-p 00000000 00:00 0"), None);
        assert_eq!(mapping("7f00-7f10 r-xp 00000000 00:00 0                  [vdso]"), None);
    }
}
