//! The ioctl that makes a TDREPORT, and connect(2) to a vsock address: plain bytes of fixed layout.

use crate::qgs::TDREPORT;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect as connect_to, socket_with};
use std::fs::File;
use std::io;
use std::time::Duration;

/// `struct tdx_report_req` (Linux `include/uapi/linux/tdx-guest.h`).
#[repr(C)]
struct ReportRequest {
    report_data: [u8; 64],
    report: [u8; TDREPORT],
}

/// `TDX_CMD_GET_REPORT0`, `_IOWR('T', 1, struct tdx_report_req)`.
const GET_REPORT0: rustix::ioctl::Opcode = opcode::read_write::<ReportRequest>(b'T', 1);

/// The processor's report over `report_data`, by the driver behind `device`.
pub(crate) fn report(device: &File, report_data: &[u8; 64]) -> io::Result<[u8; TDREPORT]> {
    let mut request = ReportRequest { report_data: *report_data, report: [0; TDREPORT] };
    // SAFETY: the opcode carries the size of the very struct that is passed, which is plain bytes without padding and
    // valid whatever the kernel writes there. A file that is no TDX device answers ENOTTY.
    unsafe { ioctl(device, Updater::<GET_REPORT0, ReportRequest>::new(&mut request))? };
    Ok(request.report)
}

/// `struct sockaddr_vm` (Linux `include/uapi/linux/vm_sockets.h`).
#[repr(C)]
struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

// SAFETY: `f` gets a pointer to the whole of `self`, which lives through the call, has the layout of `sockaddr_vm` and
// names the family that this layout belongs to.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        f(std::ptr::from_ref(self).cast(), size_of::<Self>() as SocketAddrLen)
    }
}

/// A connected stream. The kernel gives up after two seconds where nobody answers, and at once where nobody listens.
pub(crate) fn connect(cid: u32, port: u32) -> io::Result<File> {
    let socket = socket_with(AddressFamily::VSOCK, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let family = AddressFamily::VSOCK.as_raw();
    connect_to(&socket, &VsockAddress { family, reserved: 0, port, cid, zero: [0; 4] })?;
    Ok(socket.into())
}

/// How long a read or write may take from now on.
pub(crate) fn limit(socket: &File, limit: Duration) -> io::Result<()> {
    set_socket_timeout(socket, Timeout::Recv, Some(limit))?;
    Ok(set_socket_timeout(socket, Timeout::Send, Some(limit))?)
}
