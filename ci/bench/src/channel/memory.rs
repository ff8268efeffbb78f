//! Heap of idle sessions, a thousand of them, by end.

use super::counting::Counted;
use super::plain::Plain;
use super::world::{QeReports, World};
use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ratls::session::{End, Requests, Settings};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::convert::Infallible;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

/// Connections that are counted, after some that are not.
pub const CONNECTIONS: usize = 1000;
pub const WARM: usize = 16;
/// KiB of heap that an end of an idle session may keep.
pub const LIMIT: f64 = 25.0;
/// Longer than anything here takes to come to rest.
pub const SETTLED: Duration = Duration::from_millis(300);

/// Bytes a connection, at the client's and at the server's end.
type Ends = [f64; 2];

/// Idle sessions at rest and awake, beside HTTP/2 on plain rustls as a first program would have it.
pub fn measure() -> Result<Vec<Number>> {
    many_files()?;
    let at_rest = sessions(Duration::from_millis(50), true)?;
    let awake = sessions(Duration::from_secs(3600), false)?;
    let naive = naive()?;
    let kib = |bytes: f64| [bytes / 1024.0];
    let mut numbers = Vec::new();
    for (end, names) in [
        (0, ["idle session, client end", "awake session, client end"]),
        (1, ["idle session, server end", "awake session, server end"]),
    ] {
        let peer = |number: Number| number.beside("hyper on plain rustls, idle", &kib(naive[end]));
        let covers = format!("heap by connection, mean of {CONNECTIONS}, after one request each");
        let rest = Number::new(names[0], Unit::Kibibytes, &kib(at_rest[end])).limit(Limit::AtMost(LIMIT));
        numbers.push(peer(rest).covers(format!("{covers}, at rest: TLS, proof and session, no HTTP/2")));
        let awake = Number::new(names[1], Unit::Kibibytes, &kib(awake[end]));
        numbers.push(peer(awake).covers(format!("{covers}, within the first 30 s: with HTTP/2")));
    }
    Ok(numbers)
}

/// As many open files as this process may have.
pub fn many_files() -> Result<()> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).context("cannot open enough files for a thousand connections")
}

fn runtime(end: Counted) -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().on_thread_start(move || end.here()).build()?)
}

/// Lets `serve` take every connection on a thread of its own, and `dial` make them on another; what they keep is counted
/// between the first few and the last.
fn counted<S, D, K>(serve: S, dial: D, settled: impl AsyncFn(&[K]) + Send) -> Result<Ends>
where
    S: AsyncFn(UnixStream) -> Result<()> + Send,
    D: AsyncFn(UnixStream) -> Result<K> + Send,
{
    let (to_server, mut from_client) = mpsc::unbounded_channel::<StdStream>();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            Counted::Server.here();
            runtime(Counted::Server)?.block_on(async {
                while let Some(stream) = from_client.recv().await {
                    serve(UnixStream::from_std(stream)?).await?;
                }
                anyhow::Ok(())
            })
        });
        let client = scope.spawn(move || {
            Counted::Client.here();
            runtime(Counted::Client)?.block_on(async {
                let mut kept = Vec::with_capacity(WARM + CONNECTIONS);
                let mut before = [0; 2];
                for made in 0..WARM + CONNECTIONS {
                    if made == WARM {
                        settled(&kept).await;
                        before = [Counted::Client, Counted::Server].map(Counted::bytes);
                    }
                    let (near, far) = StdStream::pair()?;
                    near.set_nonblocking(true)?;
                    far.set_nonblocking(true)?;
                    to_server.send(far).ok().context("the server's thread has ended")?;
                    kept.push(dial(UnixStream::from_std(near)?).await?);
                }
                settled(&kept).await;
                let after = [Counted::Client, Counted::Server].map(Counted::bytes);
                drop(to_server);
                anyhow::Ok([0, 1].map(|end| (after[end] - before[end]) as f64 / CONNECTIONS as f64))
            })
        });
        let ends = client.join().map_err(|_| anyhow::anyhow!("the client's thread stopped"))??;
        server.join().map_err(|_| anyhow::anyhow!("the server's thread stopped"))??;
        Ok(ends)
    })
}

async fn empty(_: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::new(Empty::new()))
}

fn sessions(rest: Duration, at_rest: bool) -> Result<Ends> {
    let world = Arc::new(World::new(QeReports::Same)?);
    let settings = Settings { rest, ..Settings::default() };
    let (_stop, stop) = watch::channel(false);
    let (serving, stopping) = (world.clone(), stop.clone());
    let serve = async move |io| {
        let attested = serving.accept(io).await?;
        let end = End::new(serving.worker.endpoint.clone())
            .verifying(serving.proxy.verifier.clone(), serving.proxy.wanted.clone())
            .with(settings);
        tokio::spawn(ratls::session::serve(attested, end, service_fn(empty), stopping.clone()));
        Ok(())
    };
    let dial = async move |io| {
        let attested = world.connect(io).await?;
        let end = End::new(world.proxy.endpoint.clone())
            .verifying(world.worker.verifier.clone(), world.worker.wanted.clone())
            .with(settings);
        let (requests, driver) = ratls::session::open(attested, end, stop.clone());
        tokio::spawn(driver);
        let response = requests.send(Request::get("/").body(Empty::<Bytes>::new())?).await?;
        ensure!(response.status().is_success(), "a request was not answered");
        response.into_body().collect().await?;
        Ok(requests)
    };
    counted(serve, dial, async move |kept: &[Requests]| {
        while !kept.iter().all(|requests| requests.is_at_rest() == at_rest) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(SETTLED).await;
    })
}

fn naive() -> Result<Ends> {
    let plain = Arc::new(Plain::new()?);
    let serving = plain.clone();
    let serve = async move |io| {
        let stream = serving.accept(io).await?;
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(empty)));
        Ok(())
    };
    let dial = async move |io| {
        let stream = plain.connect(io).await?;
        let client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut requests, connection) = client.handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get("http://peer.invalid/").body(Empty::<Bytes>::new())?;
        requests.send_request(request).await?.into_body().collect().await?;
        Ok(requests)
    };
    counted(serve, dial, async |_: &[_]| tokio::time::sleep(SETTLED).await)
}
