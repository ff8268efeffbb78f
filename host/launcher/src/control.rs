//! The host's end of the control port: reads health, sends orders ([`protocol::control`]).
//!
//! QEMU listens on a Unix socket and drops what the guest says while nobody is connected. What comes is hostile: a line
//! has a bound, one look reads a bounded piece, and only the last line that makes sense is kept.

use protocol::control::{Health, MAX_LINE, Order};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Most bytes read in one look.
const CHUNK: usize = 4096;
/// How long QEMU may take to swallow an order.
const PATIENCE: Duration = Duration::from_secs(2);

/// One guest's control port.
#[derive(Debug)]
pub(crate) struct Control {
    socket: PathBuf,
    stream: Option<UnixStream>,
    partial: Vec<u8>,
    overlong: bool,
}

impl Control {
    /// Of the port whose socket this is; it may not be there yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Control { socket, stream: None, partial: Vec::new(), overlong: false }
    }

    /// The last health among what came since the last look.
    pub(crate) fn poll(&mut self) -> Option<Health> {
        let mut bytes = [0; CHUNK];
        let read = self.connected()?.read(&mut bytes);
        match read {
            Ok(0) => self.stream = None,
            Ok(length) => return self.push(&bytes[..length]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.stream = None,
        }
        None
    }

    /// Sends an order; whether the guest reads it is another matter.
    pub(crate) fn send(&mut self, order: Order) -> std::io::Result<()> {
        let stream = self.connected().ok_or(ErrorKind::NotConnected)?;
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let sent = stream.write_all(order.to_line().as_bytes());
        stream.set_nonblocking(true)?;
        sent
    }

    fn connected(&mut self) -> Option<&mut UnixStream> {
        if self.stream.is_none() {
            // Until QEMU listens there is nothing to connect to; a later look tries again.
            let stream = UnixStream::connect(&self.socket).ok()?;
            stream.set_nonblocking(true).ok()?;
            (self.partial, self.overlong) = (Vec::new(), false);
            self.stream = Some(stream);
        }
        self.stream.as_mut()
    }

    fn push(&mut self, bytes: &[u8]) -> Option<Health> {
        let mut last = None;
        for &byte in bytes {
            match byte {
                b'\n' => {
                    let text = std::str::from_utf8(&self.partial).ok().filter(|_| !self.overlong);
                    last = text.and_then(Health::parse).or(last);
                    (self.partial, self.overlong) = (Vec::new(), false);
                }
                _ if self.partial.len() < MAX_LINE => self.partial.push(byte),
                _ => self.overlong = true,
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::control::{Attestation, Gpus, Service};
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    fn health(uptime_ms: u64) -> Health {
        let attestation = Attestation { sealed: true, extended: true, simulated: true, gpu: Gpus::None };
        Health {
            uptime_ms,
            daemon: Service::Running,
            attestation,
            memory_kib: 0,
            available_kib: 0,
            load_percent: 0,
            gpus: Vec::new(),
        }
    }

    #[test]
    fn health_is_read_and_orders_are_sent_over_one_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let mut control = Control::new(path.clone());
        assert_eq!(control.poll(), None, "nobody listens yet");
        assert!(control.send(Order::Drain).is_err());
        let listener = UnixListener::bind(&path).unwrap();
        control.poll();
        let (mut guest, _) = listener.accept().unwrap();
        guest.write_all(format!("noise\n{}{}", health(1).to_line(), health(2).to_line()).as_bytes()).unwrap();
        let seen = std::iter::repeat_with(|| control.poll()).find_map(|health| health).unwrap();
        assert_eq!(seen.uptime_ms, 2);
        control.send(Order::Drain).unwrap();
        let mut line = String::new();
        BufReader::new(&guest).read_line(&mut line).unwrap();
        assert_eq!(Order::parse(&line), Some(Order::Drain));
        drop(guest);
        drop(listener);
        while control.stream.is_some() {
            control.poll();
        }
    }

    #[test]
    fn an_endless_line_is_bounded_and_the_next_is_read() {
        let mut control = Control::new("/nowhere".into());
        assert_eq!(control.push(&vec![b' '; 10 * MAX_LINE]), None);
        assert!(control.partial.len() <= MAX_LINE);
        assert_eq!(control.push(b"\n"), None);
        assert_eq!(control.push(health(3).to_line().as_bytes()), Some(health(3)));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..99), 0..9)) {
            let mut control = Control::new("/nowhere".into());
            for chunk in chunks {
                control.push(&chunk);
            }
            prop_assert!(control.partial.len() <= MAX_LINE);
        }
    }
}
