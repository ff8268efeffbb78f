//! The session key: made at each boot, in memory, and told to clients as a named application key of this guest.
//!
//! A quote over the connection vouches for the key, so a client can ask for the very proxy that it knows by it. Nothing is
//! signed with it yet; vouchers and receipts will be.

use anyhow::{Context, Result};
use ed25519_dalek::SigningKey;
use protocol::channel::{ApplicationKey, ApplicationKeys};
use std::fs::File;
use std::io::Read;

/// Name of the key in the evidence.
pub const NAME: &str = "sk";

/// An Ed25519 key pair that dies with the process.
pub struct SessionKey(SigningKey);

impl SessionKey {
    /// A fresh one, from the kernel's generator, which the gate seeded from the CPU.
    pub fn generate() -> Result<Self> {
        let mut seed = [0; 32];
        File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut seed)).context("/dev/urandom")?;
        Ok(SessionKey(SigningKey::from_bytes(&seed)))
    }

    /// As peers see it: 32 bytes, RFC 8032.
    pub fn application_keys(&self) -> Result<ApplicationKeys> {
        let key = self.0.verifying_key().to_bytes().to_vec();
        Ok(ApplicationKeys::new(vec![ApplicationKey { name: NAME.into(), key }])?)
    }
}
