//! The directory source on real files.

use std::path::Path;
use std::time::{Duration, Instant};

use istiod_lite::source::{Directory, Event, Source};
use tokio::time::timeout;

/// Longest wait for a change to be seen. The mesh's promise is one second from file to proxy.
const SOON: Duration = Duration::from_millis(900);

fn service(name: &str, port: i32) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

async fn changes(source: &mut Directory) -> Vec<String> {
    let events = timeout(SOON, source.next()).await.expect("the change is seen soon").unwrap();
    let text = |event| match event {
        Event::Upsert(object) => format!("+{}", object.key()),
        Event::Delete(key) => format!("-{key}"),
    };
    events.into_iter().map(text).collect()
}

async fn open(path: &Path) -> (Directory, Vec<String>) {
    let mut source = Directory::new(vec![path.to_owned()]).unwrap();
    let first = changes(&mut source).await;
    (source, first)
}

#[tokio::test]
async fn the_first_batch_is_everything_below_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("a.yaml"), service("a", 80)).unwrap();
    std::fs::write(directory.path().join("sub/b.yml"), service("b", 80)).unwrap();
    std::fs::write(directory.path().join("notes.txt"), "not YAML: [").unwrap();
    std::fs::write(directory.path().join(".a.yaml.swp"), "not YAML: [").unwrap();
    let (source, first) = open(directory.path()).await;
    assert_eq!(first, ["+Service default/a", "+Service default/b"]);
    assert!(source.problems().is_empty());
}

#[tokio::test]
async fn an_edit_in_place_an_editors_rename_and_a_new_subdirectory_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, service("a", 80)).unwrap();
    let (mut source, _) = open(directory.path()).await;

    // Same length, so that only its time stamp can tell.
    std::fs::write(&file, service("a", 81)).unwrap();
    assert_eq!(changes(&mut source).await, ["+Service default/a"]);

    let temporary = directory.path().join("a.yaml~new");
    std::fs::write(&temporary, service("a", 82)).unwrap();
    std::fs::rename(&temporary, &file).unwrap();
    assert_eq!(changes(&mut source).await, ["+Service default/a"]);

    std::fs::create_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("sub/b.yaml"), service("b", 80)).unwrap();
    assert_eq!(changes(&mut source).await, ["+Service default/b"]);

    std::fs::remove_file(&file).unwrap();
    assert_eq!(changes(&mut source).await, ["-Service default/a"]);
}

#[tokio::test]
async fn an_error_wakes_the_reader_without_events_and_so_does_its_recovery() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, service("a", 80)).unwrap();
    let (mut source, _) = open(directory.path()).await;

    std::fs::write(&file, service("a", 0)).unwrap();
    assert!(changes(&mut source).await.is_empty());
    let problems = source.problems();
    let expected = format!("{}:4: Service default/a: spec.ports[0].port: 0 is not a port (1 to 65535)", file.display());
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);

    std::fs::write(&file, service("a", 80)).unwrap();
    assert!(changes(&mut source).await.is_empty());
    assert!(source.problems().is_empty());
}

#[tokio::test]
async fn a_file_written_in_pieces_is_read_once_it_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    let whole = format!("{}---\n{}", service("a", 80), service("b", 80));
    std::fs::write(&file, &whole).unwrap();
    let (mut source, _) = open(directory.path()).await;
    let target = file.clone();
    let writer = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let whole = whole.replace("port: 80", "port: 81");
        let mut open = std::fs::File::create(&target).unwrap();
        for piece in whole.as_bytes().chunks(16) {
            open.write_all(piece).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    assert_eq!(changes(&mut source).await, ["+Service default/a", "+Service default/b"]);
    writer.await.unwrap();
}

#[tokio::test]
async fn reading_files_is_not_taken_for_a_change() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), service("a", 80)).unwrap();
    let (mut source, _) = open(directory.path()).await;
    let begin = Instant::now();
    std::fs::read(directory.path().join("a.yaml")).unwrap();
    assert!(timeout(Duration::from_millis(300), source.next()).await.is_err());
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_directory_that_does_not_exist_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Directory::new(vec![directory.path().join("absent")]).is_err());
}

#[tokio::test]
async fn the_demonstration_is_read_without_a_problem() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    let (source, first) = open(&demo).await;
    assert!(!first.is_empty());
    assert_eq!(*source.problems(), []);
}

#[tokio::test]
async fn a_restart_while_a_file_is_broken_goes_on_with_its_last_good_state() {
    let (directory, memory) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (broken, moved) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
    let start = || Directory::new(vec![directory.path().to_owned()]).unwrap().remembering(memory.path().join("good")).unwrap();
    std::fs::write(&broken, service("a", 80)).unwrap();
    std::fs::write(&moved, service("b", 80)).unwrap();
    assert_eq!(changes(&mut start()).await, ["+Service default/a", "+Service default/b"]);

    // While nobody looks, one file breaks and another is gone.
    std::fs::write(&broken, "kind: [").unwrap();
    std::fs::remove_file(&moved).unwrap();
    let mut source = start();
    assert_eq!(changes(&mut source).await, ["+Service default/a"]);
    assert_eq!(source.problems().len(), 1);

    std::fs::write(&broken, service("a", 81)).unwrap();
    assert_eq!(changes(&mut source).await, ["+Service default/a"]);
    assert!(source.problems().is_empty());
}
