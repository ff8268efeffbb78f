//! A publication of the SIMULATED guests' release, the web server that carries it, and daemons that rely on it.

use crate::support::{Setup, Site, now};
use protocol::handoff::PUBLICATION_FILE;
use release::samples::{self, Publication};
use release::{Bundle, Instants, State, Tuple};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A publication that a test changes while others read it.
#[derive(Clone)]
pub struct Publisher(Arc<Mutex<Publication>>);

impl Publisher {
    /// Three rebuilders came to the registers of the simulated guests; consumers ask every five seconds.
    pub fn new() -> Self {
        let release = simulator::reference().unwrap().releases.remove(0);
        let evidence::Release { mrtd, rtmr0, rtmr1, rtmr2, rtmr3, .. } = release;
        let registers = Tuple { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 };
        let mut publication = samples::publication_of(now(), registers).unwrap();
        publication.anchor.refresh_seconds = 5;
        Publisher(Arc::new(Mutex::new(publication)))
    }

    pub fn revoke(&self) {
        self.0.lock().unwrap().restate(now(), State::Revoked).unwrap();
    }

    /// Its newest file, with a bit that is not as it was signed.
    pub fn spoil(&self) {
        let mut publication = self.0.lock().unwrap();
        let timestamp = publication.files.get_mut("metadata/timestamp.json").unwrap();
        let at = timestamp.len() / 2;
        timestamp[at] ^= 1;
    }

    /// A web server that carries it.
    pub fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, publication) = (listener.local_addr().unwrap(), self.0.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Whoever hangs up is not answered.
                let _ = answer(stream, &publication);
            }
        });
        address
    }
}

fn answer(mut stream: TcpStream, publication: &Mutex<Publication>) -> std::io::Result<()> {
    let mut request = [0; 4096];
    let length = stream.read(&mut request)?;
    let text = String::from_utf8_lossy(&request[..length]);
    let path = text.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    let found = publication.lock().unwrap().files.get(path).cloned();
    let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

/// A daemon that believes guests of `site` whose release is published and to which this many rebuilders came.
pub fn relying(mut setup: Setup, site: &Site, publisher: &Publisher, threshold: u32) -> Setup {
    let publication = publisher.0.lock().unwrap().clone();
    let mut anchor = publication.anchor.clone();
    anchor.threshold = threshold;
    // A fourth, who never said anything.
    anchor.rebuilders.push(samples::key(8).unwrap().public());
    let at = Instants { host: now(), monotonic: Duration::ZERO };
    let (bundle, _) = Bundle::gather(&anchor, Box::new(publication), at).unwrap();
    let folder = setup.folder.path().join("trust");
    fs::write(folder.join(PUBLICATION_FILE), bundle.to_bytes()).unwrap();
    // One quote each stands for three, as in the rest of the section.
    let accepted = format!("publication = '\n{}'", anchor.to_toml());
    setup.trust = Some(site.handed_with(&accepted, &folder));
    setup.marked = true;
    setup
}
