//! Connections: who it is decides what becomes of it.
//!
//! ```text
//! accepted -- client -> HTTP/2 server: forward
//!         \-- worker -> belongs here? -> HTTP/2 client -> registry until the connection ends
//! ```

use crate::forward::{Upstream, router};
use crate::registry::{Registry, Way};
use axum::Router;
use axum::body::{Body, Bytes};
use daemon::dial::Met;
use daemon::trust::belongs;
use daemon::{Own, Reporter};
use http_body_util::Full;
use hyper_util::service::TowerToHyperService;
use protocol::channel::Part;
use protocol::config::Role;
use ratls::session::{self, End, Requests};
use ratls::{Accepted, Attested, Endpoint, Verifier, Wanted};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

impl Way for Requests {
    fn in_flight(&self) -> usize {
        Requests::in_flight(self)
    }
    fn is_draining(&self) -> bool {
        self.is_over()
    }
}

impl Upstream for Requests {
    async fn send(&self, request: hyper::Request<Full<Bytes>>) -> Option<hyper::Response<Body>> {
        // Why it failed is the session's to tell, at its end.
        Requests::send(self, request).await.ok().map(|response| response.map(Body::new))
    }
}

/// What every connection needs.
pub struct House {
    /// This guest's own end.
    pub endpoint: Arc<Endpoint>,
    /// What workers are held against.
    pub verifier: Arc<Verifier>,
    /// Whether that is a simulated platform.
    pub simulated: bool,
    /// This guest's configuration.
    pub own: Own,
    /// Who is here.
    pub workers: Arc<Registry<Requests>>,
    /// To the host.
    pub reporter: Reporter,
    /// Becomes true at the end.
    pub stop: watch::Receiver<bool>,
}

impl House {
    /// Takes one connection to its end.
    pub async fn meet<S>(&self, accepted: Accepted<S>, routes: Router)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match accepted {
            Accepted::Anonymous(client) => {
                let (end, stop) = (End::new(self.endpoint.clone()), self.stop.clone());
                session::serve(client, end, TowerToHyperService::new(routes), stop).await;
            }
            Accepted::Attested(worker) => {
                self.employ(worker).await;
            }
        }
    }

    /// Keeps an attested worker in the registry for as long as it is here.
    pub async fn employ<S>(&self, worker: Attested<S>) -> Met
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = match belongs(worker.peer().static_config(), &self.own.config) {
            Ok(config) => config,
            Err(rule) => {
                self.reporter.refused(Role::Worker, &[rule]);
                return Met::Failed;
            }
        };
        let end =
            End::new(self.endpoint.clone()).verifying(self.verifier.clone(), Wanted::part(Part::Worker));
        let (requests, connection) = session::open(worker, end, self.stop.clone());
        let Some(_place) = self.workers.join(config.models, requests) else { return Met::Failed };
        self.reporter.joined(Role::Worker, self.simulated);
        connection.await;
        self.reporter.left(Role::Worker);
        Met::Served
    }

    /// The routes over the workers of this house.
    pub fn routes(&self) -> Router {
        router(self.workers.clone())
    }
}
