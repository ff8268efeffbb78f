//! The end beside the program: takes its connections, and has one attested session to the far end for all of them.

use super::pipe::{self, Outgoing};
use super::{Event, PATH, PROGRAMS, Report, StreamError, settings};
use crate::ClientError;
use crate::reach;
use http_body_util::{BodyExt, Limited};
use hyper::{Request, StatusCode};
use ratls::session::{Body, End, Requests};
use ratls::{Endpoint, Verifier, Wanted};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore, watch};

/// Longest word of a far end that is listened to, bytes.
const MAX_REASON: usize = 512;

/// Keeps one attested session to a far end, made when it is first needed and anew when it has ended.
pub struct Dialer {
    address: String,
    me: Arc<Endpoint>,
    verifier: Arc<Verifier>,
    wanted: Wanted,
    session: Mutex<Option<Requests>>,
    report: Report,
    /// Never set; sessions end with the dialer, which holds it.
    stop: watch::Sender<bool>,
}

impl Dialer {
    /// For the far end at `address` (`HOST:PORT`), which must be as `wanted`. Where `me` is attested, so must the far end want it.
    pub fn new(
        address: &str,
        me: Arc<Endpoint>,
        verifier: Arc<Verifier>,
        wanted: Wanted,
        report: Report,
    ) -> Self {
        let stop = watch::Sender::new(false);
        Dialer { address: address.into(), me, verifier, wanted, session: Mutex::new(None), report, stop }
    }

    /// The session, attested. Those who ask while it is being made wait for that one.
    pub async fn session(&self) -> Result<Requests, ClientError> {
        let mut session = self.session.lock().await;
        if let Some(requests) = session.as_ref().filter(|requests| !requests.is_over()) {
            return Ok(requests.clone());
        }
        let requests = self.dial().await?;
        *session = Some(requests.clone());
        Ok(requests)
    }

    async fn dial(&self) -> Result<Requests, ClientError> {
        let tcp = reach(&self.address).await?;
        let _ = tcp.set_nodelay(true);
        let attested = ratls::connect(tcp, &self.me, &self.verifier, &self.wanted).await;
        let mut attested = attested.map_err(|error| ClientError::from_connect(&self.address, error))?;
        // A tunnel says early that it isn't let in; it is not in the haste of a request.
        let let_in = attested.stream().accepted().await;
        let_in.map_err(|source| ClientError::Channel { address: self.address.clone(), source })?;
        (self.report)(Event::Attested(attested.peer()));
        let end = End::new(self.me.clone()).verifying(self.verifier.clone(), self.wanted.clone());
        let (requests, driver) = ratls::session::open(attested, end.with(settings()), self.stop.subscribe());
        let report = self.report.clone();
        tokio::spawn(async move { report(Event::Ended(&driver.await)) });
        Ok(requests)
    }

    /// Carries one connection of a program from its beginning to its end.
    async fn carry(&self, tcp: TcpStream) -> Result<(), StreamError> {
        let _ = tcp.set_nodelay(true);
        let tcp = Arc::new(tcp);
        let carried = self.carry_on(&tcp).await;
        if carried.is_err() {
            pipe::break_off(&tcp);
        }
        carried
    }

    async fn carry_on(&self, tcp: &Arc<TcpStream>) -> Result<(), StreamError> {
        let unopened = |source| StreamError::Unopened { address: self.address.clone(), source };
        let requests = self.session().await?;
        let (outgoing, gone) = Outgoing::watched(tcp.clone());
        let request = Request::post(PATH).body(outgoing).map_err(|error| unopened(error.into()))?;
        let response = requests.send(request).await.map_err(unopened)?;
        let status = response.status();
        let mut body = response.into_body();
        if status != StatusCode::OK {
            return Err(self.turned_down(status, body).await);
        }
        pipe::incoming(&mut body, tcp).await?;
        // The service has said all; the program may go on. Dropping the body would cancel what it sends.
        let _ = gone.await;
        drop(body);
        Ok(())
    }

    async fn turned_down(&self, status: StatusCode, body: Body) -> StreamError {
        let said = Limited::new(body, MAX_REASON).collect().await;
        let reason = match said {
            Ok(said) => String::from_utf8_lossy(&said.to_bytes()).escape_debug().to_string(),
            Err(_) => "no word of it".into(),
        };
        StreamError::Target { address: self.address.clone(), status, reason }
    }
}

/// Takes connections of local programs for as long as it is polled.
pub async fn near(listener: TcpListener, dialer: Arc<Dialer>) {
    let places = Arc::new(Semaphore::new(PROGRAMS));
    loop {
        // Only `close` makes acquiring fail, and nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        // What fails here is one connection that is gone already, or want of descriptors, which passes.
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let dialer = dialer.clone();
        tokio::spawn(async move {
            if let Err(error) = dialer.carry(tcp).await {
                (dialer.report)(Event::Failed(&error));
            }
            drop(place);
        });
    }
}
