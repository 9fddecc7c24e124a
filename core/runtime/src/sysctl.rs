//! Settings of a network namespace below `/proc/sys/net`.
//!
//! A container finds `/proc/sys` mounted read-only, although the kernel lets whoever has CAP_NET_ADMIN write what lies below `net`. Such a
//! process makes a proc file system of its own, which is mounted nowhere (`fsopen(2)`, `fsmount(2)`; needs CAP_SYS_ADMIN).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::netns::NetNs;

/// The proc file system of this process's own. It shows each thread its own network namespace, so one is enough.
static OWN: OnceLock<OwnedFd> = OnceLock::new();

/// Gives a setting of the namespace a value; `key` is its path below `/proc/sys/net`, for example `ipv4/tcp_migrate_req`.
///
/// # Errors
/// The namespace cannot be entered, the kernel has no such setting, or this process may neither write it nor make a proc file system.
pub fn set(netns: &NetNs, key: &str, value: &str) -> io::Result<()> {
    match netns.run(|| std::fs::write(format!("/proc/sys/net/{key}"), value))? {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => set_in_own(netns, key, value),
        written => written,
    }
}

fn set_in_own(netns: &NetNs, key: &str, value: &str) -> io::Result<()> {
    let own = match OWN.get() {
        Some(own) => own,
        None => {
            let made = own_proc()?;
            OWN.get_or_init(|| made)
        }
    };
    netns.run(|| {
        let setting = openat(own, format!("sys/net/{key}"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        File::from(setting).write_all(value.as_bytes())
    })?
}

fn own_proc() -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
