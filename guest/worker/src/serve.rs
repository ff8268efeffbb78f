//! What a worker does with a connection: HTTP/2 over it, whoever it was that called.
//!
//! ```text
//! client, proxy -- dial in --> Door -> serve
//! worker -- dials a proxy ---> attested both ways, belongs here? -> serve on that connection; again when it ends
//! ```

use axum::Router;
use daemon::dial::Met;
use daemon::trust::belongs;
use daemon::{Own, Reporter};
use hyper_util::service::TowerToHyperService;
use protocol::channel::Part;
use protocol::config::Role;
use ratls::session::{self, End, Reason};
use ratls::{Accepted, Attested, ChannelError, Endpoint, Verifier, Wanted};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Proxies, and what they are held against.
#[derive(Clone)]
pub struct Proxies {
    /// From the measured configuration.
    pub verifier: Arc<Verifier>,
    /// Whether that is a simulated platform.
    pub simulated: bool,
}

/// What every connection needs.
pub struct Server {
    /// This guest's own end.
    pub endpoint: Arc<Endpoint>,
    /// `None` where the configuration says nothing of whom to believe: then only clients are let in.
    pub proxies: Option<Proxies>,
    /// This guest's configuration.
    pub own: Own,
    /// What is served.
    pub routes: Router,
    /// To the host.
    pub reporter: Reporter,
    /// Becomes true at the end.
    pub stop: watch::Receiver<bool>,
}

impl Server {
    /// Takes one connection that came in to its end.
    pub async fn meet<S>(&self, accepted: Accepted<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match (accepted, &self.proxies) {
            (Accepted::Anonymous(client), _) => {
                let (end, stop) = (End::new(self.endpoint.clone()), self.stop.clone());
                session::serve(client, end, TowerToHyperService::new(self.routes.clone()), stop).await;
            }
            (Accepted::Attested(proxy), Some(proxies)) => {
                self.serve_proxy(proxy, proxies).await;
            }
            // Nobody was asked for evidence, so nobody can have shown any.
            (Accepted::Attested(_), None) => {}
        }
    }

    /// Calls a proxy over this connection: both show evidence, then the worker serves.
    pub async fn call<S>(&self, io: S) -> Met
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(proxies) = &self.proxies else { return Met::Failed };
        match ratls::connect(io, &self.endpoint, &proxies.verifier, &Wanted::part(Part::Proxy)).await {
            Ok(proxy) => self.serve_proxy(proxy, proxies).await,
            Err(error) => {
                if let Some(refusal) = error.refusal() {
                    self.reporter.refused(Role::Proxy, &refusal.reasons());
                }
                Met::Failed
            }
        }
    }

    async fn serve_proxy<S>(&self, mut proxy: Attested<S>, proxies: &Proxies) -> Met
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Err(rule) = belongs(proxy.peer().static_config(), &self.own.config) {
            self.reporter.refused(Role::Proxy, &[rule]);
            return Met::Failed;
        }
        match proxy.stream().accepted().await {
            Ok(()) => {}
            Err(ChannelError::Refused { .. }) => {
                // Which of its checks refused us is the proxy's to tell its own host.
                self.reporter.refused(Role::Proxy, &["refused_by_peer"]);
                return Met::Failed;
            }
            Err(_) => return Met::Failed,
        }
        self.reporter.joined(Role::Proxy, proxies.simulated);
        let end = End::new(self.endpoint.clone());
        let end = end.verifying(proxies.verifier.clone(), Wanted::part(Part::Proxy));
        let service = TowerToHyperService::new(self.routes.clone());
        let ended = session::serve(proxy, end, service, self.stop.clone()).await;
        match ended.reason {
            Reason::Distrusted(refusal) => {
                self.reporter.refused(Role::Proxy, &refusal.reasons());
                Met::Failed
            }
            _ => {
                self.reporter.left(Role::Proxy);
                Met::Served
            }
        }
    }
}
