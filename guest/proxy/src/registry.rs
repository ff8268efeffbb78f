//! The workers that are here: a connection each, gone with it, and the router that chooses among them.
//!
//! What a worker has is read from its measured configuration, never asked of it; what it says of itself makes it look busier,
//! or closed at this hour, or lets it be asked at all: a model that it does not call tested is not asked for there.

use crate::router::{Ask, Capacity, Choice, Model, Moment, Name, NoWorker, Offer, Outcome, Router, WorkerId};
use payment::Address;
use payment::price::Price;
use protocol::market::{ModelFacts, WorkerFacts};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// The way to a worker, as far as choosing goes.
pub trait Way: Clone + Send + Sync + 'static {
    /// Whether it takes no further request.
    fn is_draining(&self) -> bool;
}

/// Who comes in.
#[derive(Debug, Clone)]
pub struct Newcomer {
    /// By what its record is kept.
    pub name: Name,
    /// Of its measured configuration.
    pub models: Vec<Model>,
    /// Of its measured configuration; none where it works unpaid.
    pub wallet: Option<Address>,
}

#[derive(Debug)]
struct Entry<W> {
    way: W,
    wallet: Option<Address>,
    /// Told when its payout has grown.
    paid: Arc<Notify>,
    /// What it said last of its models, by root.
    facts: BTreeMap<[u8; 32], ModelFacts>,
}

/// Live workers.
#[derive(Debug)]
pub struct Registry<W> {
    inner: Mutex<Inner<W>>,
    began: Instant,
}

#[derive(Debug)]
struct Inner<W> {
    next: WorkerId,
    entries: BTreeMap<WorkerId, Entry<W>>,
    router: Router,
}

/// A worker's place in the registry; it leaves when this is dropped.
#[derive(Debug)]
pub struct Place<W: Way> {
    registry: Arc<Registry<W>>,
    id: WorkerId,
    paid: Arc<Notify>,
}

impl<W: Way> Drop for Place<W> {
    fn drop(&mut self) {
        let mut inner = self.registry.inner();
        inner.entries.remove(&self.id);
        inner.router.leave(self.id);
    }
}

impl<W: Way> Place<W> {
    /// Told when this worker's payout has grown.
    pub fn paid(&self) -> Arc<Notify> {
        self.paid.clone()
    }

    /// Takes what the worker says of itself.
    pub fn heard(&self, facts: &WorkerFacts) {
        let now = self.registry.now();
        let mut inner = self.registry.inner();
        let hours = (facts.hours[0], facts.hours[1]);
        let device = facts.device.kind.parse().ok();
        let offer = Offer { slots: facts.slots, hours, device, memory: facts.device.memory_bytes };
        inner.router.offer(self.id, offer);
        let passed = |model: &&ModelFacts| model.self_test.is_some_and(|test| test.passed);
        let tested = facts.models.iter().filter(passed).map(|model| model.root.0);
        inner.router.tested(self.id, tested, now);
        inner.router.load(self.id, facts.running, facts.waiting, now);
        if let Some(entry) = inner.entries.get_mut(&self.id) {
            entry.facts = facts.models.iter().map(|model| (model.root.0, model.clone())).collect();
        }
    }

    /// It did what no right worker does, outside any request.
    pub fn fault(&self) {
        let now = self.registry.now();
        self.registry.inner().router.fault(self.id, now);
    }
}

/// A request that is under way at a worker; unless it is told how it ended, it was cancelled.
#[derive(Debug)]
pub struct Job<W: Way> {
    registry: Arc<Registry<W>>,
    /// Who was chosen, and for what.
    pub choice: Choice,
    /// The way there.
    pub way: W,
    /// Whom the fee goes to.
    pub wallet: Option<Address>,
    /// To be told when its payout has grown.
    pub paid: Arc<Notify>,
    began: Instant,
    ended: bool,
}

impl<W: Way> Job<W> {
    /// Milliseconds since it was chosen.
    pub fn ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Takes the worker's word on its load.
    pub fn load(&self, load: protocol::market::Load) {
        let now = self.registry.now();
        self.registry.inner().router.load(self.choice.worker, load.running, load.waiting, now);
    }

    /// It ended so.
    pub fn end(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.ended, true) {
            let now = self.registry.now();
            self.registry.inner().router.ended(self.choice.worker, outcome, now);
        }
    }
}

impl<W: Way> Drop for Job<W> {
    fn drop(&mut self) {
        self.end(Outcome::Cancelled);
    }
}

/// A model that somebody here has.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Name and root.
    pub model: Model,
    /// By the root's book.
    pub price: Option<Price>,
    /// What workers say of it.
    pub facts: Option<ModelFacts>,
    /// What is measured of it.
    pub capacity: Capacity,
}

impl<W: Way> Default for Registry<W> {
    fn default() -> Self {
        let inner = Inner { next: 0, entries: BTreeMap::new(), router: Router::default() };
        Registry { inner: Mutex::new(inner), began: Instant::now() }
    }
}

impl<W: Way> Registry<W> {
    /// Takes a worker in; `None` if the house is full.
    pub fn join(self: &Arc<Self>, newcomer: Newcomer, way: W) -> Option<Place<W>> {
        let mut inner = self.inner();
        let id = inner.next;
        inner.next += 1;
        if !inner.router.join(id, newcomer.name, newcomer.models) {
            return None;
        }
        let paid = Arc::new(Notify::new());
        let entry = Entry { way, wallet: newcomer.wallet, paid: paid.clone(), facts: BTreeMap::new() };
        inner.entries.insert(id, entry);
        Some(Place { registry: self.clone(), id, paid })
    }

    /// Takes the prices of the root's book.
    pub fn set_prices(&self, prices: BTreeMap<[u8; 32], Price>) {
        self.inner().router.set_prices(prices);
    }

    /// Which root a name stands for, and its price.
    pub fn resolve(&self, model: &str, root: Option<[u8; 32]>) -> Option<([u8; 32], Option<Price>)> {
        let inner = self.inner();
        let root = root.or_else(|| inner.router.resolve(model))?;
        Some((root, inner.router.price(&root)))
    }

    /// A worker for a request, which then is under way there.
    pub fn choose(self: &Arc<Self>, ask: &Ask<'_>, tried: &[WorkerId]) -> Result<Job<W>, NoWorker> {
        let now = self.now();
        let mut inner = self.inner();
        let gone: Vec<_> =
            inner.entries.iter().filter(|(_, e)| e.way.is_draining()).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| inner.router.leaving(id));
        let choice = inner.router.choose(ask, now, tried)?;
        let entry = inner.entries.get(&choice.worker).ok_or(NoWorker::NoneLeft)?;
        let (way, wallet, paid) = (entry.way.clone(), entry.wallet, entry.paid.clone());
        Ok(Job { registry: self.clone(), choice, way, wallet, paid, began: Instant::now(), ended: false })
    }

    /// Models that somebody here has, each once, in order.
    pub fn models(&self) -> Vec<Listed> {
        let now = self.now();
        let inner = self.inner();
        let listed = |model: Model| {
            let price = inner.router.price(&model.root);
            let facts = inner.entries.values().find_map(|entry| entry.facts.get(&model.root)).cloned();
            let capacity = inner.router.capacity(&model.root, now);
            Listed { model, price, facts, capacity }
        };
        inner.router.models(now).into_iter().map(listed).collect()
    }

    /// Requests that are under way at workers.
    pub fn in_flight(&self) -> usize {
        self.inner().router.in_flight() as usize
    }

    /// How many workers are here.
    pub fn len(&self) -> usize {
        self.inner().router.len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> Moment {
        let day = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() % 86_400);
        Moment { ms: self.began.elapsed().as_millis() as u64, hour: (day / 3_600) as u8 }
    }

    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        // Nothing between lock and unlock leaves it half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::play::facts;
    use protocol::market::{Hex32, SelfTest};
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Debug, Clone, Default)]
    struct Fake(Arc<AtomicBool>);

    impl Way for Fake {
        fn is_draining(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    fn newcomer(name: u8) -> Newcomer {
        Newcomer { name: [name; 32], models: vec![Model { name: "m".into(), root: [1; 32] }], wallet: None }
    }

    fn ask() -> Ask<'static> {
        Ask {
            model: "m",
            root: None,
            prompt: 1,
            completion: 1,
            max_price: None,
            deadline_ms: None,
            device: None,
        }
    }

    #[test]
    fn a_worker_is_here_as_long_as_its_connection() {
        let registry = Arc::new(Registry::default());
        let place = join(&registry, 1, Fake::default());
        assert!(registry.choose(&ask(), &[]).is_ok());
        drop(place);
        assert_eq!(registry.choose(&ask(), &[]).unwrap_err(), NoWorker::UnknownModel);
        assert!(registry.is_empty());
    }

    #[test]
    fn one_that_drains_gets_nothing_more() {
        let registry = Arc::new(Registry::default());
        let (one, two) = (Fake::default(), Fake::default());
        let places = [join(&registry, 1, one.clone()), join(&registry, 2, two)];
        one.0.store(true, Ordering::SeqCst);
        for _ in 0..4 {
            assert_eq!(registry.choose(&ask(), &[]).unwrap().choice.worker, 1);
        }
        drop(places);
    }

    #[test]
    fn a_job_that_is_dropped_is_no_longer_under_way() {
        let registry = Arc::new(Registry::default());
        let _place = join(&registry, 1, Fake::default());
        let job = registry.choose(&ask(), &[]).unwrap();
        assert_eq!(registry.inner().router.in_flight(), 1);
        drop(job);
        assert_eq!(registry.inner().router.in_flight(), 0);
    }

    fn said(models: Vec<ModelFacts>) -> WorkerFacts {
        WorkerFacts { models, slots: 3, ..facts() }
    }

    fn fact(n: u8, passed: Option<bool>) -> ModelFacts {
        let fact = facts().models[0].clone();
        let self_test = passed.and_then(|passed| Some(SelfTest { passed, ..fact.self_test? }));
        ModelFacts { root: Hex32([n; 32]), self_test, ..fact }
    }

    /// One that has said that its model works.
    fn join(registry: &Arc<Registry<Fake>>, name: u8, way: Fake) -> Place<Fake> {
        let place = registry.join(newcomer(name), way).unwrap();
        place.heard(&said(vec![fact(1, Some(true))]));
        place
    }

    #[test]
    fn whoever_says_nothing_of_a_self_test_is_not_asked() {
        let registry = Arc::new(Registry::default());
        let place = registry.join(newcomer(1), Fake::default()).unwrap();
        for passed in [None, Some(false)] {
            place.heard(&said(vec![fact(1, passed)]));
            assert_eq!(registry.choose(&ask(), &[]).unwrap_err(), NoWorker::Untested);
            assert!(registry.models().is_empty());
        }
        place.heard(&said(vec![fact(1, Some(true))]));
        assert!(registry.choose(&ask(), &[]).is_ok());
    }

    #[test]
    fn facts_of_models_that_were_not_measured_are_not_listed() {
        let registry = Arc::new(Registry::default());
        let place = registry.join(newcomer(1), Fake::default()).unwrap();
        place.heard(&said(vec![fact(1, Some(true)), fact(2, Some(true))]));
        let listed = registry.models();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].facts.as_ref().unwrap().context, listed[0].capacity.free), (512, 3));
    }
}
