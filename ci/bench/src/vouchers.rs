//! Vouchers verified in batches and written to the log, beside the same signatures one by one.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use payment::batch::{self, LARGE};
use payment::log::{LogWriter, Record};
use payment::{Address, Cap, PublicKey, SecretKey, Signed};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Microseconds of one core that a voucher may take: 33,000 a second.
const LIMIT: f64 = 30.0;
/// Samples of each.
const ROUNDS: usize = 21;
/// Clients whose caps come together.
const CLIENTS: usize = 64;

/// Both in CPU time of this thread, in turns; `scratch` takes the log.
pub fn measure(scratch: &Path) -> Result<Number> {
    let keys: Vec<SecretKey> = (0..CLIENTS).map(|n| SecretKey::from_seed(&[n as u8 + 1; 32])).collect();
    let pool = Address { workchain: 0, hash: [1; 32] };
    let (head, mut writer) = LogWriter::begin(&pool, &[2; 32]);
    let path = scratch.join("vouchers.log");
    let mut file = File::create(&path).with_context(|| format!("{} can't be written", path.display()))?;
    file.write_all(&head)?;
    let (mut together, mut alone) = (Vec::with_capacity(ROUNDS), Vec::with_capacity(ROUNDS));
    for round in 0..ROUNDS {
        let claims = caps(&keys, round as u64);
        let began = cpu();
        let good = batch::verify(claims.clone(), &[round as u8; 32]);
        let logged: Vec<u8> =
            good.iter().flatten().flat_map(|cap| writer.append(&Record::Cap(*cap.signed()))).collect();
        file.write_all(&logged)?;
        file.sync_data()?;
        together.push(each(cpu() - began));
        ensure!(good.iter().all(Result::is_ok), "a good voucher was refused: report this as a defect");
        let began = cpu();
        let good = claims.iter().all(|(signed, key)| signed.verify(key).is_ok());
        alone.push(each(cpu() - began));
        ensure!(good, "a good voucher was refused: report this as a defect");
    }
    Ok(Number::new("voucher", Unit::Microseconds, &together)
        .limit(Limit::AtMost(LIMIT))
        .beside("each verified alone, and not logged", &alone)
        .covers(format!("{LARGE} caps of {CLIENTS} clients verified in one batch, logged and synced; CPU time of one thread")))
}

/// One batch, of totals that no other round has.
fn caps(keys: &[SecretKey], round: u64) -> Vec<(Signed<Cap>, PublicKey)> {
    let vault = Address { workchain: 0, hash: [3; 32] };
    let cap = |n: usize| {
        let key = &keys[n % keys.len()];
        let amount = round * LARGE as u64 + n as u64;
        let voucher =
            Cap { global_id: -239, vault, valid_until: u32::MAX, session_key: [2; 32], cap: amount };
        (key.sign(voucher), key.public())
    };
    (0..LARGE).map(cap).collect()
}

fn each(spent: Duration) -> f64 {
    spent.as_secs_f64() * 1e6 / LARGE as f64
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
