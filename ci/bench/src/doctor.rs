//! How long a host is examined: this one, and one that never answers.

use crate::report::{Limit, Number, Unit};
use anyhow::{Result, ensure};
use launcher::doctor::{DEADLINE, Options, Status, examine};
use launcher::host::{Answer, Host, Miss, Question, Real};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Seconds that an examination may take.
const LIMIT: f64 = 1.0;
const ROUNDS: usize = 5;

/// A host on which everything hangs, for longer than anybody waits.
struct Hangs;

impl Host for Hangs {
    fn ask(&self, _: &Question) -> Answer {
        std::thread::sleep(Duration::from_secs(30));
        Err(Miss::Late)
    }
}

/// Both numbers.
pub fn measure() -> Result<Vec<Number>> {
    let mut here = Vec::new();
    for _ in 0..ROUNDS {
        here.push(seconds(Arc::new(Real::default()))?.0);
    }
    let (hung, unknown) = seconds(Arc::new(Hangs))?;
    ensure!(unknown, "a host that never answers was judged");
    Ok(vec![
        Number::new("doctor", Unit::Seconds, &here).limit(Limit::AtMost(LIMIT)).covers(
            "every precondition of this host looked at: files, registers, programs and sockets included",
        ),
        Number::new("doctor, a host that hangs", Unit::Seconds, &[hung])
            .limit(Limit::AtMost(LIMIT))
            .covers("the same on a host of which no question is ever answered"),
    ])
}

/// How long it took, and whether nothing at all was found out.
fn seconds(host: Arc<dyn Host>) -> Result<(f64, bool)> {
    let began = Instant::now();
    let report = examine(host, &Options::default(), DEADLINE);
    let took = began.elapsed().as_secs_f64();
    ensure!(report.checks.len() > 20, "only {} checks", report.checks.len());
    Ok((took, report.checks.iter().all(|check| check.status == Status::Unknown)))
}
