//! The engine's text models behind a desk.

use crate::compute::Compute;
use crate::desk::{Prompted, Turns, Writer};
use engine::{
    ClientId, EngineError, Event, Generator, KNOWN_ANSWERS, Limits, Prepared, RequestId, Scheduler, Time,
    Told,
};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A loaded text model, and how much it takes on.
pub struct EngineWriter {
    generator: Arc<Generator>,
    limits: Limits,
}

impl EngineWriter {
    /// Loads a folder; `told` is told how far it is. Where known answers lie beside the model, this machine must compute them.
    ///
    /// # Errors
    /// See [`Generator::open_with`] and [`Generator::check_known_answers`].
    pub fn open(folder: &Path, compute: &Compute, told: Told) -> Result<Self, EngineError> {
        let generator = Generator::open_telling(folder, compute.options, told)?;
        if folder.join(KNOWN_ANSWERS).is_file() {
            generator.check_known_answers(folder)?;
        }
        let limits = compute.gpu_memory().map_or_else(Limits::default, |bytes| generator.limits_of(bytes));
        Ok(EngineWriter { generator: Arc::new(generator), limits })
    }
}

impl Writer for EngineWriter {
    fn context(&self) -> usize {
        self.generator.facts().context
    }

    fn slots(&self) -> usize {
        self.limits.sequences
    }

    fn prepare(&self, request: engine::Request) -> Result<Prompted, EngineError> {
        // Templates may print the date; nothing else depends on it.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|now| Time(now.as_secs()));
        let prepared = self.generator.prepare(request, now)?;
        Ok(Prompted { tokens: prepared.prompt_tokens(), inner: Box::new(prepared) })
    }

    fn turns(&self) -> Result<Box<dyn Turns>, EngineError> {
        Ok(Box::new(EngineTurns(Scheduler::new(self.generator.clone(), self.limits)?)))
    }
}

struct EngineTurns(Scheduler);

impl Turns for EngineTurns {
    fn submit(&mut self, client: ClientId, prompted: Prompted) -> Result<RequestId, EngineError> {
        let prepared = prompted.inner.downcast::<Prepared>().expect("made by this module's `prepare`");
        self.0.submit(client, *prepared)
    }

    fn step(&mut self) -> Vec<Event> {
        self.0.step()
    }

    fn cancel(&mut self, id: RequestId) {
        self.0.cancel(id);
    }

    fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    fn load(&self) -> (usize, usize) {
        let load = self.0.load();
        (load.running, load.waiting)
    }
}
