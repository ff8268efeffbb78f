//! Tells systemd how the machine stands (sd_notify(3)): ready when the guest serves, stopping when it drains. Without systemd nothing
//! happens.

use launcher::State;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says a state, if somebody wants to know.
pub fn state(state: State) {
    let words = match state {
        State::Serving => "READY=1\nSTATUS=serving",
        State::Draining => "STOPPING=1\nSTATUS=draining",
        State::Prepared => "STATUS=prepared",
        State::Booting => "STATUS=booting",
        State::Attesting => "STATUS=attesting",
        State::Stopped => "STATUS=stopped",
        State::Failed => "STATUS=failed",
    };
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let _ = send(name.as_encoded_bytes(), words);
}

fn send(name: &[u8], words: &str) -> std::io::Result<()> {
    let address = match name {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
        path => SocketAddr::from_pathname(String::from_utf8_lossy(path).as_ref())?,
    };
    UnixDatagram::unbound()?.send_to_addr(words.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_reaches_a_socket_with_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        send(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
        let mut bytes = [0; 32];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
        assert!(send(b"/nowhere/at/all", "x").is_err());
    }
}
