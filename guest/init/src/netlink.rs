//! Three rtnetlink requests (`rtnetlink(7)`): link up, IPv4 address, default route. Plain bytes over a socket, so that
//! neither ioctls nor unsafe code are needed.

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// Type of an answer that carries an errno.
const ERROR: u16 = 2;
/// NLM_F_REQUEST | NLM_F_ACK, and NLM_F_CREATE | NLM_F_EXCL.
const REQUEST: u16 = 0x5;
const CREATE: u16 = 0x600;
const INET: u8 = 2;

/// A route socket.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> Result<Self, Errno> {
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map(Netlink)
    }

    /// Sets `IFF_UP` on the interface with this index.
    pub(crate) fn up(&self, index: u32) -> Result<(), Errno> {
        self.ask(&link_up(index))
    }

    /// Adds an address with its prefix length.
    pub(crate) fn address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), Errno> {
        self.ask(&new_address(index, address, prefix))
    }

    /// Adds the default route.
    pub(crate) fn gateway(&self, index: u32, gateway: Ipv4Addr) -> Result<(), Errno> {
        self.ask(&new_route(index, gateway))
    }

    fn ask(&self, request: &[u8]) -> Result<(), Errno> {
        send(&self.0, request, SendFlags::empty())?;
        let mut answer = [0u8; 4096];
        let (_, length) = recv(&self.0, &mut answer, RecvFlags::empty())?;
        verdict(answer.get(..length).unwrap_or_default())
    }
}

/// `struct nlmsghdr` (16 bytes) in front of a body.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = (16 + body.len() as u32).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend([0; 8]); // sequence number and port: one request is in flight at a time
    out.extend(body);
    out
}

/// `struct rtattr` with four bytes of value.
fn attribute(kind: u16, value: [u8; 4]) -> Vec<u8> {
    [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value].concat()
}

fn link_up(index: u32) -> Vec<u8> {
    // struct ifinfomsg: family, type, index, flags, change mask.
    let body = [&[0; 4][..], &index.to_ne_bytes(), &1u32.to_ne_bytes(), &1u32.to_ne_bytes()].concat();
    message(NEW_LINK, REQUEST, &body)
}

fn new_address(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index; then IFA_LOCAL and IFA_ADDRESS.
    let mut body = [&[INET, prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    body.extend(attribute(2, address.octets()));
    body.extend(attribute(1, address.octets()));
    message(NEW_ADDRESS, REQUEST | CREATE, &body)
}

fn new_route(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    // struct rtmsg: family, destination and source length, TOS, main table, boot protocol, universe, unicast, flags;
    // then RTA_GATEWAY and RTA_OIF.
    let mut body = vec![INET, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
    body.extend(attribute(5, gateway.octets()));
    body.extend(attribute(4, index.to_ne_bytes()));
    message(NEW_ROUTE, REQUEST | CREATE, &body)
}

/// The errno in an acknowledgement; 0 is success.
fn verdict(answer: &[u8]) -> Result<(), Errno> {
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(Errno::from_raw_os_error(code.saturating_neg())),
        _ => Err(Errno::BADMSG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_layout_of_the_kernel_headers() {
        let address = new_address(2, Ipv4Addr::new(10, 0, 2, 15), 24);
        assert_eq!(address.len(), 40);
        assert_eq!(address[..8], [40, 0, 0, 0, 20, 0, 5, 6]);
        assert_eq!(address[16..24], [2, 24, 0, 0, 2, 0, 0, 0]);
        assert_eq!(address[24..32], [8, 0, 2, 0, 10, 0, 2, 15]);
        assert_eq!(link_up(2).len(), 32);
        assert_eq!(new_route(2, Ipv4Addr::new(10, 0, 2, 2)).len(), 44);
    }

    #[test]
    fn an_answer_is_success_only_with_errno_0() {
        let answer = |code: i32| message(ERROR, 0, &code.to_ne_bytes());
        assert_eq!(verdict(&answer(0)), Ok(()));
        assert_eq!(verdict(&answer(-1)), Err(Errno::PERM));
        assert_eq!(verdict(&answer(0)[..19]), Err(Errno::BADMSG));
        assert_eq!(verdict(&message(3, 0, &[0; 4])), Err(Errno::BADMSG));
    }
}
