//! The session key: made at each boot, in memory, and told to clients as a named application key of this guest.
//!
//! A quote over the connection vouches for the key, so a client can ask for the very proxy that it knows by it, and a cap
//! for it is good for this boot alone. The books sign vouchers and receipts with it.

use anyhow::{Context, Result};
use payment::SecretKey;
use protocol::channel::{ApplicationKey, ApplicationKeys};
use std::fs::File;
use std::io::Read;

/// Name of the key in the evidence.
pub const NAME: &str = "sk";

/// An Ed25519 key pair that dies with the process.
pub struct SessionKey(SecretKey);

impl SessionKey {
    /// A fresh one, from the kernel's generator, which the gate seeded from the CPU.
    pub fn generate() -> Result<Self> {
        Ok(SessionKey(SecretKey::from_seed(&seeds()?())))
    }

    /// As peers see it: 32 bytes, RFC 8032.
    pub fn application_keys(&self) -> Result<ApplicationKeys> {
        let key = self.public().to_vec();
        Ok(ApplicationKeys::new(vec![ApplicationKey { name: NAME.into(), key }])?)
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.public().to_bytes()
    }

    /// The secret key, for the books.
    pub fn into_secret(self) -> SecretKey {
        self.0
    }
}

/// Secret random seeds, each used once.
pub fn seeds() -> Result<impl FnMut() -> [u8; 32] + Send + 'static> {
    let mut random = File::open("/dev/urandom").context("/dev/urandom")?;
    Ok(move || {
        let mut seed = [0; 32];
        random.read_exact(&mut seed).expect("the kernel's generator, once open, always answers");
        seed
    })
}
