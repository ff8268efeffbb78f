//! The workers that are here: one entry for each attested connection, gone with it.
//!
//! What a worker has is read from its measured configuration, never asked of it. Which worker gets a request is decided by
//! requests in flight alone: the least busy one, in turns where several are equal.
//!
//! Deliberately absent, and to come with the router: price, speed, reputation, devices.

use protocol::config::ModelPin;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most workers at one time.
pub const MAX_WORKERS: usize = 1024;

/// The way to a worker, as far as choosing goes.
pub trait Way: Clone + Send + Sync + 'static {
    /// Requests under way.
    fn in_flight(&self) -> usize;
    /// Whether it takes no further request.
    fn is_draining(&self) -> bool;
}

/// Live workers by model.
#[derive(Debug)]
pub struct Registry<W>(Mutex<Inner<W>>);

#[derive(Debug)]
struct Inner<W> {
    next: u64,
    /// By number of arrival.
    workers: BTreeMap<u64, Worker<W>>,
}

#[derive(Debug)]
struct Worker<W> {
    models: Vec<ModelPin>,
    way: W,
    /// When it was chosen last, as a count of choices.
    turn: u64,
}

/// A worker's place in the registry; it leaves when this is dropped.
#[derive(Debug)]
pub struct Place<W: Way> {
    registry: Arc<Registry<W>>,
    id: u64,
}

impl<W: Way> Drop for Place<W> {
    fn drop(&mut self) {
        self.registry.inner().workers.remove(&self.id);
    }
}

/// Why no worker was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoWorker {
    /// Nobody here has such a model.
    UnknownModel,
    /// Those who have it are on their way out, or failed just now.
    NoneLeft,
}

impl<W: Way> Default for Registry<W> {
    fn default() -> Self {
        Registry(Mutex::new(Inner { next: 0, workers: BTreeMap::new() }))
    }
}

impl<W: Way> Registry<W> {
    /// Takes a worker in; `None` if the house is full.
    pub fn join(self: &Arc<Self>, models: Vec<ModelPin>, way: W) -> Option<Place<W>> {
        let mut inner = self.inner();
        if inner.workers.len() >= MAX_WORKERS {
            return None;
        }
        let id = inner.next;
        inner.next += 1;
        inner.workers.insert(id, Worker { models, way, turn: 0 });
        Some(Place { registry: self.clone(), id })
    }

    /// The least busy worker that has `model` (`name`, or `name@root` for exact weights) and is not in `tried`.
    pub fn choose(&self, model: &str, tried: &[u64]) -> Result<(u64, W), NoWorker> {
        let (name, root) = match model.split_once('@') {
            Some((name, root)) => (name, Some(root)),
            None => (model, None),
        };
        let mut inner = self.inner();
        inner.next += 1;
        let turn = inner.next;
        let fits = |pin: &ModelPin| pin.name == name && root.is_none_or(|root| pin.root == root);
        let mut having = inner.workers.iter_mut().filter(|(_, w)| w.models.iter().any(fits)).peekable();
        if having.peek().is_none() {
            return Err(NoWorker::UnknownModel);
        }
        let free = having.filter(|(id, worker)| !tried.contains(id) && !worker.way.is_draining());
        let chosen = free.min_by_key(|(_, worker)| (worker.way.in_flight(), worker.turn));
        let (id, worker) = chosen.ok_or(NoWorker::NoneLeft)?;
        worker.turn = turn;
        Ok((*id, worker.way.clone()))
    }

    /// Names of the models that somebody here has, each once, in order.
    pub fn models(&self) -> Vec<String> {
        let inner = self.inner();
        let names = inner.workers.values().flat_map(|worker| &worker.models).map(|pin| pin.name.clone());
        names.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// How many workers are here.
    pub fn len(&self) -> usize {
        self.inner().workers.len()
    }

    /// Whether nobody is here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        // Nothing between lock and unlock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    #[derive(Debug, Clone, Default)]
    struct Fake(Arc<(AtomicUsize, AtomicBool)>);

    impl Way for Fake {
        fn in_flight(&self) -> usize {
            self.0.0.load(Ordering::SeqCst)
        }
        fn is_draining(&self) -> bool {
            self.0.1.load(Ordering::SeqCst)
        }
    }

    fn pin(name: &str, digit: &str) -> ModelPin {
        ModelPin { name: name.into(), root: digit.repeat(64), data_blocks: 1 }
    }

    #[test]
    fn the_least_busy_worker_is_chosen_and_equal_ones_take_turns() {
        let registry = Arc::new(Registry::default());
        let (a, b) = (Fake::default(), Fake::default());
        let _a = registry.join(vec![pin("m", "a")], a.clone()).unwrap();
        let _b = registry.join(vec![pin("m", "a")], b.clone()).unwrap();
        let chosen: Vec<u64> = (0..4).map(|_| registry.choose("m", &[]).unwrap().0).collect();
        assert_eq!(chosen[0], chosen[2]);
        assert_ne!(chosen[0], chosen[1]);
        a.0.0.store(5, Ordering::SeqCst);
        let ids: Vec<u64> = (0..3).map(|_| registry.choose("m", &[]).unwrap().0).collect();
        assert!(ids.iter().all(|id| *id == ids[0]));
        b.0.1.store(true, Ordering::SeqCst);
        assert_ne!(registry.choose("m", &[]).unwrap().0, ids[0], "one that drains gets nothing");
    }

    #[test]
    fn a_worker_leaves_with_its_connection() {
        let registry = Arc::new(Registry::default());
        let place = registry.join(vec![pin("m", "a"), pin("n", "b")], Fake::default()).unwrap();
        assert_eq!((registry.models(), registry.len()), (vec!["m".to_owned(), "n".to_owned()], 1));
        drop(place);
        assert!(registry.is_empty());
        assert_eq!(registry.choose("m", &[]).unwrap_err(), NoWorker::UnknownModel);
    }

    #[test]
    fn exact_weights_go_to_a_worker_that_was_measured_with_them() {
        let registry = Arc::new(Registry::default());
        let _a = registry.join(vec![pin("m", "a")], Fake::default()).unwrap();
        let _b = registry.join(vec![pin("m", "b")], Fake::default()).unwrap();
        let first = registry.choose(&format!("m@{}", "a".repeat(64)), &[]).unwrap().0;
        let second = registry.choose(&format!("m@{}", "b".repeat(64)), &[]).unwrap().0;
        assert_ne!(first, second);
        assert_eq!(registry.choose("m@cc", &[]).unwrap_err(), NoWorker::UnknownModel);
    }

    #[test]
    fn those_who_failed_are_not_asked_again_for_one_request() {
        let registry = Arc::new(Registry::default());
        let _a = registry.join(vec![pin("m", "a")], Fake::default()).unwrap();
        let _b = registry.join(vec![pin("m", "a")], Fake::default()).unwrap();
        let (first, _) = registry.choose("m", &[]).unwrap();
        let (second, _) = registry.choose("m", &[first]).unwrap();
        assert_ne!(first, second);
        assert_eq!(registry.choose("m", &[first, second]).unwrap_err(), NoWorker::NoneLeft);
    }

    #[test]
    fn a_full_house_takes_nobody_in() {
        let registry = Arc::new(Registry::default());
        let places: Vec<_> =
            (0..MAX_WORKERS).map(|_| registry.join(vec![], Fake::default()).unwrap()).collect();
        assert!(registry.join(vec![], Fake::default()).is_none());
        drop(places);
        assert!(registry.join(vec![], Fake::default()).is_some());
    }
}
