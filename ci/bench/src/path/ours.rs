//! The proxy itself, the very code of the daemon on a thread of its own: attested workers that dial in, attested sessions of
//! clients, routes, router and answers.
//!
//! ```text
//! load --session--> [Door -> House -> routes -> forward -> registry] --session--> worker (origin.rs)
//!                    thread "proxy"                                               thread "origin"
//! ```
//! All platforms are SIMULATED; quotes are made on other threads and before anything is measured.

use super::cpu::Threads;
use super::load::Line;
use super::paid::Payer;
use super::{origin, paid};
use crate::channel::world::{QeReports, Side};
use ::proxy::forward::Front;
use ::proxy::money::Money;
use ::proxy::registry::Registry;
use ::proxy::serve::House;
use anyhow::{Context, Result};
use daemon::serve::Door;
use daemon::{Own, Reporter};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use protocol::channel::Part;
use protocol::config::{Role, RuntimeConfig, StaticConfig};
use ratls::session::{self, End, Requests};
use ratls::{Acceptor, Endpoint, Wanted};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Threads of the proxy.
pub const THREADS: Threads = Threads::Named(NAME);
/// Their name.
pub const NAME: &str = "proxy";
/// Connections that the proxy lets in.
const OPEN: usize = 4_096;
const PROXY: &str = "schema = 1\nrole = \"proxy\"\nnetwork = \"local\"\n";

/// A proxy that serves.
pub struct Ours {
    /// Where.
    pub address: SocketAddr,
    workers: Arc<Registry<Requests>>,
    proxy: Side,
    worker: Side,
    running: watch::Sender<bool>,
}

/// The root of the one model, as configurations have it.
pub fn root() -> [u8; 32] {
    [0xaa; 32]
}

impl Ours {
    /// On the runtime of `on`, whose threads are its; paid where there is money.
    pub async fn start(on: &Handle, money: Option<Arc<Money>>) -> Result<Self> {
        let (model, wallet) = ("a".repeat(64), if money.is_some() { paid::wallet() } else { String::new() });
        let worker = format!(
            "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"m\"\nroot = \"{model}\"\ndata_blocks = 1\n{wallet}"
        );
        let proxy = Side::of(Part::Proxy, PROXY.into(), QeReports::Same)?;
        let worker = Side::of(Part::Worker, worker.into(), QeReports::Same)?;
        let (running, stop) = watch::channel(false);
        let workers: Arc<Registry<Requests>> = Arc::default();
        let (endpoint, verifier) = (proxy.endpoint.clone(), worker.verifier.clone());
        let watching = money.clone().zip(Some(workers.clone()));
        let front = Arc::new(Front::new(workers.clone(), money));
        let serving = on.spawn(async move {
            if let Some((money, workers)) = watching {
                tokio::spawn(money.watch(workers));
            }
            // Nobody listens to what it reports.
            let reporter = Reporter::start(PathBuf::from("/nonexistent"));
            let own = Own {
                static_bytes: PROXY.into(),
                config: StaticConfig::parse(PROXY.as_bytes())?,
                runtime: RuntimeConfig::parse(b"schema = 1\naddress = \"127.0.0.1/8\"\n")?,
            };
            let acceptor = Acceptor::new(endpoint.clone()).context("an attested endpoint")?;
            let acceptor = acceptor.anonymous().attested(verifier.clone(), Wanted::part(Part::Worker));
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let (reporting, stopping) = (reporter.clone(), stop.clone());
            let house = House {
                endpoint,
                verifier,
                wanted: Wanted::part(Part::Worker),
                simulated: true,
                own,
                front,
                reporter,
                stop,
                connections: 0.into(),
            };
            let house = Arc::new(house);
            let routes = house.routes();
            let meet = move |accepted| {
                let (house, routes) = (house.clone(), routes.clone());
                async move { house.meet(accepted, routes).await }
            };
            let acceptor = Arc::new(acceptor);
            let door = Door { name: NAME, acceptor, peers: Role::Worker, reporter: reporting, open: OPEN };
            tokio::spawn(door.serve(listener, stopping, meet));
            anyhow::Ok(address)
        });
        let address = serving.await??;
        Ok(Self { address, workers, proxy, worker, running })
    }

    /// Has so many workers dial in, on the present runtime.
    pub async fn employ(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            let Side { endpoint, .. } = &self.worker;
            let Side { verifier, wanted, .. } = &self.proxy;
            let attested = ratls::connect(tcp, endpoint, verifier, wanted).await?;
            let end = End::new(endpoint.clone()).verifying(verifier.clone(), wanted.clone());
            let service = service_fn(|request: Request<Incoming>| origin::served(request, true));
            tokio::spawn(session::serve(attested, end, service, self.running.subscribe()));
        }
        // Until each has said what it has.
        let able = || self.workers.models().first().map_or(0, |model| model.capacity.workers as usize);
        while able() < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// A client's session, on the present runtime; its HTTP/2 is put away after `rest` without a request.
    pub async fn dial(&self, rest: Duration) -> Result<Requests> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let me = Arc::new(Endpoint::anonymous());
        let Side { verifier, wanted, .. } = &self.proxy;
        let attested = ratls::connect(tcp, &me, verifier, wanted).await?;
        let settings = session::Settings { rest, ..session::Settings::default() };
        let end = End::new(me).verifying(verifier.clone(), wanted.clone()).with(settings);
        let (requests, driver) = session::open(attested, end, self.running.subscribe());
        tokio::spawn(driver);
        Ok(requests)
    }

    /// The same, to be measured; paid for where there is somebody who pays.
    pub async fn line(&self, payer: Option<&Payer>) -> Result<Line> {
        let requests = self.dial(Duration::from_secs(3_600)).await?;
        Ok(match payer {
            Some(payer) => Line::Paid(requests, payer.clone()),
            None => Line::Attested(requests),
        })
    }
}
