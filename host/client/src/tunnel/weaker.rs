//! The service behind a certificate with evidence inside, for programs that can do no better: WEAKER than a tunnel, and beside it.

use super::{Event, Report, StreamError};
use ratls::weak::WeakAcceptor;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Connections at one time.
const CONNECTIONS: usize = 256;

/// Takes TLS connections for as long as it is polled, and brings each to the service at `HOST:PORT`. Who connects is told by the
/// certificate what made its key, and nothing about this connection.
pub async fn weaker(listener: TcpListener, tls: WeakAcceptor, service: &str, report: Report) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Only `close` makes acquiring fail, and nobody closes it.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((tcp, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (tls, service, report) = (tls.clone(), service.to_owned(), report.clone());
        tokio::spawn(async move {
            // Who does not get through TLS, or hangs up, is of no interest to anybody here.
            if let Ok(mut stream) = tls.accept(tcp).await {
                match TcpStream::connect(&service).await {
                    Ok(mut tcp) => drop(copy_bidirectional(&mut stream, &mut tcp).await),
                    Err(error) => {
                        let error = StreamError::Service { target: service, reason: error.to_string() };
                        report(Event::Failed(&error));
                    }
                }
            }
            drop(place);
        });
    }
}
