//! The desk of one text model: a thread that owns its scheduler, and tickets for those who wait.
//!
//! ```text
//! request --prepare (any thread)--> Prompted --submit--> desk thread: take orders, one step, hand events out, again
//!                                                            |
//! Ticket <-- events of its request -------------------------'      dropping a ticket cancels: memory is free at once
//! ```
//! The thread sleeps while nothing runs. If a step panics, the requests that ran are lost and say so; the scheduler is made
//! anew and later requests are served.

use engine::{ClientId, EngineError, Event, RequestId};
use std::any::Any;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use tokio::sync::{mpsc as queue, oneshot};

/// A prompt that is ready to run: laid out, in tokens, within the model's bounds.
pub struct Prompted {
    /// Tokens of it.
    pub tokens: usize,
    /// What the model made of it.
    pub inner: Box<dyn Any + Send>,
}

/// A model that writes texts.
pub trait Writer: Send + Sync + 'static {
    /// Most tokens of prompt and answer together.
    fn context(&self) -> usize;
    /// Requests that can run at one time.
    fn slots(&self) -> usize;
    /// Checks a request and lays its prompt out; CPU bound.
    ///
    /// # Errors
    /// What the request asks for and can't be given.
    fn prepare(&self, request: engine::Request) -> Result<Prompted, EngineError>;
    /// What runs requests; one thread owns it.
    ///
    /// # Errors
    /// The memory that it wants is not there.
    fn turns(&self) -> Result<Box<dyn Turns>, EngineError>;
}

/// Runs requests together, a step at a time.
pub trait Turns: Send {
    /// Queues a request.
    ///
    /// # Errors
    /// The queue is full, or the request can never fit.
    fn submit(&mut self, client: ClientId, prompted: Prompted) -> Result<RequestId, EngineError>;
    /// One step of everything that runs.
    fn step(&mut self) -> Vec<Event>;
    /// Forgets a request.
    fn cancel(&mut self, id: RequestId);
    /// Whether nothing runs or waits.
    fn is_idle(&self) -> bool;
    /// Requests that run, and that wait.
    fn load(&self) -> (usize, usize);
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum Refused {
    /// The engine says why.
    Engine(EngineError),
    /// The thread is gone.
    Gone,
}

enum Order {
    Submit {
        client: ClientId,
        prompted: Prompted,
        events: queue::UnboundedSender<Event>,
        taken: oneshot::Sender<Result<RequestId, EngineError>>,
    },
    Cancel(RequestId),
}

#[derive(Default)]
struct Gauges {
    running: AtomicU32,
    waiting: AtomicU32,
}

/// Takes requests to one model.
#[derive(Clone)]
pub struct Desk {
    writer: Arc<dyn Writer>,
    orders: mpsc::Sender<Order>,
    gauges: Arc<Gauges>,
}

/// A request that was taken; dropping it cancels.
pub struct Ticket {
    id: RequestId,
    orders: mpsc::Sender<Order>,
    /// What happens to the request, in order; ends early if the model broke down.
    pub events: queue::UnboundedReceiver<Event>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The thread is gone at the end of the program only.
        let _ = self.orders.send(Order::Cancel(self.id));
    }
}

impl Desk {
    /// Starts the thread.
    ///
    /// # Errors
    /// The memory for requests is not there.
    pub fn open(writer: Arc<dyn Writer>) -> Result<Self, EngineError> {
        let (orders, inbox) = mpsc::channel();
        let gauges = Arc::new(Gauges::default());
        let turns = writer.turns()?;
        let thread =
            Thread { writer: writer.clone(), turns, inbox, told: HashMap::new(), gauges: gauges.clone() };
        std::thread::spawn(move || thread.run());
        Ok(Desk { writer, orders, gauges })
    }

    /// The model.
    pub fn writer(&self) -> &Arc<dyn Writer> {
        &self.writer
    }

    /// Requests that run and that wait, a moment ago.
    pub fn load(&self) -> (u32, u32) {
        (self.gauges.running.load(Ordering::Relaxed), self.gauges.waiting.load(Ordering::Relaxed))
    }

    /// Queues a prepared request.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn submit(&self, client: ClientId, prompted: Prompted) -> Result<Ticket, Refused> {
        let (events, receiver) = queue::unbounded_channel();
        let (taken, answer) = oneshot::channel();
        let order = Order::Submit { client, prompted, events, taken };
        self.orders.send(order).map_err(|_| Refused::Gone)?;
        let id = answer.await.map_err(|_| Refused::Gone)?.map_err(Refused::Engine)?;
        Ok(Ticket { id, orders: self.orders.clone(), events: receiver })
    }
}

struct Thread {
    writer: Arc<dyn Writer>,
    turns: Box<dyn Turns>,
    inbox: mpsc::Receiver<Order>,
    told: HashMap<RequestId, queue::UnboundedSender<Event>>,
    gauges: Arc<Gauges>,
}

impl Thread {
    /// Until the last desk and ticket are gone.
    fn run(mut self) {
        loop {
            if self.turns.is_idle() {
                let Ok(order) = self.inbox.recv() else { return };
                self.obey(order);
            }
            while let Ok(order) = self.inbox.try_recv() {
                self.obey(order);
            }
            if catch_unwind(AssertUnwindSafe(|| self.step())).is_err() && !self.renew() {
                return;
            }
            self.gauge();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Submit { client, prompted, events, taken } => {
                let submit = || self.turns.submit(client, prompted);
                let Ok(result) = catch_unwind(AssertUnwindSafe(submit)) else {
                    self.renew();
                    return;
                };
                let id = result.as_ref().ok().copied();
                match (id, taken.send(result)) {
                    (Some(id), Ok(())) => drop(self.told.insert(id, events)),
                    // Whoever asked went away meanwhile.
                    (Some(id), Err(_)) => self.turns.cancel(id),
                    (None, _) => {}
                }
            }
            Order::Cancel(id) => {
                if self.told.remove(&id).is_some() {
                    self.turns.cancel(id);
                }
            }
        }
        self.gauge();
    }

    fn step(&mut self) {
        for event in self.turns.step() {
            let id = of(&event);
            let failed = matches!(event, Event::Failed { .. });
            // A ticket that is gone has sent its order to cancel.
            let _ = self.told.get(&id).map(|told| told.send(event));
            if failed {
                self.told.remove(&id);
            }
        }
    }

    /// A new scheduler; everything of the old one is lost. `false` if there is none to be had.
    fn renew(&mut self) -> bool {
        self.told.clear();
        match catch_unwind(AssertUnwindSafe(|| self.writer.turns())) {
            Ok(Ok(turns)) => self.turns = turns,
            _ => return false,
        }
        true
    }

    fn gauge(&self) {
        let (running, waiting) = self.turns.load();
        self.gauges.running.store(u32::try_from(running).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.gauges.waiting.store(u32::try_from(waiting).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// Whose event it is.
fn of(event: &Event) -> RequestId {
    match event {
        Event::Started { id, .. }
        | Event::Text { id, .. }
        | Event::Finished { id, .. }
        | Event::Failed { id, .. } => *id,
    }
}
