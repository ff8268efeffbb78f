//! What has no safe wrapper: the parent-death signal, a register of a PCI device, a vsock address.
//!
//! The crate's one place with `unsafe`.

#![allow(
    unsafe_code,
    reason = "prctl between fork and exec, mapped device registers, an address family that rustix has no type for"
)]

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::{null_mut, read_volatile};

/// Registers are mapped by pages of this size.
const PAGE: u64 = 4096;

/// Makes the process die with the thread that starts it.
pub(crate) fn tie(command: &mut Command) {
    let parent = getpid();
    let set = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the signal was set.
        if getppid() == Some(parent) { Ok(()) } else { Err(Errno::SRCH.into()) }
    };
    // SAFETY: the closure makes three direct system calls and allocates nothing, so it is safe after fork.
    unsafe { command.pre_exec(set) };
}

/// Reads the 32-bit register at `offset` of a PCI region (`resourceN` of sysfs, which can be mapped but not read).
///
/// The file is at least `offset + 4` bytes long: a mapping past a file's end would be answered with a signal.
pub(crate) fn register(region: &File, offset: u32) -> std::io::Result<u32> {
    let (offset, size) = (u64::from(offset), region.metadata()?.len());
    if offset % 4 != 0 || offset + 4 > size {
        let why = format!("no register at {offset:#x} in a region of {size} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
    }
    let (page, within) = (offset / PAGE * PAGE, (offset % PAGE) as usize);
    // SAFETY: a fresh mapping at an address of the kernel's choice; nothing else knows it.
    let mapped = unsafe { mmap(null_mut(), PAGE as usize, ProtFlags::READ, MapFlags::SHARED, region, page)? };
    // SAFETY: `within` is a multiple of 4 and less than the page; the region was long enough just now.
    let value = unsafe { read_volatile(mapped.cast::<u8>().add(within).cast::<u32>()) };
    // SAFETY: the very mapping, and no pointer into it is left.
    unsafe { munmap(mapped, PAGE as usize)? };
    Ok(u32::from_le(value))
}

/// A vsock address, `struct sockaddr_vm` of `linux/vm_sockets.h`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct VsockAddr {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

impl VsockAddr {
    pub(crate) fn new(cid: u32, port: u32) -> Self {
        let family = rustix::net::AddressFamily::VSOCK.as_raw();
        VsockAddr { family, reserved: 0, port, cid, flags: 0, zero: [0; 3] }
    }
}

// SAFETY: pointer and length are those of one whole `sockaddr_vm`, which lives as long as `self`.
unsafe impl SocketAddrArg for VsockAddr {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}
