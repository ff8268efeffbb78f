//! A PCCS that serves a simulated platform's collateral over real HTTP, and misbehaves on demand.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use evidence::Collateral;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How the service behaves.
#[derive(Clone)]
pub enum Mode {
    /// As it should.
    Good(Box<Collateral>),
    /// CRLs in hex, as a PCCS has them.
    Hex(Box<Collateral>),
    /// Closes every connection at once.
    Dead,
    /// Answers with what is no collateral.
    Garbage,
    /// Answers 200 with a header that is missing.
    NoHeader(Box<Collateral>),
    /// Never stops to send.
    Oversized,
    /// Takes the question and says nothing.
    Silent,
    /// Says 503 for so many answers, then behaves.
    Busy(usize, Box<Collateral>),
}

pub struct Pccs {
    pub url: String,
    pub asked: Arc<AtomicUsize>,
    mode: Arc<Mutex<Mode>>,
}

impl Pccs {
    pub fn start(mode: Mode) -> Pccs {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (mode, asked) = (Arc::new(Mutex::new(mode)), Arc::new(AtomicUsize::new(0)));
        let (shared, count) = (mode.clone(), asked.clone());
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, count) = (shared.clone(), count.clone());
                std::thread::spawn(move || serve(stream, &shared, &count));
            }
        });
        Pccs { url, asked, mode }
    }

    pub fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// One question a connection. A peer that went away is no fault of a test's service.
fn serve(stream: TcpStream, mode: &Mutex<Mode>, asked: &AtomicUsize) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut now = mode.lock().unwrap().clone();
    if matches!(now, Mode::Dead) {
        let _ = stream.shutdown(Shutdown::Both);
        return;
    }
    let Some(Ok(question)) = lines.next() else { return };
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    asked.fetch_add(1, Ordering::SeqCst);
    if let Mode::Busy(left, collateral) = &now {
        let (left, collateral) = (*left, collateral.clone());
        if left > 0 {
            *mode.lock().unwrap() = Mode::Busy(left - 1, collateral);
            let _ = write!(&stream, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            return;
        }
        now = Mode::Good(collateral);
    }
    let _ = answer(&stream, &now, question.split(' ').nth(1).unwrap_or_default());
}

/// Whether this TCB info is served for the FMSPC asked for: the simulated platform's always, so that it may be a wrong one.
fn published(path: &str, tcb_info: &str) -> bool {
    let asked = path.split_once("fmspc=").map_or("", |(_, fmspc)| fmspc);
    asked == "53494d554c41" || (asked.len() == 12 && tcb_info.to_lowercase().contains(asked))
}

fn answer(mut stream: &TcpStream, mode: &Mode, path: &str) -> std::io::Result<()> {
    let (collateral, hex_crl, headers) = match mode {
        Mode::Good(collateral) => (collateral, false, true),
        Mode::Hex(collateral) => (collateral, true, true),
        Mode::NoHeader(collateral) => (collateral, false, false),
        Mode::Oversized => {
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b' '; 65536])?;
            }
        }
        Mode::Silent => {
            std::thread::sleep(Duration::from_secs(60));
            return Ok(());
        }
        _ => {
            return write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>");
        }
    };
    let fields = collateral.fields();
    let crl = |der: &[u8]| if hex_crl { hex::encode(der).into_bytes() } else { der.to_vec() };
    let document = |name: &str, text: &str, signature: &[u8]| {
        format!("{{\"{name}\":{text},\"signature\":\"{}\"}}", hex::encode(signature)).into_bytes()
    };
    let (name, chain, body) = match path.split('?').next().unwrap_or_default() {
        "/sgx/certification/v4/pckcrl" if path.contains("ca=platform") => {
            ("SGX-PCK-CRL-Issuer-Chain", fields.pck_crl_issuer_chain.as_str(), crl(&fields.pck_crl))
        }
        "/sgx/certification/v4/rootcacrl" | "/elsewhere.crl" => ("X-None", "", crl(&fields.root_ca_crl)),
        "/tdx/certification/v4/tcb" if published(path, &fields.tcb_info) => (
            "TCB-Info-Issuer-Chain",
            fields.tcb_info_issuer_chain.as_str(),
            document("tcbInfo", &fields.tcb_info, &fields.tcb_info_signature),
        ),
        "/tdx/certification/v4/qe/identity" => (
            "SGX-Enclave-Identity-Issuer-Chain",
            fields.qe_identity_issuer_chain.as_str(),
            document("enclaveIdentity", &fields.qe_identity, &fields.qe_identity_signature),
        ),
        _ => return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    };
    let name = if headers { name } else { "X-Other" };
    let chain = chain.replace('%', "%25").replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B");
    write!(
        stream,
        "HTTP/1.1 200 OK\r\n{name}: {chain}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(&body)
}
