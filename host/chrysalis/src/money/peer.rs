//! Questions to an attested proxy or worker.

use crate::trust::Target;
use anyhow::{Context, Result};
use client::Client;
use protocol::channel::Part;
use protocol::market::{Body, read};
use ratls::Wanted;

/// A connection to a peer that was appraised.
pub struct Peer(Client);

impl Peer {
    /// Connects and appraises; a refusal says which checks failed.
    pub async fn connect(target: &Target, part: Part) -> Result<Peer> {
        let (endpoint, trust) = target.load()?;
        let client = Client::connect_to(&endpoint, &Wanted::part(part), &trust, target.at(), |_| ()).await;
        Ok(Peer(client.with_context(|| format!("{endpoint}: not believed, so not asked"))?))
    }

    /// What it answers at `path`.
    pub async fn get<T: Body>(&mut self, path: &str) -> Result<T> {
        let body = self.0.fetch(path).await.with_context(|| format!("GET {path}"))?;
        Ok(read(&body)?)
    }
}
