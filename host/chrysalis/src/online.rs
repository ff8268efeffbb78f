//! Collateral for a quote from a service and a cache on disk: what `evidence collateral` and `evidence verify --service` share.
//!
//! ```text
//! cache holds, not a day old -> cache       cache holds, a day old -> service, else cache
//! cache does not hold        -> service, else nothing
//! ```

use crate::input::read;
use anyhow::{Context, Result, anyhow};
use collateral::{Held, Keeper, KeeperError, Origin, PlatformId, Service, Settings, Store};
use evidence::{Collateral, Policy, show_time};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Options of everything that may ask a collateral service.
#[derive(Debug, Clone, clap::Args)]
pub struct Online {
    /// Collateral service: base URL of a PCCS, or of Intel's own service.
    #[arg(long)]
    service: Option<String>,
    /// Folder where collateral is kept; alone, it works without a network.
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Where the root's CRL is, for a service that has none itself, as Intel's.
    #[arg(long, requires = "service")]
    root_crl: Option<String>,
    /// Certificates (PEM) to trust for TLS instead of the public ones, for a PCCS with a certificate of its own.
    #[arg(long, requires = "service")]
    tls_roots: Option<PathBuf>,
}

/// Where collateral came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CameFrom {
    /// Fetched just now.
    Service,
    /// Kept by an earlier call; the service was not asked, or there is none.
    Cache,
    /// Kept by an earlier call; the service was asked for a newer copy and did not help.
    CacheServiceFailed,
}

/// Genuine collateral, and how it was come by.
#[derive(Debug, Serialize)]
pub struct Found {
    #[serde(skip)]
    pub collateral: Arc<Collateral>,
    pub from: CameFrom,
    /// The service that was named.
    pub service: Option<String>,
    /// The folder that was named.
    pub cache: Option<PathBuf>,
    /// When the first of its parts expires, Unix seconds.
    pub expires: u64,
    /// When the service should be asked again, Unix seconds.
    pub renew: u64,
    /// What went wrong on the way.
    pub trouble: Option<String>,
}

/// What a service and a cache have for a quote.
pub enum Answer {
    /// Collateral to be used.
    Genuine(Found),
    /// The service answered, but not with what is genuine for this quote, and nothing is held.
    Refused { why: String, collateral: Box<Collateral> },
}

impl Online {
    /// Collateral that is genuine for this quote under the policy's root at this time (Unix seconds). The error says who was
    /// asked, what is held, and what to do.
    pub fn collateral(&self, quote: &[u8], policy: &Policy, at: u64) -> Result<Answer> {
        let store = self.cache.as_ref().map(Store::open).transpose()?;
        let mut keeper = Keeper::new(self.service()?, store, policy.clone());
        let held = match keeper.collateral(quote, at) {
            Ok(held) => held,
            Err(KeeperError::Refused { why, collateral, .. }) => {
                return Ok(Answer::Refused { why, collateral });
            }
            Err(error) => return Err(self.explained(&error)),
        };
        let first = if held.origin == Origin::Service { CameFrom::Service } else { CameFrom::Cache };
        // Only a copy from the cache can be due already.
        let Some(renewed) = keeper.refresh(at).pop() else {
            return Ok(Answer::Genuine(self.found(held, first)));
        };
        let held = keeper.collateral(quote, at).map_err(|error| self.explained(&error))?;
        let from = if renewed.trouble.is_none() { CameFrom::Service } else { CameFrom::CacheServiceFailed };
        Ok(Answer::Genuine(self.found(held, from)))
    }

    fn service(&self) -> Result<Option<Service>> {
        let Some(url) = &self.service else { return Ok(None) };
        let pem = |path: &PathBuf| {
            String::from_utf8(read(path)?).with_context(|| format!("{}: not PEM", path.display()))
        };
        let tls_roots = self.tls_roots.as_ref().map(pem).transpose()?;
        let settings = Settings { root_crl: self.root_crl.clone(), tls_roots, ..Settings::of(url) };
        Ok(Some(Service::new(settings)?))
    }

    fn found(&self, held: Held, from: CameFrom) -> Found {
        Found {
            collateral: held.collateral,
            from,
            service: self.service.clone(),
            cache: self.cache.clone(),
            expires: held.expires,
            renew: held.due,
            trouble: held.trouble,
        }
    }

    /// The failure with everybody who was asked by name, and the next step.
    fn explained(&self, error: &KeeperError) -> anyhow::Error {
        let service = self
            .service
            .as_ref()
            .map_or_else(|| "no service (--service)".into(), |url| format!("service {url}"));
        let cache = self
            .cache
            .as_ref()
            .map_or_else(|| "no cache (--cache)".into(), |dir| format!("cache {}", dir.display()));
        let next = match (error, &self.service) {
            (KeeperError::Quote(_), _) => "give a quote of version 4 or 5, as the platform gave it",
            (_, None) => "name a service with --service",
            _ => "repeat when the service answers, or name another with --service",
        };
        anyhow!("{error}; asked: {service}, {cache}; next: {next}")
    }
}

impl Found {
    /// Where it came from, until when it holds, and what went wrong on the way, in two lines or three.
    pub fn sentence(&self) -> String {
        let service = self.service.as_deref().unwrap_or_default();
        let cache = self.cache.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
        let from = match self.from {
            CameFrom::Service => format!("fetched from {service}"),
            CameFrom::Cache if self.service.is_none() => format!("from the cache in {cache}"),
            CameFrom::Cache => format!("from the cache in {cache}, without asking {service}"),
            CameFrom::CacheServiceFailed => {
                format!("from the cache in {cache}, since {service} did not help")
            }
        };
        let (until, renew) = (show_time(self.expires), show_time(self.renew));
        let mut text = format!("collateral {from}\nholds until {until}, to be renewed from {renew}");
        if let Some(trouble) = &self.trouble {
            text += &format!("\ntrouble: {trouble}");
        }
        text
    }
}

/// The platforms that a quote's collateral is published for, as an input of the user's.
pub fn platform(quote: &[u8]) -> Result<PlatformId> {
    PlatformId::of_quote(quote).map_err(|why| anyhow!("{why}; expected a TDX quote with its PCK certificate"))
}
