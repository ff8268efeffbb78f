//! Appraisals of one quote after the other, beside dcap-qvl alone in the same run, in CPU time of one thread.
//!
//! All evidence is of one simulated platform, whose certificates, CRLs and documents are verified like real ones and are about
//! as large.

use crate::report::{Limit, Number, Unit};
use anyhow::{Context, Result, ensure};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use evidence::{Cache, Collateral, Inputs, Policy, Verdict};
use rustix::time::{ClockId, clock_gettime};
use simulator::fault::{AT, Case, Fault};
use std::hint::black_box;

/// Samples of each.
const ROUNDS: usize = 15;
/// Quotes in one sample; more than the cache keeps QE reports of one platform.
const QUOTES: usize = 48;
/// Times the peer's: nine checks against two, against one, and against nine.
const KNOWN: f64 = 1.0 / 5.0;
const REPEATED: f64 = 1.0 / 9.0;
const FIRST: f64 = 1.0;

struct World {
    case: Case,
    policy: Policy,
    json: String,
    /// Of one attestation key.
    same_key: Vec<Vec<u8>>,
    /// Each of another.
    other_keys: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Result<Self> {
        let case = Fault::None.case()?;
        let same_key = (0..QUOTES).map(|n| case.requote(|td| td.report_data.0[0] = n as u8)).collect();
        let other_keys = (0..QUOTES).map(|_| case.requote_with_new_key()).collect::<Result<_, _>>()?;
        let (policy, json) = (Policy::simulated(&case.root_der)?, case.collateral.to_json());
        Ok(World { policy, json, case, same_key, other_keys })
    }

    fn inputs<'a>(&'a self, quote: &'a [u8], collateral: &'a Collateral) -> Inputs<'a> {
        let (event_log, static_config, runtime, reference, report_data) = (None, None, None, None, None);
        let policy = &self.policy;
        Inputs {
            quote,
            collateral,
            policy,
            event_log,
            static_config,
            runtime,
            reference,
            report_data,
            at: AT,
        }
    }

    /// Microseconds a quote.
    fn library(&self, quotes: &[Vec<u8>]) -> Result<f64> {
        let verifier = QuoteVerifier::new(self.case.root_der.clone());
        let fields = self.case.collateral.fields();
        each(quotes, |quote| verifier.verify(quote, fields, AT).is_ok())
    }

    fn warm(&self, cache: &Cache, quotes: &[Vec<u8>]) -> Result<f64> {
        each(quotes, |quote| good(&cache.verify(&self.inputs(quote, &self.case.collateral))))
    }

    /// Both from the collateral's JSON on, as it comes from a file or a service.
    fn first(&self, quotes: &[Vec<u8>]) -> Result<(f64, f64)> {
        let ours = each(quotes, |quote| {
            let collateral = Collateral::parse(self.json.as_bytes());
            collateral
                .is_ok_and(|collateral| good(&Cache::default().verify(&self.inputs(quote, &collateral))))
        })?;
        let verifier = QuoteVerifier::new(self.case.root_der.clone());
        let theirs = each(quotes, |quote| {
            let fields: Result<QuoteCollateralV3, _> = serde_json::from_str(&self.json);
            fields.is_ok_and(|fields| verifier.verify(quote, &fields, AT).is_ok())
        })?;
        Ok((ours, theirs))
    }
}

fn good(verdict: &Verdict) -> bool {
    verdict.accepted && verdict.tcb_status.as_deref() == Some("UpToDate")
}

/// Microseconds for each; an error if one of them was not accepted.
fn each(quotes: &[Vec<u8>], verify: impl Fn(&[u8]) -> bool) -> Result<f64> {
    let start = cpu_time();
    let accepted = quotes.iter().filter(|quote| black_box(verify(quote))).count();
    let taken = cpu_time() - start;
    ensure!(accepted == quotes.len(), "a quote without a fault was refused: report this as a defect");
    Ok(taken * 1e6 / quotes.len() as f64)
}

/// Seconds that this thread has computed; the time that others computed in between does not count.
fn cpu_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// First use, known platforms and repeated QE reports, in turns with the library alone.
pub fn measure() -> Result<Vec<Number>> {
    let world = World::new().context("no simulated platform")?;
    let cache = Cache::default();
    // Untimed: the platform is known from here on, and the code is warm.
    world.warm(&cache, &world.same_key)?;
    world.library(&world.same_key)?;
    let [mut library, mut known, mut repeated, mut first, mut library_first] =
        [(); 5].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        library.push(world.library(&world.other_keys)?);
        known.push(world.warm(&cache, &world.other_keys)?);
        world.warm(&cache, &world.same_key[..1])?;
        repeated.push(world.warm(&cache, &world.same_key)?);
        let (ours, theirs) = world.first(&world.other_keys)?;
        first.push(ours);
        library_first.push(theirs);
    }
    let stats = cache.stats();
    ensure!(stats.missed == 1, "a known platform took the slow path {} times", stats.missed);
    let number = |name, values: &[f64], peer: &[f64], times, what: &str| {
        let a_second = 1e6 / Number::median(values);
        let number = Number::new(name, Unit::Microseconds, values).beside("dcap-qvl alone, 9 checks", peer);
        number.limit(Limit::TimesPeer(times)).covers(format!("{what}; {a_second:.0} verifications a second"))
    };
    Ok(vec![
        number(
            "appraisal, known platform",
            &known,
            &library,
            KNOWN,
            "fresh QE report, signed quote: 2 P-256 checks",
        ),
        number(
            "appraisal, known QE report",
            &repeated,
            &library,
            REPEATED,
            "the quote's signature alone: 1 P-256 check",
        ),
        number(
            "appraisal, first use",
            &first,
            &library_first,
            FIRST,
            "empty cache, both from the collateral's JSON on; dcap-qvl's run is part of it",
        ),
    ])
}
