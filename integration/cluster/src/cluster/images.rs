//! The images that every cluster has, made of programs of this machine.

use std::fs;
use std::path::{Path, PathBuf};

use super::dns;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::node::config::BUSYBOX;
use crate::node::requirements::Requirements;
use crate::programs::Programs;

/// Writes them: a small system, whose `sleep` also holds the namespaces of pods, and CoreDNS.
pub(super) fn make(directory: &Path, machine: &Requirements, programs: &Programs) -> Result<Vec<PathBuf>> {
    let images = directory.join("images");
    fs::create_dir_all(&images).map_err(Error::path("making", &images))?;
    let small = Image {
        name: BUSYBOX.to_owned(),
        entrypoint: vec!["/bin/sleep".to_owned(), "2147483647".to_owned()],
        ..Image::default()
    };
    let mut small = small.program("bin/busybox", &machine.busybox).text("etc/passwd", "root:x:0:0:root:/:/bin/sh\n");
    for applet in applets(&machine.busybox)? {
        small = small.link(format!("bin/{applet}"), "busybox");
    }
    let dns = Image { name: dns::IMAGE.to_owned(), entrypoint: vec!["/coredns".to_owned()], ..Image::default() };
    let dns = dns.program("coredns", programs.path("coredns"));
    let paths = [("busybox.tar", small), ("coredns.tar", dns)]
        .map(|(file, image)| image.write(&images.join(file)).map(|()| images.join(file)));
    paths.into_iter().collect()
}

fn applets(busybox: &Path) -> Result<Vec<String>> {
    let listed = std::process::Command::new(busybox).arg("--list").output().map_err(Error::path("starting", busybox))?;
    let names =
        String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned).filter(|name| name != "busybox").collect::<Vec<_>>();
    if names.iter().any(|name| name == "sleep") {
        Ok(names)
    } else {
        Err(Error::failed(format!("asking {} for its programs", busybox.display()), "it has no `sleep`"))
    }
}
