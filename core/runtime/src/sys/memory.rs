//! Giving memory back to the system.

use std::{fs, io};

use nix::libc;

/// Gives back what this process holds and does not need now: freed memory that the allocator keeps, and pages of the program and its
/// libraries that were needed once, by start-up for example. Both come back by themselves when they are used again, at the cost of a
/// page fault each; so this is for a process that is idle. Returns how many bytes of programs were let go.
///
/// # Errors
/// When the kernel does not tell what is mapped.
pub fn give_back() -> io::Result<u64> {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only memory that the allocator knows to be free.
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = fs::read_to_string("/proc/self/smaps")?;
    let mut total = 0;
    for program in programs(&maps) {
        // SAFETY: the range is mapped from a file, cannot be written to, and has no page of its own that differs from the file's: what
        // is let go is read from the file again.
        if unsafe { libc::madvise(program.start as *mut libc::c_void, program.length, libc::MADV_DONTNEED) } == 0 {
            total += program.resident;
        }
    }
    Ok(total)
}

#[derive(Debug, PartialEq, Eq)]
struct Program {
    start: usize,
    length: usize,
    /// Bytes of it that are in memory.
    resident: u64,
}

/// The parts of `maps` (the text of `/proc/<pid>/smaps`) that are as their files are, and stay so: neither can they be written to, nor
/// were they before, as tables that the loader fills in.
fn programs(maps: &str) -> Vec<Program> {
    let mut found = Vec::new();
    let mut current: Option<Program> = None;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        let kilobytes = || second.parse::<u64>().unwrap_or(0) * 1024;
        match first {
            "Rss:" => current.iter_mut().for_each(|program| program.resident = kilobytes()),
            // Written before the program's start and protected since, or not to be shared with the file for another reason.
            "Anonymous:" | "Swap:" if kilobytes() > 0 => current = None,
            "VmFlags:" => found.extend(current.take()),
            _ if !first.ends_with(':') => current = mapping(first, second, words.nth(3)),
            _ => {}
        }
    }
    found
}

/// A part that may be let go, by the head of its entry: address range, permissions, path.
fn mapping(range: &str, permissions: &str, path: Option<&str>) -> Option<Program> {
    let read_only = matches!(permissions, "r-xp" | "r--p") && path.is_some_and(|path| path.starts_with('/'));
    let (start, end) = range.split_once('-').filter(|_| read_only)?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok()?;
    Some(Program { start, length: end.checked_sub(start)?, resident: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_its_file_is_may_be_let_go() {
        let entry = |head: &str, anonymous: u32| {
            format!("{head}\nSize: 64 kB\nRss: 12 kB\nAnonymous: {anonymous} kB\nSwap: 0 kB\nVmFlags: rd ex\n")
        };
        let maps = [
            entry("1000-3000 r-xp 00001000 fe:00 7 /usr/bin/ambit", 0),
            entry("3000-4000 r--p 00003000 fe:00 7 /usr/bin/ambit", 4),
            entry("4000-5000 rw-p 00004000 fe:00 7 /usr/bin/ambit", 0),
            entry("5000-6000 r--p 00000000 00:00 0", 0),
            entry("6000-7000 r-xp 00000000 00:00 0 [vdso]", 0),
            entry("7000-9000 r--p 00000000 fe:00 9 /lib/libc.so.6", 0),
        ];
        let program = |start, length| Program { start, length, resident: 12 << 10 };
        assert_eq!(programs(&maps.concat()), [program(0x1000, 0x2000), program(0x7000, 0x2000)]);
    }

    #[test]
    fn the_process_goes_on_as_before() {
        let words: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
        assert!(give_back().unwrap() > 100_000);
        assert_eq!(words.concat().len(), 2890);
        assert!(give_back().is_ok());
    }
}
