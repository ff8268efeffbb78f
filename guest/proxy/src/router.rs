//! Which worker gets a request. Pure: no connection, no clock, no randomness; time is passed in, so a simulator can drive
//! this very code through years of traffic.
//!
//! ```text
//! ask: model, price cap, tokens, deadline
//!   -> workers that have the model and passed its self-test, have the wanted device, offer this hour, are not full, were
//!      not tried
//!   -> predicted time to the last token, with what waits there already   (speed.rs: measured, not believed)
//!   -> divided by what the worker's record is worth                      (record.rs: decayed, peer faults only)
//!   -> of those within a tenth of the best: the one that was chosen longest ago
//! ```
//! A worker says how busy it is and how many requests it computes at once; nothing that it says can make it look faster
//! than it was measured, and it can take no model beyond its measured configuration.
//!
//! A worker that was never measured is taken for as fast as the others that have the model, those with a device like its own
//! if there are any, so it gets its first request soon and is measured by it.

mod record;
mod speed;

use payment::price::Price;
use protocol::market::{DeviceKind, DevicePin};
use record::Record;
use speed::Speed;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

/// Number of a worker's connection.
pub type WorkerId = u64;
/// Who a worker is, beyond one connection; whoever calls decides by what.
pub type Name = [u8; 32];

/// Most workers at one time.
pub const MAX_WORKERS: usize = 1024;
/// Names whose record is kept after they left.
const REMEMBERED: usize = 4096;
/// Requests that may wait at a worker, for each that it computes at once.
const QUEUE: u32 = 4;
/// A score within this part of the best is as good.
const ALIKE: f64 = 1.1;
/// How long a worker that broke off gets nothing, so that a failing one is not asked by every retry, in milliseconds.
const REST_MS: u64 = 1_000;
/// How long a worker's own word on its load is taken, in milliseconds.
const LOAD_MS: u64 = 2_000;

/// How long a worker's word that a model passed its self-test is taken, in milliseconds; it is asked three times as often.
pub const TESTED_MS: u64 = 15 * 60 * 1_000;

/// A point in time: milliseconds that only grow, and the hour of the day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since any beginning.
    pub ms: u64,
    /// 0 to 23.
    pub hour: u8,
}

/// A model that a worker has, by its measured configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its verity root.
    pub root: [u8; 32],
}

/// What a worker says of itself, as far as choosing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Requests that are computed at one time.
    pub slots: u32,
    /// From this hour, until before that one, UTC.
    pub hours: (u8, u8),
    /// What it computes on; none where it is of no known kind.
    pub device: Option<DeviceKind>,
    /// Bytes that its device has for models; the larger breaks a tie.
    pub memory: u64,
}

impl Offer {
    fn is(&self, pin: &DevicePin) -> bool {
        self.device == Some(pin.kind) && self.memory >= pin.memory_bytes
    }
}

impl Default for Offer {
    fn default() -> Self {
        // Before it said anything: a session's streams bound what it gets.
        Self { slots: 32, hours: (0, 24), device: None, memory: 0 }
    }
}

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Name of the model.
    pub model: &'a str,
    /// Exactly these weights.
    pub root: Option<[u8; 32]>,
    /// Most tokens that are read.
    pub prompt: u32,
    /// Most tokens that are written.
    pub completion: u32,
    /// nanoTON for a million tokens above which nobody shall be asked.
    pub max_price: Option<u64>,
    /// Milliseconds within which it must be done.
    pub deadline_ms: Option<u64>,
    /// On what alone it may be computed.
    pub device: Option<DevicePin>,
}

/// Who was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Whose connection.
    pub worker: WorkerId,
    /// The model's root there.
    pub root: [u8; 32],
    /// Milliseconds until its last token, as predicted.
    pub predicted_ms: u64,
}

/// Why nobody was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWorker {
    /// Nobody here has such a model.
    UnknownModel,
    /// Whoever has it has no price in the root's book, or a higher one.
    TooDear,
    /// Whoever has it has not said lately that it passed its self-test.
    Untested,
    /// Whoever has it computes on another device, or on one with less memory.
    OtherDevice,
    /// Whoever has it is full; somebody is free in about so many milliseconds.
    Busy {
        /// Milliseconds.
        retry_ms: u64,
    },
    /// Nobody would be done in time; the fastest needs so long.
    TooSlow {
        /// Milliseconds.
        predicted_ms: u64,
    },
    /// Whoever has it was tried, leaves, or takes no work at this hour.
    NoneLeft,
}

/// How a request ended at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered whole.
    Done {
        /// Milliseconds to the first byte.
        first_ms: u64,
        /// Milliseconds to the last.
        total_ms: u64,
        /// Tokens that were read.
        read: u32,
        /// Tokens that were written.
        written: u32,
    },
    /// It was too busy, or refused the request itself: nothing is learned.
    Refused,
    /// The client went away.
    Cancelled,
    /// The connection broke, or nothing came in time: no proof of a fault, but it gets a rest.
    Broke,
    /// It did what no right worker does (`is_peer_fault`).
    Fault,
}

#[derive(Debug)]
struct Worker {
    name: Name,
    models: Vec<Model>,
    offer: Offer,
    speed: Speed,
    in_flight: u32,
    /// What it said last of its queue, and when.
    load: Option<(u32, u64)>,
    rests_until: u64,
    leaving: bool,
    turn: u64,
    /// Roots of models that passed their self-test, by its word, and when it said so.
    tested: (BTreeSet<[u8; 32]>, u64),
}

/// Live workers, and what is known of them.
#[derive(Debug, Default)]
pub struct Router {
    workers: BTreeMap<WorkerId, Worker>,
    records: BTreeMap<Name, Record>,
    /// By root; without one, nothing is priced and nobody pays.
    prices: Option<BTreeMap<[u8; 32], Price>>,
    turn: u64,
}

impl Router {
    /// Takes a worker in; `false` if the house is full.
    pub fn join(&mut self, id: WorkerId, name: Name, models: Vec<Model>) -> bool {
        if self.workers.len() >= MAX_WORKERS {
            return false;
        }
        let worker = Worker {
            name,
            models,
            offer: Offer::default(),
            speed: Speed::default(),
            in_flight: 0,
            load: None,
            rests_until: 0,
            leaving: false,
            turn: 0,
            tested: (BTreeSet::new(), 0),
        };
        self.workers.insert(id, worker);
        self.records.entry(name).or_default();
        if self.records.len() > REMEMBERED {
            let here: Vec<Name> = self.workers.values().map(|worker| worker.name).collect();
            let oldest = self.records.iter().filter(|(name, _)| !here.contains(name));
            let oldest = oldest.min_by_key(|(_, record)| record.touched()).map(|(name, _)| *name);
            oldest.and_then(|name| self.records.remove(&name));
        }
        true
    }

    /// It is gone; its record stays.
    pub fn leave(&mut self, id: WorkerId) {
        self.workers.remove(&id);
    }

    /// It takes no further request.
    pub fn leaving(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.leaving = true;
        }
    }

    /// Takes what a worker says of itself.
    pub fn offer(&mut self, id: WorkerId, offer: Offer) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.offer = Offer { slots: offer.slots.max(1), ..offer };
        }
    }

    /// Takes a worker's word on which models passed their self-test: these, and no others. It holds for [`TESTED_MS`].
    pub fn tested(&mut self, id: WorkerId, roots: impl IntoIterator<Item = [u8; 32]>, now: Moment) {
        if let Some(worker) = self.workers.get_mut(&id) {
            // No more than it has, whatever it says.
            let has = |root: &[u8; 32]| worker.models.iter().any(|model| model.root == *root);
            worker.tested = (roots.into_iter().filter(has).collect(), now.ms);
        }
    }

    /// Takes a worker's word on what it has to do.
    pub fn load(&mut self, id: WorkerId, running: u32, waiting: u32, now: Moment) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.load = Some((running.saturating_add(waiting), now.ms));
        }
    }

    /// Takes the root's prices: from here on only priced models can be asked for.
    pub fn set_prices(&mut self, prices: BTreeMap<[u8; 32], Price>) {
        self.prices = Some(prices);
    }

    /// Price of a model's root.
    pub fn price(&self, root: &[u8; 32]) -> Option<Price> {
        self.prices.as_ref()?.get(root).copied()
    }

    /// Which root a name without one stands for: of those that somebody here has, the cheapest, then the lowest.
    pub fn resolve(&self, model: &str) -> Option<[u8; 32]> {
        let models = self.workers.values().flat_map(|worker| &worker.models);
        let roots = models.filter(|m| m.name == model).map(|m| m.root);
        roots.min_by_key(|root| (self.price(root).map_or(u64::MAX, |price| price.base), *root))
    }

    /// Everything that somebody here has who can be asked for it, each once.
    pub fn models(&self, now: Moment) -> Vec<Model> {
        let able = |w: &'_ Worker, model: &Model| w.is_tested(&model.root, now);
        let models = self.workers.values().flat_map(|w| w.models.iter().filter(move |m| able(w, m)));
        let unique: BTreeMap<_, _> = models.map(|m| ((&m.name, m.root), m)).collect();
        unique.into_values().cloned().collect()
    }

    /// The worker that should get a request, which then is under way there.
    pub fn choose(&mut self, ask: &Ask<'_>, now: Moment, tried: &[WorkerId]) -> Result<Choice, NoWorker> {
        let choice = self.pick(ask, now, tried)?;
        self.turn += 1;
        if let Some(worker) = self.workers.get_mut(&choice.worker) {
            worker.turn = self.turn;
            worker.in_flight += 1;
        }
        Ok(choice)
    }

    fn pick(&self, ask: &Ask<'_>, now: Moment, tried: &[WorkerId]) -> Result<Choice, NoWorker> {
        let root = ask.root.or_else(|| self.resolve(ask.model)).ok_or(NoWorker::UnknownModel)?;
        let able = self.able(&root, ask, now, tried)?;
        let usual = self.usual_of_each(root);
        let full = |w: &Worker| w.busy(now) >= w.offer.slots.saturating_mul(QUEUE);
        let free: Vec<_> = able.iter().filter(|(_, w)| !full(w)).collect();
        if free.is_empty() {
            let soonest = able.iter().map(|(_, w)| w.wait_ms(&usual(w), now)).min();
            return Err(soonest.map_or(NoWorker::NoneLeft, |retry_ms| NoWorker::Busy { retry_ms }));
        }
        let scored = free.iter().map(|(id, w)| {
            let predicted = w.predict(&usual(w), ask, now);
            let rests = w.rests_until > now.ms;
            let worth = self.records.get(&w.name).map_or(1.0, |record| record.worth(now.ms));
            Scored {
                id: **id,
                predicted,
                rests,
                score: predicted as f64 / worth,
                turn: w.turn,
                memory: w.offer.memory,
            }
        });
        let (worker, predicted_ms) = best(scored.collect(), ask.deadline_ms)?;
        Ok(Choice { worker, root, predicted_ms })
    }

    /// Whoever could be asked for it now, if there were room.
    fn able(
        &self,
        root: &[u8; 32],
        ask: &Ask<'_>,
        now: Moment,
        tried: &[WorkerId],
    ) -> Result<Vec<(&WorkerId, &Worker)>, NoWorker> {
        let has = |w: &Worker| w.models.iter().any(|m| m.root == *root && m.name == ask.model);
        let mut able: Vec<_> = self.workers.iter().filter(|(_, w)| has(w)).collect();
        if able.is_empty() {
            return Err(NoWorker::UnknownModel);
        }
        self.affordable(root, ask)?;
        let mut keep = |why: NoWorker, keeps: &dyn Fn(&WorkerId, &Worker) -> bool| {
            able.retain(|(id, w)| keeps(id, w));
            if able.is_empty() { Err(why) } else { Ok(()) }
        };
        keep(NoWorker::Untested, &|_, w| w.is_tested(root, now))?;
        keep(NoWorker::OtherDevice, &|_, w| ask.device.is_none_or(|pin| w.offer.is(&pin)))?;
        keep(NoWorker::NoneLeft, &|id, w| !w.leaving && !tried.contains(id) && w.is_open(now))?;
        Ok(able)
    }

    fn affordable(&self, root: &[u8; 32], ask: &Ask<'_>) -> Result<(), NoWorker> {
        let Some(prices) = &self.prices else { return Ok(()) };
        match prices.get(root) {
            Some(price) if ask.max_price.is_none_or(|most| price.base <= most) => Ok(()),
            _ => Err(NoWorker::TooDear),
        }
    }

    /// A request that was chosen for has ended there.
    pub fn ended(&mut self, id: WorkerId, outcome: Outcome, now: Moment) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.in_flight = worker.in_flight.saturating_sub(1);
        let name = worker.name;
        match outcome {
            Outcome::Done { first_ms, total_ms, read, written } => {
                worker.speed.learn(first_ms, total_ms, read, written);
            }
            Outcome::Broke => worker.rests_until = now.ms.saturating_add(REST_MS),
            Outcome::Fault => worker.rests_until = now.ms.saturating_add(REST_MS),
            Outcome::Refused | Outcome::Cancelled => {}
        }
        match outcome {
            Outcome::Done { .. } => self.records.entry(name).or_default().good(now.ms),
            Outcome::Fault => self.records.entry(name).or_default().bad(now.ms),
            Outcome::Refused | Outcome::Cancelled | Outcome::Broke => {}
        }
    }

    /// A fault of a worker outside any request, such as a voucher that it can't refuse and did.
    pub fn fault(&mut self, id: WorkerId, now: Moment) {
        if let Some(worker) = self.workers.get(&id) {
            self.records.entry(worker.name).or_default().bad(now.ms);
        }
    }

    /// What is measured of all that have a root: workers, requests that could begin now, milliseconds to a first byte and for
    /// a token, tokens a second together.
    pub fn capacity(&self, root: &[u8; 32], now: Moment) -> Capacity {
        let having = |w: &&Worker| w.is_tested(root, now) && !w.leaving;
        let workers: Vec<&Worker> = self.workers.values().filter(having).collect();
        let usual = self.usual(root, |_| true);
        let free =
            workers.iter().filter(|w| w.is_open(now)).map(|w| w.offer.slots.saturating_sub(w.busy(now)));
        let each = |w: &&Worker| w.speed.tokens_per_s().map(|each| each * f64::from(w.offer.slots));
        let rate: f64 = workers.iter().filter_map(each).sum();
        Capacity {
            workers: workers.len() as u32,
            free: free.fold(0, u32::saturating_add),
            first_ms: usual.first_ms(),
            token_ms: usual.token_ms(),
            tokens_per_s: (rate > 0.0).then_some(rate as u64),
        }
    }

    /// The mean of what was measured of a root, of these workers.
    fn usual(&self, root: &[u8; 32], of: impl Fn(&Worker) -> bool) -> Speed {
        let having = self.workers.values().filter(|w| of(w) && w.models.iter().any(|m| m.root == *root));
        Speed::mean(having.map(|w| &w.speed))
    }

    /// What is expected of a worker as far as it was not measured: the mean of those with a device like its own, else of all.
    fn usual_of_each(&self, root: [u8; 32]) -> impl Fn(&Worker) -> Speed {
        let kinds = [None, Some(DeviceKind::Cpu), Some(DeviceKind::Gpu)];
        let alike = OnceCell::new();
        move |worker| {
            if worker.speed.is_whole() {
                return worker.speed;
            }
            let alike = alike.get_or_init(|| {
                let all = self.usual(&root, |_| true);
                kinds.map(|kind| (kind, self.usual(&root, |w| w.offer.device == kind).or(&all)))
            });
            let usual = alike.iter().find(|(kind, _)| *kind == worker.offer.device);
            usual.map_or(worker.speed, |(_, usual)| *usual)
        }
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.workers.values().fold(0, |sum, w| sum.saturating_add(w.in_flight))
    }

    /// How many workers are here.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }
}

/// What is measured of a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Capacity {
    /// How many have it.
    pub workers: u32,
    /// Requests that could begin at once.
    pub free: u32,
    /// Milliseconds to the first byte; none before anything was measured.
    pub first_ms: Option<u32>,
    /// Milliseconds for a token.
    pub token_ms: Option<u32>,
    /// Of all together.
    pub tokens_per_s: Option<u64>,
}

impl Worker {
    fn is_open(&self, now: Moment) -> bool {
        let (from, to) = self.offer.hours;
        if from <= to { (from..to).contains(&now.hour) } else { now.hour >= from || now.hour < to }
    }

    fn is_tested(&self, root: &[u8; 32], now: Moment) -> bool {
        let (roots, said) = &self.tested;
        now.ms.saturating_sub(*said) <= TESTED_MS && roots.contains(root)
    }

    /// What it has to do: its own word if it is fresh, and at least what this proxy gave it.
    fn busy(&self, now: Moment) -> u32 {
        let said = self.load.filter(|(_, at)| now.ms.saturating_sub(*at) <= LOAD_MS);
        said.map_or(0, |(load, _)| load).max(self.in_flight)
    }

    /// Milliseconds until it could begin.
    fn wait_ms(&self, usual: &Speed, now: Moment) -> u64 {
        let ahead = (u64::from(self.busy(now)) + 1).saturating_sub(u64::from(self.offer.slots));
        let each = self.speed.or(usual).request_ms();
        ahead.saturating_mul(each).div_ceil(u64::from(self.offer.slots))
    }

    /// Milliseconds until the last token of `ask`.
    fn predict(&self, usual: &Speed, ask: &Ask<'_>, now: Moment) -> u64 {
        let speed = self.speed.or(usual);
        // Those who compute beside it slow it down, as far as that was not measured.
        let beside = self.busy(now).min(self.offer.slots);
        let own = speed.predict(ask.prompt, ask.completion);
        let shared = own / 8 * u64::from(beside) / u64::from(self.offer.slots);
        self.wait_ms(usual, now).saturating_add(own).saturating_add(shared)
    }
}

struct Scored {
    id: WorkerId,
    predicted: u64,
    rests: bool,
    score: f64,
    turn: u64,
    memory: u64,
}

/// Of those in time the best; of those that are about as good, the one that was chosen longest ago.
fn best(all: Vec<Scored>, deadline_ms: Option<u64>) -> Result<(WorkerId, u64), NoWorker> {
    let fastest = all.iter().map(|s| s.predicted).min().unwrap_or(u64::MAX);
    let mut left: Vec<Scored> =
        all.into_iter().filter(|s| deadline_ms.is_none_or(|most| s.predicted <= most)).collect();
    // Who broke off a moment ago is asked only where nobody else is left.
    if left.iter().any(|s| !s.rests) {
        left.retain(|s| !s.rests);
    }
    let lowest = left.iter().map(|s| s.score).fold(f64::INFINITY, f64::min);
    let alike = left.iter().filter(|s| s.score <= lowest * ALIKE);
    let chosen = alike.min_by_key(|s| (s.turn, std::cmp::Reverse(s.memory), s.id));
    chosen.map(|s| (s.id, s.predicted)).ok_or(NoWorker::TooSlow { predicted_ms: fastest })
}

#[cfg(test)]
mod tests;
