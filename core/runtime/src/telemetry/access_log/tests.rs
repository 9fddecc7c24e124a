use super::*;
use crate::telemetry::Direction;

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ambit-access-log-{name}-{}", std::process::id()))
}

#[test]
fn lines_written_before_a_flush_are_in_the_file_in_order() {
    let path = file("order");
    let log = AccessLog::open(&Destination::File(path.clone())).unwrap();
    for number in 0..1000 {
        log.line(&format!("line={number}"));
    }
    log.flush();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let numbers: Vec<_> = text.lines().map(|line| line.split_once("line=").unwrap().1.parse::<u32>().unwrap()).collect();
    assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
    assert!(text.starts_with("20") && text.contains("Z line=0\n"), "{}", &text[..60]);
}

#[test]
fn a_line_is_in_the_file_soon_without_a_flush_and_the_last_one_after_the_log_is_closed() {
    let path = file("soon");
    let log = AccessLog::open(&Destination::File(path.clone())).unwrap();
    let wait_for = |text: &str| {
        let until = Instant::now() + Duration::from_secs(5);
        while !std::fs::read_to_string(&path).unwrap().contains(text) {
            assert!(Instant::now() < until, "{text} is not in the log");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    for line in ["line=1", "line=2"] {
        log.line(&line);
        wait_for(line);
    }
    log.line(&"line=3");
    drop(log);
    wait_for("line=3");
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn what_ended_well_is_written_by_its_share_and_what_was_refused_always() {
    let path = file("sampled");
    let log = AccessLog::open(&Destination::File(path.clone())).unwrap();
    let log = log.with_style(Style { format: LogFormat::Json, sample: 0.0 });
    let address = "10.0.0.1:80".parse().unwrap();
    let mut entry = Entry::new(Direction::Outbound, address, address);
    (0..100).for_each(|_| log.write(&entry));
    entry.reason = "upstream_refused".into();
    log.write(&entry);
    log.flush();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((text.lines().count(), &read["reason"]), (1, &"upstream_refused".into()), "{text}");
    assert!(read["time"].as_str().unwrap().ends_with('Z'), "{text}");
}

/// Answers as it is told; takes everything when it is told nothing more.
struct Told(Vec<io::Result<usize>>, Vec<u8>);

impl Write for Told {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = if self.0.is_empty() { bytes.len() } else { self.0.remove(0)? };
        self.1.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_destination_that_is_full_for_a_moment_loses_no_line_and_one_that_fails_no_line_after_it() {
    let error = |kind: io::ErrorKind| Err(io::Error::from(kind));
    let mut written = Written::default();
    let mut full = Told(vec![Ok(3), error(io::ErrorKind::WouldBlock), error(io::ErrorKind::Interrupted)], Vec::new());
    written.write(&mut full, b"one\ntwo\n").unwrap();
    assert_eq!(full.1, b"one\ntwo\n");
    let mut failing = Told(vec![Ok(5), error(io::ErrorKind::StorageFull)], Vec::new());
    written.write(&mut failing, b"one\ntwo\n").unwrap_err();
    assert_eq!(lines(&b"one\ntwo\n"[written.written..]), 1);
    written.write(&mut failing, b"three\n").unwrap();
    written.write(&mut failing, b"four\n").unwrap();
    assert_eq!(failing.1, b"one\nt\nthree\nfour\n");
}

#[test]
fn a_log_that_cannot_be_opened_says_which_file() {
    let error = AccessLog::open(&Destination::File("/nonexistent/dir/log".into())).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/dir/log"), "{error}");
}

#[test]
fn a_file_that_was_renamed_is_opened_anew_and_no_line_is_lost() {
    let (path, old) = (file("rotated"), file("rotated-old"));
    let log = AccessLog::open(&Destination::File(path.clone())).unwrap();
    log.line(&"line=1");
    log.flush();
    std::fs::rename(&path, &old).unwrap();
    log.line(&"line=2");
    log.flush();
    log.reopen();
    log.line(&"line=3");
    log.flush();
    // In its place is what cannot be opened: lines go where they went.
    let new = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    log.reopen();
    log.line(&"line=4");
    log.flush();
    std::fs::remove_dir(&path).unwrap();
    log.reopen();
    log.line(&"line=5");
    log.flush();
    let read = |text: String| text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>();
    assert_eq!(read(std::fs::read_to_string(&old).unwrap()), ["line=1", "line=2"]);
    assert_eq!(read(new), ["line=3"]);
    assert_eq!(read(std::fs::read_to_string(&path).unwrap()), ["line=5"], "the fourth is in the file that was open");
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&old).unwrap();
}
