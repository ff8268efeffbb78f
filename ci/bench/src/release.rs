//! A release verified from disk, and refreshed over the loopback: everything from the first root to reference values.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use release::samples::{self, Publication};
use release::{Folder, Http, Instants, Keeper, Limits, Mirror};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ROUNDS: usize = 31;
const MACHINES: u8 = 16;
const AT: u64 = 1_800_000_000;
/// Milliseconds.
const DISK_LIMIT: f64 = 20.0;
const LOOPBACK_LIMIT: f64 = 100.0;

/// Takes both numbers; `scratch` is a folder that may be written.
pub fn measure(scratch: &Path) -> Result<Vec<Number>> {
    let world = samples::publication(AT, MACHINES)?;
    let folder = scratch.join("publication");
    write(&folder, &world)?;
    let base = serve(world.files.clone())?;
    let disk = samples_of(&world, || Ok(Box::new(Folder::new(&folder))))?;
    let loopback = samples_of(&world, || Ok(Box::new(Http::new(&base, Limits::default())?)))?;
    let covers = format!(
        "root, timestamp, snapshot, targets, a release of {MACHINES} machines, three rebuilders of whom two must agree; \
         nothing known before"
    );
    Ok(vec![
        Number::new("release verified from disk", Unit::Milliseconds, &disk)
            .limit(Limit::AtMost(DISK_LIMIT))
            .covers(covers.as_str()),
        Number::new("release refreshed over loopback", Unit::Milliseconds, &loopback)
            .limit(Limit::AtMost(LOOPBACK_LIMIT))
            .covers(format!("the same over HTTP, a connection to a server of this process; {covers}")),
    ])
}

/// Milliseconds from nothing to reference values.
fn samples_of(world: &Publication, mirror: impl Fn() -> Result<Box<dyn Mirror>>) -> Result<Vec<f64>> {
    let at = Instants { host: AT, monotonic: Duration::ZERO };
    let once = || {
        let (anchor, mirror) = (world.anchor.clone(), mirror()?);
        let began = Instant::now();
        let mut keeper = Keeper::open(anchor, &world.root, mirror, None, at)?;
        let published = keeper.refresh(at);
        let took = began.elapsed().as_secs_f64() * 1000.0;
        let found = published.reference("worker").releases.len();
        ensure!(found == usize::from(MACHINES), "{found} machines are accepted: {}", published.standing);
        Ok(took)
    };
    once()?;
    (0..ROUNDS).map(|_| once()).collect()
}

fn write(folder: &Path, world: &Publication) -> Result<()> {
    for (path, bytes) in &world.files {
        let path = folder.join(path);
        let parent = path.parent().context("a path in a folder")?;
        std::fs::create_dir_all(parent).with_context(|| format!("{}: can't make", parent.display()))?;
        std::fs::write(&path, bytes).with_context(|| format!("{}: can't write", path.display()))?;
    }
    Ok(())
}

/// Serves these files for as long as this process lives; gives the address.
fn serve(files: BTreeMap<String, Vec<u8>>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port of the loopback")?;
    let address = format!("http://{}", listener.local_addr().context("no address")?);
    let files = Arc::new(files);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let files = files.clone();
            // A client that hangs up is done.
            std::thread::spawn(move || answer(stream, &files).ok());
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream, files: &BTreeMap<String, Vec<u8>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut out = stream.try_clone()?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next().transpose()? {
        while lines.next().transpose()?.is_some_and(|header| !header.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
        let (status, body) = match files.get(path) {
            Some(bytes) => ("200 OK", &bytes[..]),
            None => ("404 Not Found", &[][..]),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        out.write_all(&[head.as_bytes(), body].concat())?;
    }
    Ok(())
}
