//! Keeping a machine: started, watched, started again after a failure, drained, exchanged for a newer release and back.
//!
//! ```text
//!            .---- upgrade: drained, then the new image is tried ----.
//!            v                                                       |
//! settle -> live -- failed --> crash report --> wait (backoff) --> live ...
//!            |                    |
//!            |                    '-- was being tried --> the image before it, at once
//!            '-- drained, stopped --> end
//! ```
//! One thread decides everything; the machine's events, what people ask over the [`desk`] and the signals of the process come to
//! it through one channel, in order. An upgrade changes nothing until the new settings are whole, which is found out on a thread of
//! its own, so that everybody is answered meanwhile; it is remembered only once the new machine serves.
//!
//! Deliberately absent: deciding whether a release may be run (the [`Plan`] does), and the network.

mod backoff;
mod crash;
mod desk;
mod record;

pub use backoff::Backoff;
pub use crash::CRASHES;
pub use desk::{Ask, Reply, ask};
pub use record::{KEEPER_FILE, Status, Step, read_status};

use crate::error::{Failure, LaunchError};
use crate::life::{Event, Guest, State, What, launch_on};
use crate::preflight::HostDirs;
use crate::settings::{Restart, Settings};
use desk::Desk;
use record::Record;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Time between two looks at deadlines.
const LOOK: Duration = Duration::from_millis(200);

/// What a keeper does not decide: what is to be started, and what the world is told.
pub trait Plan {
    /// Finds out the settings of the machine, with this image in the place of what they name if one is given. Whatever makes a
    /// release unfit to be started is an error. May take its time: it is run beside a machine that lives.
    fn settle(&self, image: Option<&Path>) -> Settle;
    /// A machine with these settings is about to be started.
    fn starts(&mut self, settings: &Settings) -> Result<(), LaunchError>;
    /// A machine was started.
    fn started(&mut self, guest: &Guest, settings: &Settings) -> Result<(), LaunchError>;
    /// Something happened to it.
    fn event(&mut self, event: &Event);
    /// The machine with this image serves after an upgrade: later starts take it too.
    fn adopt(&mut self, image: &Path) -> Result<(), LaunchError>;
    /// Makes the command of a host program, as [`crate::launch`] takes it.
    fn tools(&self) -> Box<dyn Fn(&str) -> Command + Send>;
    /// Words for whoever watches the launcher.
    fn say(&mut self, words: &str);
}

/// Work that ends in settings.
pub type Settle = Box<dyn FnOnce() -> Result<Settings, LaunchError> + Send>;

/// What comes to a keeper.
#[derive(Debug)]
pub enum Signal {
    /// Something happened to the machine of this number.
    Machine(u64, Event),
    /// Somebody asks.
    Ask(Ask, Sender<Reply>),
    /// Settings of an upgrade are found out.
    Settled(Box<Result<Settings, LaunchError>>),
    /// The process is told to end: drain, and at the second time stop.
    Told,
}

/// A way to send signals, and the end where they arrive.
pub fn signals() -> (Sender<Signal>, Receiver<Signal>) {
    channel()
}

/// An image and the settings that it makes.
#[derive(Debug, Clone)]
struct Chosen {
    /// Where it is other than the settings' own.
    image: Option<PathBuf>,
    settings: Settings,
}

/// An upgrade under way.
enum Trial {
    /// The new machine has still to serve.
    Proving { before: Chosen, reply: Sender<Reply> },
    /// It did not; the one before it is started again.
    Returning { reason: String, reply: Sender<Reply> },
}

/// Why a machine's life ended.
enum Wanted {
    /// Nobody asked.
    Nothing,
    /// It was to end for good.
    End,
    /// Another one takes its place.
    Exchange(Box<Chosen>, Sender<Reply>),
}

/// Keeps one machine until it is told to end, or is given up.
pub fn keep(
    plan: &mut dyn Plan,
    host: &HostDirs,
    signals: (Sender<Signal>, Receiver<Signal>),
) -> Result<(), LaunchError> {
    let chosen = Chosen { image: None, settings: plan.settle(None)()? };
    let record = Record::open(&chosen.settings.work_dir)?;
    let (sender, inbox) = signals;
    let desk = Desk::open(sender.clone())?;
    let mut keeper = Keeper {
        plan,
        host,
        record,
        sender,
        inbox,
        backoff: Backoff::new(chosen.settings.life.attempts),
        chosen,
        foretold: None,
        trial: None,
        waiting: Vec::new(),
        number: 0,
        told: false,
    };
    keeper.record.control(desk.socket());
    let result = keeper.run();
    keeper.record.step(if result.is_ok() { Step::Stopped } else { Step::Failed });
    keeper.drop_upgrade();
    if let Some(trial) = keeper.trial.take() {
        trial.end("the launcher was told to end before the new machine served");
    }
    for reply in keeper.waiting.drain(..) {
        // Whoever asked may be gone.
        let _ = reply.send(Reply::Done);
    }
    // With the inbox go the questions that nobody answers any more, and so their callers.
    drop(keeper);
    desk.finish();
    result
}

struct Keeper<'k> {
    plan: &'k mut dyn Plan,
    host: &'k HostDirs,
    record: Record,
    sender: Sender<Signal>,
    inbox: Receiver<Signal>,
    backoff: Backoff,
    chosen: Chosen,
    /// The image of an upgrade whose settings are being found out, and who waits for it.
    foretold: Option<(PathBuf, Sender<Reply>)>,
    trial: Option<Trial>,
    /// Who waits for the end.
    waiting: Vec<Sender<Reply>>,
    /// Which machine of this keeper it is: events of one that is gone are not the present one's.
    number: u64,
    told: bool,
}

impl Keeper<'_> {
    fn run(&mut self) -> Result<(), LaunchError> {
        loop {
            self.number += 1;
            let (wanted, outcome) = self.live();
            if let Err(error) = &outcome {
                self.report(error);
            }
            match (wanted, outcome) {
                (Wanted::End, _) => return Ok(()),
                (Wanted::Exchange(new, reply), _) => self.prove(*new, reply),
                (Wanted::Nothing, outcome) => {
                    if !self.unasked(outcome)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The next machine is another one, which has to serve.
    fn prove(&mut self, new: Chosen, reply: Sender<Reply>) {
        let before = std::mem::replace(&mut self.chosen, new);
        self.trial = Some(Trial::Proving { before, reply });
    }

    /// After an end that nobody asked for: whether to go on.
    fn unasked(&mut self, outcome: Result<(), LaunchError>) -> Result<bool, LaunchError> {
        let reason = match &outcome {
            Ok(()) => "it ended by itself before it served".to_owned(),
            Err(error) => brief(error),
        };
        match self.trial.take() {
            Some(Trial::Proving { before, reply }) => {
                self.plan.say(&format!("the new machine does not serve ({reason}); back to the one before"));
                self.chosen = before;
                self.trial = Some(Trial::Returning { reason, reply });
                return Ok(true);
            }
            Some(Trial::Returning { reason: first, reply }) => {
                let reason = format!("{first}; and the machine before it does not serve either: {reason}");
                let _ = reply.send(Reply::Refused { reason });
            }
            None => {}
        }
        let again = match (self.chosen.settings.life.restart, &outcome) {
            (Restart::Always, _) | (Restart::OnFailure, Err(_)) => self.backoff.failed(),
            (Restart::Never, _) | (Restart::OnFailure, Ok(())) => None,
        };
        match again {
            Some(delay) => {
                self.plan.say(&format!("started again in {} s: {reason}", delay.as_secs()));
                Ok(self.pause(delay))
            }
            None => outcome.map(|()| false),
        }
    }

    /// One machine from start to end.
    fn live(&mut self) -> (Wanted, Result<(), LaunchError>) {
        self.record.step(Step::Machine(State::Prepared));
        self.record.image(&self.chosen.settings);
        if let Err(error) = self.plan.starts(&self.chosen.settings) {
            return (Wanted::Nothing, Err(error));
        }
        let (sender, number) = (self.sender.clone(), self.number);
        let on_event = move |event: &Event| drop(sender.send(Signal::Machine(number, event.clone())));
        let launched = launch_on(self.host, &self.chosen.settings, self.plan.tools(), on_event);
        let guest = match launched {
            Ok(guest) => guest,
            Err(error) => return (Wanted::Nothing, Err(error)),
        };
        self.record.endpoint(Some(guest.endpoint()));
        if let Err(error) = self.plan.started(&guest, &self.chosen.settings) {
            return (Wanted::Nothing, Err(error));
        }
        let wanted = self.watch(&guest);
        self.record.endpoint(None);
        // It is over: this only asks how.
        (wanted, guest.wait_exit(Duration::from_secs(60)).map(drop))
    }

    /// Answers and decides until the machine is over.
    fn watch(&mut self, guest: &Guest) -> Wanted {
        let began = Instant::now();
        let mut wanted = Wanted::Nothing;
        let boot = self.chosen.settings.life.boot;
        let mut given_up = false;
        while !guest.state().is_final() {
            if guest.state().is_before_serving() && began.elapsed() > boot && !given_up {
                guest.give_up("serving", boot);
                given_up = true;
            }
            match self.inbox.recv_timeout(LOOK) {
                Ok(signal) => self.decide(signal, Some(guest), &mut wanted),
                // This keeper holds a sender itself, so the channel stays open.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
        self.rest(&mut wanted);
        wanted
    }

    /// What the machine did last, for the record.
    fn rest(&mut self, wanted: &mut Wanted) {
        while let Ok(signal) = self.inbox.try_recv() {
            self.decide(signal, None, wanted);
        }
    }

    fn decide(&mut self, signal: Signal, guest: Option<&Guest>, wanted: &mut Wanted) {
        match signal {
            Signal::Machine(number, event) if number == self.number => self.happened(&event),
            Signal::Machine(..) => {}
            Signal::Told => {
                let now = std::mem::replace(&mut self.told, true);
                self.finish(guest, now, wanted);
            }
            Signal::Ask(Ask::Status, reply) => {
                let health = guest.and_then(Guest::health);
                let _ = reply.send(Reply::Status(Box::new(self.record.status(health))));
            }
            Signal::Ask(Ask::Stop { now }, reply) => {
                self.waiting.push(reply);
                self.finish(guest, now, wanted);
            }
            Signal::Ask(Ask::Upgrade { image }, reply) => self.foretell(image, reply, wanted),
            Signal::Settled(result) => self.exchange(*result, guest, wanted),
        }
    }

    /// Ends the machine for good.
    fn finish(&mut self, guest: Option<&Guest>, now: bool, wanted: &mut Wanted) {
        self.drop_upgrade();
        self.end(guest, now);
        *wanted = Wanted::End;
    }

    fn end(&mut self, guest: Option<&Guest>, now: bool) {
        let Some(guest) = guest else { return };
        let patience = if now { Duration::ZERO } else { self.chosen.settings.life.drain };
        if now || guest.state().is_before_serving() {
            guest.quit();
        } else {
            self.plan.say(&format!("draining for at most {} s", patience.as_secs()));
            guest.drain(patience);
        }
    }

    /// Begins an upgrade, if nothing else is under way: its settings are found out while the machine runs on.
    fn foretell(&mut self, image: PathBuf, reply: Sender<Reply>, wanted: &Wanted) {
        if self.foretold.is_some() || self.trial.is_some() || !matches!(wanted, Wanted::Nothing) {
            let reason = "another upgrade or an end is under way; ask again when it is over".into();
            return drop(reply.send(Reply::Refused { reason }));
        }
        let (settle, sender) = (self.plan.settle(Some(&image)), self.sender.clone());
        let work = move || {
            // A panic must not leave whoever asked waiting for ever.
            let result = std::panic::catch_unwind(AssertUnwindSafe(settle)).unwrap_or_else(|_| {
                let reason = "the new machine could not be foretold; report this as a defect".into();
                Err(LaunchError::Unprepared { reason })
            });
            // A keeper that is gone has refused the upgrade.
            let _ = sender.send(Signal::Settled(Box::new(result)));
        };
        self.foretold = Some((image, reply));
        if let Err(error) = std::thread::Builder::new().name("settle".into()).spawn(work) {
            self.refuse_upgrade(&format!(
                "no thread to foretell it ({error}); the machine runs on unchanged"
            ));
        }
    }

    /// Goes on with an upgrade, if its settings are whole.
    fn exchange(
        &mut self,
        result: Result<Settings, LaunchError>,
        guest: Option<&Guest>,
        wanted: &mut Wanted,
    ) {
        match result {
            Err(error) => self.refuse_upgrade(&format!("{error}; the machine runs on unchanged")),
            Ok(settings) if settings.work_dir != self.chosen.settings.work_dir => {
                self.refuse_upgrade(
                    "the settings name another work folder now; the machine runs on unchanged",
                );
            }
            // One that was refused meanwhile has no taker.
            Ok(settings) => {
                let Some((image, reply)) = self.foretold.take() else { return };
                self.plan.say(&format!("upgrade to {}", image.display()));
                self.end(guest, false);
                *wanted = Wanted::Exchange(Box::new(Chosen { image: Some(image), settings }), reply);
            }
        }
    }

    fn drop_upgrade(&mut self) {
        self.refuse_upgrade("the launcher was told to end before the new machine was foretold");
    }

    fn refuse_upgrade(&mut self, why: &str) {
        if let Some((_, reply)) = self.foretold.take() {
            // Whoever asked may be gone.
            let _ = reply.send(Reply::Refused { reason: why.into() });
        }
    }

    fn happened(&mut self, event: &Event) {
        self.plan.event(event);
        match event.what {
            What::State(state) => {
                self.record.step(Step::Machine(state));
                if state == State::Serving {
                    self.backoff.serves();
                    self.serves();
                }
            }
            What::Quotes { answer } => self.record.quotes(answer),
            What::Progress(_) => {}
        }
    }

    /// Ends an upgrade: the machine serves, be it the new one or the one before.
    fn serves(&mut self) {
        match self.trial.take() {
            Some(Trial::Proving { reply, .. }) => {
                let image = self.chosen.image.clone().unwrap_or_default();
                let adopted = self.plan.adopt(&image);
                let _ = reply.send(match adopted {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Refused {
                        reason: format!("it serves, but the next start won't know: {error}"),
                    },
                });
            }
            Some(Trial::Returning { reason, reply }) => {
                let _ = reply.send(Reply::RolledBack { reason });
            }
            None => {}
        }
    }

    fn report(&mut self, error: &LaunchError) {
        let failure = brief(error);
        self.record.failure(&failure);
        let timeline = self.record.last_states();
        let settings = &self.chosen.settings;
        if let Err(trouble) = crash::write(&settings.work_dir, settings, error, timeline) {
            self.plan.say(&format!("no crash report: {trouble}"));
        }
    }

    /// Waits; whether to go on afterwards.
    fn pause(&mut self, delay: Duration) -> bool {
        let until = Instant::now() + delay;
        self.record.step(Step::Waiting);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let Ok(signal) = self.inbox.recv_timeout(left) else { continue };
            let mut wanted = Wanted::Nothing;
            self.decide(signal, None, &mut wanted);
            match wanted {
                Wanted::Nothing => {}
                Wanted::End => return false,
                Wanted::Exchange(new, reply) => {
                    self.prove(*new, reply);
                    return true;
                }
            }
        }
    }
}

impl Trial {
    fn end(self, why: &str) {
        let (Trial::Proving { reply, .. } | Trial::Returning { reply, .. }) = self;
        let _ = reply.send(Reply::Refused { reason: why.into() });
    }
}

/// One line, without the console.
fn brief(error: &LaunchError) -> String {
    let text = match error {
        LaunchError::Failed { failure, .. } => failure.to_string(),
        other => other.to_string(),
    };
    text.lines().next().unwrap_or_default().to_owned()
}

impl Failure {
    /// A word for its kind, from a closed list.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::Guest { .. } => "guest",
            Failure::Console { .. } => "console",
            Failure::Ended { .. } => "ended",
            Failure::Flood { .. } => "flood",
            Failure::Vanished { .. } => "vanished",
            Failure::NotGivenBack { .. } => "not-given-back",
            Failure::Deadline { .. } => "deadline",
            Failure::EndedEarly => "ended-early",
            Failure::Unsupervised => "unsupervised",
        }
    }
}

#[cfg(test)]
mod tests;
