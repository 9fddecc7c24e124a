//! What is built from the Go module in `integration/conformance/`: the suite, and the programs of the pods that it tests with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ambit_cluster::image::Image;
use ambit_cluster::pki::Authority;
use ambit_cluster::programs::system;
use anyhow::{Context, bail, ensure};

/// The Go packages of the mesh's pods, without the last element of their paths.
const PROGRAMS: &str = "istio.io/istio/pkg/test/echo/cmd";

/// The Go package of the Gateways' backends.
const BASIC: &str = "sigs.k8s.io/gateway-api/conformance/echo-basic";

/// Where the suite calls them.
const BIN: &str = "usr/local/bin";

/// What the suite needs.
#[derive(Debug)]
pub struct Built {
    /// The suite, a program of its own.
    pub suite: PathBuf,
    /// The images that its pods ask for.
    pub images: Vec<Image>,
}

/// Builds all of it, for Gateways or for the mesh, into a directory, in which it stays: minutes at first, seconds later.
pub fn build(directory: &Path, gateway: bool) -> anyhow::Result<Built> {
    std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let suite = directory.join("suite");
    eprintln!("building the suite and the programs of its pods, which takes minutes at first");
    go(&["test", "-c"], &suite, ".")?;
    let names = listed(&suite, if gateway { "gateway" } else { "mesh" })?;
    let images = if gateway { of_backends(&names, directory)? } else { vec![of_mesh(&names, directory)?] };
    Ok(Built { suite, images })
}

/// The names of the images that pods of the suite ask for.
fn listed(suite: &Path, of: &str) -> anyhow::Result<Vec<String>> {
    let listed = Command::new(suite).arg(format!("-list-images={of}")).stderr(Stdio::inherit()).output();
    let listed = String::from_utf8(listed.with_context(|| format!("starting {}", suite.display()))?.stdout)?;
    let names: Vec<String> = listed.lines().map(str::to_owned).collect();
    ensure!(!names.is_empty(), "the suite names no image of {of}");
    Ok(names)
}

fn of_mesh(names: &[String], directory: &Path) -> anyhow::Result<Image> {
    let [name] = names else { bail!("the pods of the mesh ask for another number of images than one: {names:?}") };
    let (server, client) = (directory.join("server"), directory.join("client"));
    for program in [&server, &client] {
        let package = format!("{PROGRAMS}/{}", program.file_name().unwrap_or_default().display());
        go(&["build"], program, &package)?;
    }
    image(name, directory, [&server, &client])
}

/// The backends are one program by several tags. That of the tests of UDP, which belong to no profile here, has to be ready and does nothing.
fn of_backends(names: &[String], directory: &Path) -> anyhow::Result<Vec<Image>> {
    let basic = directory.join("echo-basic");
    go(&["build"], &basic, BASIC)?;
    let busybox = system("busybox", "busybox-static")?;
    let images = names.iter().map(|name| {
        let named = Image { name: name.clone(), ..Image::default() };
        if name.contains("/echo-basic:") {
            Ok(Image { entrypoint: vec!["/echo-basic".to_owned()], ..named }.program("echo-basic", &basic))
        } else if name.contains("coredns/coredns") {
            // What the pod gives as arguments goes to the shell, which takes none.
            let idle = ["/bin/sh", "-c", "exec sleep 2147483647"].map(str::to_owned).to_vec();
            let image = Image { entrypoint: idle, ..named }.program("bin/busybox", &busybox);
            Ok(image.link("bin/sh", "busybox").link("bin/sleep", "busybox"))
        } else {
            bail!("pods of the suite ask for {name}, which nobody here knows how to make: {}", file!())
        }
    });
    images.collect()
}

fn go(verb: &[&str], program: &Path, package: &str) -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let mut command = Command::new(system("go", "golang-go")?);
    command.args(verb).args(["-trimpath", "-mod=readonly", "-ldflags=-s -w", "-o"]).arg(program).arg(package);
    // What a user set for modules of their own must not change this build.
    command.env("CGO_ENABLED", "0").env("GOFLAGS", "-buildvcs=false").env("GOWORK", "off").env("GOTOOLCHAIN", "auto");
    let status = command.current_dir(&source).stdin(Stdio::null()).status().context("starting go")?;
    ensure!(
        status.success(),
        "go could not build {package} in {}: it needs the Go that go.mod names, and the Go module index at first (`go env GOPROXY`)",
        source.display()
    );
    Ok(())
}

/// The image by that name: its server, its client, and a certificate for its port with TLS, which no test looks at.
fn image(name: &str, directory: &Path, programs: [&PathBuf; 2]) -> anyhow::Result<Image> {
    let signed = Authority::create(&directory.join("pki"))?.server("echo", &["echo".to_owned()])?;
    let mut image = Image {
        name: name.to_owned(),
        entrypoint: vec![format!("/{BIN}/server")],
        environment: vec![format!("PATH=/{BIN}")],
        ..Image::default()
    };
    for program in programs {
        image = image.program(format!("{BIN}/{}", program.file_name().unwrap_or_default().display()), program);
    }
    for (path, file) in [("cert.crt", &signed.certificate), ("cert.key", &signed.key)] {
        image = image.text(path, std::fs::read_to_string(file)?);
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    const MODULE: &str = include_str!("../../../conformance/go.mod");

    fn version<'a>(module: &'a str, of: &str) -> Option<&'a str> {
        module.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix(of)?.strip_prefix(' '))
    }

    #[test]
    fn the_suite_the_api_and_the_definitions_on_the_cluster_are_of_one_version() {
        let definitions = version(include_str!("../../../cluster/crds/go.mod"), "sigs.k8s.io/gateway-api");
        assert!(definitions.is_some_and(|version| version.starts_with('v')), "{definitions:?}");
        for part in ["sigs.k8s.io/gateway-api", "sigs.k8s.io/gateway-api/conformance"] {
            assert_eq!(version(MODULE, part), definitions, "{part} in integration/conformance/go.mod");
        }
    }

    #[test]
    fn the_programs_of_the_pods_are_tools_of_the_module() {
        for tool in [format!("{}/server", super::PROGRAMS), format!("{}/client", super::PROGRAMS), super::BASIC.to_owned()] {
            assert!(MODULE.lines().any(|line| line.trim() == tool), "{tool}");
        }
    }
}
