//! Every victim at every step of a request, with processes: what was charged in the end is what was finished, or what was
//! delivered to a client that went away, to the nanoTON; and each worker's vouchers are good whatever became of the proxy.
//!
//! ```text
//! victim \ step   asked           begun (3 tokens came)  written (5, no usage)  charged
//! app, gateway    nothing         3                      5                      5
//! proxy           nothing *       nothing *              nothing *              5
//! worker          another's 5     nothing                nothing                5
//! chain           5               5                      5                      5
//! ```
//! `*` What was held counts as lost to the vault's room until a cap covers it; no coin moves. Steps are known by what came
//! out at the other end; see [`crate::scripted`].

use crate::guest::until;
use crate::play::Network;
use crate::scripted::{Answer, App, FIRST, Job, REST, Scripted, USAGE, ask, opened};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Asked,
    Begun,
    Written,
    Charged,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    App,
    Gateway,
    Worker,
    Chain,
    Proxy,
}

/// Completion tokens that are charged, by the table above.
fn charged(victim: Victim, step: Step) -> Option<u32> {
    match (victim, step) {
        (_, Step::Charged) | (Victim::Chain, _) | (Victim::Worker, Step::Asked) => Some(5),
        (Victim::App | Victim::Gateway, Step::Begun) => Some(3),
        (Victim::App | Victim::Gateway, Step::Written) => Some(5),
        (Victim::App | Victim::Gateway, Step::Asked) | (Victim::Proxy | Victim::Worker, _) => None,
    }
}

/// A network whose only worker is scripted, at the first proxy alone.
struct Table {
    network: Network,
    worker: Scripted,
    /// Connections of the worker that are there.
    here: Vec<usize>,
    /// nanoTON that must have been charged, and what of it is the worker's.
    sum: (u64, u64),
    /// nanoTON that were held when a proxy was killed, and for one request.
    lost: (u64, u64),
    epoch: u64,
}

impl Table {
    fn set() -> Option<Table> {
        let (mut network, served) = opened()?;
        let worker = Scripted::new(&mut network, "scripted-worker", &served);
        let mut table = Table { network, worker, here: Vec::new(), sum: (0, 0), lost: (0, 0), epoch: 1 };
        table.dial(2);
        Some(table)
    }

    /// So many connections of the worker.
    fn dial(&mut self, count: usize) {
        let proxy = self.network.proxies[0].machine.address.unwrap();
        while self.here.len() < count {
            self.here.push(self.worker.dial(&self.network, proxy));
        }
    }

    /// One cell: takes the request to the step, kills, and lets whoever is left go on.
    fn play(&mut self, victim: Victim, step: Step) {
        let (app, job) = ask(&self.network, &self.worker);
        let connection = job.connection;
        let cost = charged(victim, step).map_or((0, 0), |completion| job.cost(completion));
        self.sum = (self.sum.0 + cost.0, self.sum.1 + cost.1);
        let lost = if victim == Victim::Proxy && cost.0 == 0 { job.hold() } else { 0 };
        self.lost = (self.lost.0 + lost, job.hold().max(self.lost.1));
        let at = format!("{victim:?} at {step:?}");
        let (mut job, mut answer) = (Some(job), None);
        if step != Step::Asked {
            answer = job.take().map(|job| job.begins(FIRST));
            assert!(app.sees("\"n\":1"), "{at}: no first event");
        }
        if matches!(step, Step::Written | Step::Charged) {
            answer.iter().for_each(|answer| answer.says(REST));
            assert!(app.sees("[DONE]"), "{at}: no last event");
        }
        if step == Step::Charged {
            answer.take().map(|answer| answer.took(USAGE));
            assert!(app.ends(), "{at}: the answer is not whole");
        }
        self.kill(victim, connection, &app);
        let whole = self.go_on(victim, step, (job, answer), &app);
        assert_eq!(whole, charged(victim, step) == Some(5) && !gone(victim, step), "{at}");
        self.revive(victim, connection);
        self.network.tend(&self.network.proxies[0]);
        assert_eq!(self.network.claimed(), self.sum.0, "{at}: what the pool has of the vault");
    }

    fn kill(&mut self, victim: Victim, connection: usize, app: &App) {
        match victim {
            Victim::App => app.is_killed(),
            Victim::Gateway => self.network.kill_gateway(),
            Victim::Worker => self.worker.is_killed(connection),
            Victim::Chain => self.network.stage.kill_chain(),
            Victim::Proxy => self.network.proxies[0].machine.kill(),
        }
    }

    /// What is left goes on to its end; whether the app has a whole answer.
    fn go_on(&self, victim: Victim, step: Step, under_way: (Option<Job>, Option<Answer>), app: &App) -> bool {
        match (victim, under_way) {
            _ if step == Step::Charged => true,
            (Victim::Chain, (job, answer)) => finished(job, answer, step, app),
            // Another one is asked, and answers.
            (Victim::Worker, (Some(_), _)) => finished(Some(self.worker.job()), None, step, app),
            // The worker's part is over at once, so what it costs is decided.
            (Victim::App | Victim::Gateway, (job, answer)) => {
                job.iter().for_each(Job::is_left);
                answer.iter().for_each(Answer::is_left);
                false
            }
            (Victim::Worker, _) => {
                assert!(app.sees("worker_failed"), "the app is told");
                app.ends();
                false
            }
            // It is told so in words before the first byte, and by a broken stream after it.
            (Victim::Proxy, (Some(_), _)) => app.sees("[DONE]"),
            (Victim::Proxy, _) => app.ends(),
        }
    }

    /// Whoever was killed comes back.
    fn revive(&mut self, victim: Victim, connection: usize) {
        match victim {
            Victim::App => {}
            Victim::Gateway => self.network.open_gateway(),
            Victim::Worker => self.here.retain(|here| *here != connection),
            Victim::Chain => self.network.stage.start_chain(),
            Victim::Proxy => {
                self.network.proxies[0].machine.start(&[("--state", "state")]);
                self.epoch += 1;
                let proxy = &self.network.proxies[0];
                until("the next session's registration", || {
                    (self.network.tend(proxy)["epoch"] == self.epoch).then_some(())
                });
                self.here.clear();
            }
        }
        self.dial(2);
    }
}

/// Whether the app has no whole answer although all tokens are charged: it left behind the last of them.
fn gone(victim: Victim, step: Step) -> bool {
    matches!(victim, Victim::App | Victim::Gateway) && step == Step::Written
}

/// The rest of an answer; whether it came whole.
fn finished(job: Option<Job>, answer: Option<Answer>, step: Step, app: &App) -> bool {
    let answer = answer.or_else(|| job.map(|job| job.begins(FIRST))).expect("a job or its answer");
    if step != Step::Written {
        answer.says(REST);
    }
    answer.took(USAGE);
    app.ends()
}

#[test]
fn whoever_is_killed_at_whatever_step_nothing_is_charged_but_what_was_finished_or_delivered() {
    let Some(mut table) = Table::set() else { return };
    for victim in [Victim::App, Victim::Gateway, Victim::Worker, Victim::Chain, Victim::Proxy] {
        for step in [Step::Asked, Step::Begun, Step::Written, Step::Charged] {
            table.play(victim, step);
        }
    }
    let Table { network, worker, sum, lost, .. } = &table;
    let status = network.status();
    let vaults = status["vaults"].as_array().unwrap();
    let vault = vaults.iter().find(|vault| vault["vault"] == network.vaults[0]).expect("the vault");
    let [used, allowed] = ["used", "allowed"].map(|field| vault[field].as_u64().unwrap());
    // Room of the vault that is gone: what was charged, and what the proxies that were killed held.
    let most = sum.0 + lost.0;
    assert!(used >= sum.0 && used <= most, "{used} of {most}");
    assert!(allowed <= most + lost.1, "{allowed}: nothing beyond it was ever allowed but one request");
    // Five sessions' vouchers: the worker was handed those of the living ones, and each proxy has them all.
    assert_eq!(network.vouched_to(&worker.wallet), sum.1, "vouched for over all sessions");
    assert!(worker.paid() <= sum.1 && worker.paid() > 0);
    assert_eq!(network.cash_out_to(&worker.wallet), sum.1, "vouchers of sessions that are over are good");
    assert_eq!(network.cash_out_to(&worker.wallet), 0, "once");
    eprintln!("{}", network.books());
}
