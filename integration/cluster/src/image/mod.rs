//! Container images without a container engine: an OCI image layout in a tar.
//!
//! The layout is that of the OCI image specification, image-layout.md: `oci-layout`, `index.json` and `blobs/sha256/*`. One uncompressed
//! layer, since it is copied within one machine. What goes in decides every byte, so two images of the same files are the same file.

mod tar;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use tar::Tar;

/// What an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Its name and tag, such as `ambit.local/busybox:1`.
    pub name: String,
    /// Its files, in order; directories of their paths are made.
    pub files: Vec<ImageFile>,
    /// What is run, the program by its absolute path.
    pub entrypoint: Vec<String>,
    /// Environment, as `NAME=value`.
    pub environment: Vec<String>,
}

/// A file of an image.
#[derive(Clone, Debug)]
pub struct ImageFile {
    /// Its path in the image, without the leading slash.
    pub path: String,
    /// What it holds.
    pub content: Content,
}

/// What a file of an image holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// A program or library of this machine, for all to read and execute.
    Program(PathBuf),
    /// Text, for all to read.
    Text(String),
    /// A symbolic link to this path.
    Link(String),
}

impl Image {
    /// Adds a program or library of this machine.
    #[must_use]
    pub fn program(mut self, path: impl Into<String>, source: impl Into<PathBuf>) -> Self {
        self.files.push(ImageFile { path: path.into(), content: Content::Program(source.into()) });
        self
    }

    /// Adds a text file.
    #[must_use]
    pub fn text(mut self, path: impl Into<String>, text: impl Into<String>) -> Self {
        self.files.push(ImageFile { path: path.into(), content: Content::Text(text.into()) });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: impl Into<String>, target: impl Into<String>) -> Self {
        self.files.push(ImageFile { path: path.into(), content: Content::Link(target.into()) });
        self
    }

    /// Writes the image as a tar at `output`, for `ctr images import`, `podman load` and `skopeo copy oci-archive:...`.
    ///
    /// # Errors
    /// A program cannot be read, or the file cannot be written.
    pub fn write(&self, output: &Path) -> Result<()> {
        let failed = |cause| Error::path("writing the image", output)(cause);
        let file = File::create(output).map_err(failed)?;
        // The layer's hash stands before it in no place, but its length does: it is made first, in a file without a name.
        let mut layer =
            tempfile::tempfile_in(output.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new(".")))
                .map_err(failed)?;
        let digest = self.write_layer(&mut layer)?;
        let size = layer.stream_position().map_err(failed)?;
        layer.rewind().map_err(failed)?;
        self.write_layout(file, layer, &digest, size).map_err(failed)
    }

    fn write_layer(&self, layer: &mut File) -> Result<String> {
        let mut tar = Tar::new(Hashing { inner: io::BufWriter::new(layer), hash: Sha256::new() });
        for directory in self.directories() {
            tar.directory(&directory).map_err(Error::io(format!("adding {directory}/ to an image")))?;
        }
        for file in &self.files {
            let added = match &file.content {
                Content::Program(source) => add_program(&mut tar, &file.path, source),
                Content::Text(text) => tar.file(&file.path, 0o644, text.len() as u64, &mut text.as_bytes()),
                Content::Link(target) => tar.link(&file.path, target),
            };
            added.map_err(Error::io(format!("adding {} to an image", file.path)))?;
        }
        let ended = tar.end().and_then(|mut layer| layer.inner.flush().map(|()| hexadecimal(layer.hash)));
        ended.map_err(Error::io("writing the layer of an image"))
    }

    /// All directories that the files are in, each before what is in it.
    fn directories(&self) -> std::collections::BTreeSet<String> {
        let parents = |path: &str| Path::new(path).ancestors().skip(1).map(|path| path.display().to_string()).collect::<Vec<_>>();
        let mut all: std::collections::BTreeSet<_> = self.files.iter().flat_map(|file| parents(&file.path)).collect();
        all.remove("");
        // Where every program may write its temporary files.
        all.insert("tmp".to_owned());
        all
    }

    fn write_layout(&self, file: File, mut layer: File, digest: &str, size: u64) -> io::Result<()> {
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": { "Entrypoint": self.entrypoint, "Env": self.environment, "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
            "history": [{ "created_by": "ambit" }],
        });
        let config = Blob::of("application/vnd.oci.image.config.v1+json", &config);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config.descriptor(),
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": format!("sha256:{digest}"), "size": size }],
        });
        let manifest = Blob::of("application/vnd.oci.image.manifest.v1+json", &manifest);
        let mut named = manifest.descriptor();
        named["annotations"] = json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": self.name });
        named["platform"] = json!({ "architecture": architecture(), "os": "linux" });
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named] });

        let mut tar = Tar::new(io::BufWriter::new(file));
        let mut add = |path: &str, text: &str| tar.file(path, 0o644, text.len() as u64, &mut text.as_bytes());
        add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add("index.json", &index.to_string())?;
        add(&config.path(), &config.text)?;
        add(&manifest.path(), &manifest.text)?;
        tar.file(&format!("blobs/sha256/{digest}"), 0o644, size, &mut layer)?;
        tar.end()?.flush()
    }
}

fn add_program<W: Write>(tar: &mut Tar<W>, path: &str, source: &Path) -> io::Result<()> {
    let named = |cause: io::Error| io::Error::new(cause.kind(), format!("{}: {cause}", source.display()));
    let mut file = File::open(source).map_err(named)?;
    let size = file.metadata().map_err(named)?.len();
    tar.file(path, 0o755, size, &mut file).map_err(named)
}

/// What Go calls this machine's architecture, since the specification follows it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A small JSON document that others refer to by its hash.
struct Blob {
    media_type: &'static str,
    text: String,
    digest: String,
}

impl Blob {
    fn of(media_type: &'static str, document: &Value) -> Self {
        let text = document.to_string();
        let digest = hexadecimal(Sha256::new().chain_update(&text));
        Self { media_type, text, digest }
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": format!("sha256:{}", self.digest), "size": self.text.len() })
    }
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that also hashes what it writes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The name of the image in a tar that [`Image::write`] wrote, or another program that keeps to the specification.
///
/// # Errors
/// It is no such tar, or the image in it has no name.
pub fn name_of(archive: &Path) -> Result<String> {
    let mut file = File::open(archive).map_err(Error::path("opening", archive))?;
    let index = tar::find(&mut file, "index.json", 1 << 20).map_err(Error::path("reading the image", archive))?;
    let name = index.and_then(|text| serde_json::from_slice::<Value>(&text).ok()).and_then(|index| {
        let annotations = &index["manifests"][0]["annotations"];
        let name = |key: &str| annotations[key].as_str().map(str::to_owned);
        name("io.containerd.image.name").or_else(|| name("org.opencontainers.image.ref.name"))
    });
    name.ok_or_else(|| {
        Error::failed(
            format!("{} is no image", archive.display()),
            "it has no index.json that names one (an OCI image layout in a tar is wanted)",
        )
    })
}

/// Reads exactly `length` bytes, or the error that there are fewer.
fn read_exactly(source: &mut dyn Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    source.read_exact(&mut bytes).map(|()| bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_image_and_its_name_is_found_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        std::fs::write(&program, vec![7_u8; 1000]).unwrap();
        let image =
            Image { name: "ambit.local/test:1".to_owned(), entrypoint: vec!["/bin/program".to_owned()], ..Image::default() };
        let image = image.program("bin/program", &program).text("etc/motd", "hello\n").link("bin/link", "program");
        let [first, second] = ["first.tar", "second.tar"].map(|name| directory.path().join(name));
        image.write(&first).unwrap();
        image.write(&second).unwrap();
        assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(&second).unwrap());
        assert_eq!(name_of(&first).unwrap(), "ambit.local/test:1");
        assert!(name_of(&program).unwrap_err().to_string().contains("no image"));
    }

    #[test]
    fn the_system_tar_reads_image_and_layer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.tar");
        let image = Image { name: "ambit.local/test:1".to_owned(), ..Image::default() };
        image.text("a/b/c.txt", "hello").link("a/link", "b/c.txt").write(&path).unwrap();
        let extract = |archive: &Path| {
            let status = std::process::Command::new("tar").arg("-xf").arg(archive).current_dir(directory.path()).status();
            assert!(status.unwrap().success(), "{}", archive.display());
        };
        extract(&path);
        let read = |path: &str| std::fs::read_to_string(directory.path().join(path)).unwrap();
        let index: Value = serde_json::from_str(&read("index.json")).unwrap();
        let blob =
            |descriptor: &Value| format!("blobs/sha256/{}", descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:"));
        let manifest: Value = serde_json::from_str(&read(&blob(&index["manifests"][0]))).unwrap();
        extract(&directory.path().join(blob(&manifest["layers"][0])));
        assert_eq!(read("a/link"), "hello");
        assert!(directory.path().join("tmp").is_dir());
    }
}
