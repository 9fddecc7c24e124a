//! `ambit image`: a container image of this very program, with all of its parts.
//!
//! A program that is linked statically is all there is in it. One that is not brings the libraries that this process has mapped, where it has
//! them: they are what the kernel's loader found for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ambit_cluster::image::Image;

use super::args::ImageArgs;
use crate::error::{Error, Result};

/// Where programs for this processor say that their loader is (System V ABI, processor supplements).
const LOADER: &str = if cfg!(target_arch = "aarch64") { "lib/ld-linux-aarch64.so.1" } else { "lib64/ld-linux-x86-64.so.2" };

/// Where programs are looked for in the image.
const BIN: &str = "usr/local/bin";

/// The name by which the chart, and the demonstration, ask for it.
pub(super) const NAME: &str = concat!("ghcr.io/ambit-mesh/ambit:", env!("CARGO_PKG_VERSION"));

/// The CNI plugin's program, which `ambit install-cni` copies from beside this one.
const PLUGIN: &str = "ambit-cni";

/// Writes the image and tells of it.
///
/// # Errors
/// A program or library cannot be read, or the image not be written.
pub fn run(args: &ImageArgs) -> Result<()> {
    let programs = write(&args.name, &args.with, &args.output)?;
    println!("{} is in {}, with {}", args.name, args.output.display(), programs.join(", "));
    tell_what_is_missing(&programs);
    Ok(())
}

/// Tells when an image of these programs is not enough for `ambit install`.
pub(super) fn tell_what_is_missing(programs: &[String]) {
    if !programs.iter().any(|program| program == PLUGIN) {
        eprintln!(
            "the image has no {PLUGIN}, which `ambit install` needs: that is not beside this program\n  the fix: put it there (`cargo build` \
             makes both), or name it with `ambit image --with`"
        );
    }
}

/// Writes the image, with the plugin if that lies beside this program, and gives the names of its programs.
pub(super) fn write(name: &str, with: &[PathBuf], output: &Path) -> Result<Vec<String>> {
    let own = std::fs::read_link("/proc/self/exe").map_err(|cause| Error::io("asking for the path of this program", cause))?;
    let maps = std::fs::read_to_string("/proc/self/maps")
        .map_err(|cause| Error::io("asking for the libraries of this program", cause))?;
    let mut image = Image {
        name: name.to_owned(),
        entrypoint: vec!["/ambit".to_owned()],
        environment: vec![format!("PATH=/{BIN}:/")],
        ..Image::default()
    };
    // Found as `ambit` too, as the demonstration's pods call it.
    image = image.link(format!("{BIN}/ambit"), "/ambit");
    // What was replaced while it runs has another name than it had.
    image = image.program("ambit", if own.exists() { own.clone() } else { PathBuf::from("/proc/self/exe") });
    for library in libraries(&maps, &own) {
        let path = library.display().to_string();
        let inside = path.trim_start_matches('/').to_owned();
        if library.file_name() == Path::new(LOADER).file_name() && inside != LOADER {
            image = image.link(LOADER, path);
        }
        image = image.program(inside, library);
    }
    let mut programs = vec!["ambit".to_owned()];
    let plugin = Some(own.with_file_name(PLUGIN)).filter(|plugin| plugin.is_file());
    for program in with.iter().cloned().chain(plugin) {
        let name = program.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.ok_or_else(|| Error::Invalid(format!("{} is no program", program.display())))?;
        if !programs.contains(&name) {
            image = image.program(name.clone(), program);
            programs.push(name);
        }
    }
    image = image.text("etc/passwd", "root:x:0:0:root:/:/ambit\nambit:x:65532:65532:ambit:/:/ambit\n");
    image.write(output).map_err(super::failed)?;
    Ok(programs)
}

/// The files that are mapped as libraries, by path: `/proc/PID/maps` has it in the sixth field (proc_pid_maps(5)).
fn libraries(maps: &str, own: &Path) -> BTreeSet<PathBuf> {
    let path = |line: &str| line.split_whitespace().nth(5).map(PathBuf::from);
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_absolute() && path != own && (name.ends_with(".so") || name.contains(".so."))
    };
    maps.lines().filter_map(path).filter(is_library).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_and_the_demonstration_ask_for_the_image_that_is_made() {
        let values = include_str!("../../../manifests/chart/values.yaml");
        let repository = values.lines().find_map(|line| line.trim().strip_prefix("repository: "));
        let chart = include_str!("../../../manifests/chart/Chart.yaml");
        let version = chart.lines().find_map(|line| line.strip_prefix("appVersion: "));
        assert_eq!(repository.zip(version).map(|(name, version)| format!("{name}:{version}")).as_deref(), Some(NAME));
        let demo =
            concat!(include_str!("../../../manifests/demo/20-shop.yaml"), include_str!("../../../manifests/demo/50-client.yaml"));
        let images: BTreeSet<_> = demo.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        assert_eq!(images.into_iter().collect::<Vec<_>>(), [NAME]);
    }

    #[test]
    fn mapped_libraries_are_found_and_nothing_else() {
        let maps = "55d0c0a00000-55d0c0b00000 r-xp 00000000 fe:00 1 /usr/bin/ambit\n\
                    7f0000000000-7f0000001000 r-xp 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f0000001000-7f0000002000 r--p 00000000 fe:00 2 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
                    7f0000002000-7f0000003000 rw-p 00000000 00:00 0 \n\
                    7f0000003000-7f0000004000 rw-p 00000000 00:00 0 [heap]\n\
                    7f0000004000-7f0000005000 r-xp 00000000 fe:00 3 /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2\n";
        let found: Vec<_> = libraries(maps, Path::new("/usr/bin/ambit")).into_iter().collect();
        let wanted = ["ld-linux-x86-64.so.2", "libc.so.6"].map(|name| Path::new("/usr/lib/x86_64-linux-gnu").join(name));
        assert_eq!(found, wanted);
    }
}
