//! The role play for people to read: who is there, each request and what it cost, a worker that dies in the middle, the
//! money's way to the workers, and the books.
//!
//! Every line says what was seen; what is not as it must be ends the play.

use crate::ask::{Asked, ask};
use crate::guest::until;
use crate::play::{Network, Programs, Served};
use crate::stage::Stage;
use crate::support::Site;
use crate::vm::{Plan, Vm};
use serde_json::{Value, json};
use std::thread::JoinHandle;
use std::time::Instant;

/// Milliseconds between two blocks: an emulated guest proves each that it looks at.
const BLOCK_MS: u32 = 200;
/// Most tokens of an answer: one machine is emulated.
const MOST: u32 = 60;
/// Questions that are under way when a worker is killed.
const AT_ONCE: usize = 6;
/// How often in a row the same number must be under way before nobody else can be working on them.
const LOOKS: u32 = 6;
/// How often the killing is tried, should the questions have gone to the others alone.
const ROUNDS: u32 = 5;
/// Samples of the proxies.
const IN_FLIGHT: &str = "chrysalis_proxy_in_flight";
const BROKE: &str = "chrysalis_proxy_jobs_total{outcome=\"broke\"}";
const WORKERS: &str = "chrysalis_proxy_workers";

/// The play under way.
pub struct Story {
    network: Network,
    // Ends before what it stands on.
    _vm: Vm,
    embedder: Served,
    chatter: Served,
    /// Name and wallet of every worker, and nanoTON vouched for it when that was last looked at.
    earners: Vec<(String, String, u64)>,
    /// nanoTON that all receipts together say.
    receipts: u64,
    begun: Instant,
}

impl Story {
    /// Everybody in their places. The embedding model is served by the virtual machine alone, the chat model by all workers.
    pub fn begin(programs: &Programs, plan: &Plan, embedder: Served, chatter: Served) -> Story {
        let begun = Instant::now();
        println!("LOCAL TEST CHAIN; every platform here is SIMULATED and proves nothing about hardware");
        let site = Site::of(&plan.platform);
        let mut stage = Stage::of(site, BLOCK_MS, programs.chain.clone(), programs.front_door.clone());
        stage.accept(plan.reference());
        println!("  chain     one process at {}, a block every {BLOCK_MS} ms", stage.at);
        let mut network = Network::open(stage, programs, &[embedder.clone(), chatter.clone()]);
        println!("  root      {}, with prices and proxies", network.root);
        for (letter, proxy) in ["a", "b"].iter().zip(&network.proxies) {
            let at = proxy.machine.address.unwrap();
            println!("  proxy {letter}   process at {at}, pool {}", short(&proxy.pool));
        }
        let wallet = network.purse("worker-1");
        let vm = plan.boot(&network, &wallet);
        network.people.push(("worker 1".into(), wallet.clone()));
        let (models, took) = (format!("{}, {}", embedder.name, chatter.name), vm.took.as_secs_f32());
        println!(
            "  worker 1  VIRTUAL MACHINE, served after {took:.0} s: {models}; wallet {}",
            short(&wallet)
        );
        let mut earners = vec![("1 (VM)".to_owned(), wallet, 0)];
        for number in ["2", "3"] {
            network.hire(&format!("worker {number}"), std::slice::from_ref(&chatter));
            let wallet = network.workers.last().unwrap().wallet.clone();
            println!("  worker {number}  process: {}; wallet {}", chatter.name, short(&wallet));
            earners.push((number.to_owned(), wallet, 0));
        }
        until("every proxy to have attested every worker", || (network.counted(WORKERS) == 6).then_some(()));
        network.open_vaults();
        network.open_gateway();
        println!("  client    gateway at {}, a vault of 2 TON at each pool", network.at);
        println!(
            "Proxies and workers attested each other, the gateway both proxies ({:.0} s).",
            begun.elapsed().as_secs_f32()
        );
        Story { network, _vm: vm, embedder, chatter, earners, receipts: 0, begun }
    }

    /// From the first question to the balanced books.
    pub fn play(mut self, text: &str, question: &str) {
        println!(
            "\n  {:<42}{:<18}{:>7}{:>10}  {:<9}receipt",
            "question", "model", "tokens", "nanoTON", "worker"
        );
        let root = self.embedder.root.clone();
        let body = json!({ "model": self.embedder.name, "input": text });
        self.told(&format!("embedding of {text:?}"), "/v1/embeddings", &body, &root);
        let (name, root) = (self.chatter.name.clone(), self.chatter.root.clone());
        let first = self.told(&format!("chat {question:?}"), CHAT, &chat(&name, question), &root);
        let mut streamed = chat(&name, question);
        streamed["stream"] = true.into();
        let second = self.told("the same, streamed", CHAT, &streamed, &root);
        assert_eq!(first.said(), second.said(), "the same weights say the same");
        let pinned = chat(&format!("{name}@{root}"), question);
        self.told("the same, of these exact weights", CHAT, &pinned, &root);
        println!("  answer: {}", first.said().trim());
        self.death();
        let after = format!("embedding of {text:?} again");
        let (body, root) = (body, self.embedder.root.clone());
        self.told(&after, "/v1/embeddings", &body, &root);
        self.settled();
        println!("The whole play took {:.0} s.", self.begun.elapsed().as_secs_f32());
    }

    /// Asks, verifies the receipt, and prints the line.
    fn told(&mut self, what: &str, path: &str, body: &Value, root: &str) -> Asked {
        let asked = ask(self.network.at, path, body);
        let receipt = asked.receipt(&self.network.stage, root);
        self.receipts += receipt["charged"].as_u64().unwrap();
        let by = self.earned();
        self.line(what, body, &receipt, &by);
        asked
    }

    fn line(&self, what: &str, body: &Value, receipt: &Value, by: &str) {
        let model = body["model"].as_str().unwrap_or_default().split('@').next().unwrap_or_default();
        let count = |name: &str| receipt["tokens"][name].as_u64().unwrap_or_default();
        let read = count("prompt") + count("cached");
        let tokens = format!("{read}+{}", count("completion") + count("reasoning"));
        let charged = receipt["charged"].as_u64().unwrap();
        println!("  {what:<42.41}{model:<18}{tokens:>7}{charged:>10}  {by:<9}verified");
    }

    /// For whom more is vouched than when this was last asked: who worked since.
    fn earned(&mut self) -> String {
        let (network, earners) = (&self.network, &mut self.earners);
        until("a voucher for what was charged", || {
            let mut who = Vec::new();
            for (name, wallet, seen) in earners.iter_mut() {
                let now = network.vouched_to(wallet);
                if now > *seen {
                    who.push(name.clone());
                }
                *seen = now;
            }
            (!who.is_empty()).then(|| who.join(", "))
        })
    }

    /// Worker 2 is killed while it has work; every answer comes, and nobody pays for what broke off.
    fn death(&mut self) {
        let broke = (1..=ROUNDS).find_map(|_| {
            let (broke, asked) = self.killed();
            let receipts: Vec<_> =
                asked.iter().map(|asked| asked.receipt(&self.network.stage, &self.chatter.root)).collect();
            let charged: u64 = receipts.iter().map(|receipt| receipt["charged"].as_u64().unwrap()).sum();
            self.receipts += charged;
            let by = self.earned();
            if broke > 0 {
                println!(
                    "  KILLED worker 2 (SIGSTOP, then SIGKILL) with {AT_ONCE} chats under way: {broke} of its jobs broke off and went to \
                     others;\n         {AT_ONCE} of {AT_ONCE} answers came, by worker {by}; {charged} nanoTON for {AT_ONCE} answers, receipts verified"
                );
                return Some(broke);
            }
            // All of them went to the others. It comes back, and the next ones may not.
            self.network.workers[0].machine.start(&[("--models", "models")]);
            until("the proxies to have worker 2 again", || {
                (self.network.counted(WORKERS) == 6).then_some(())
            });
            None
        });
        assert!(broke.is_some(), "in {ROUNDS} rounds of {AT_ONCE} questions worker 2 was not asked once");
    }

    /// How many of its jobs broke off, and what came of all questions.
    fn killed(&mut self) -> (u64, Vec<Asked>) {
        let network = &mut self.network;
        let before = network.counted(BROKE);
        network.workers[0].machine.freeze();
        let one = |number: usize| {
            let (at, body) = (network.at, chat(&self.chatter.name, &format!("What is a voucher? {number}")));
            std::thread::spawn(move || ask(at, CHAT, &body))
        };
        let asking: Vec<JoinHandle<Asked>> = (0..AT_ONCE).map(one).collect();
        let (mut last, mut looks) = (0, 0);
        until("questions that only worker 2 can be working on", || {
            let under_way = network.counted(IN_FLIGHT);
            looks = if under_way == last && under_way > 0 { looks + 1 } else { 0 };
            last = under_way;
            let answered = asking.iter().all(JoinHandle::is_finished);
            (looks == LOOKS || answered).then_some(())
        });
        network.workers[0].machine.kill();
        let asked = asking.into_iter().map(|thread| thread.join().expect("an answer")).collect();
        (network.counted(BROKE) - before, asked)
    }

    /// Vouchers become coins: the pools collect from the vaults, the workers cash theirs, and the books are added up.
    fn settled(&mut self) {
        let network = &self.network;
        let charged = network.charged();
        assert_eq!(charged, self.receipts, "nothing was charged that has no receipt");
        network.proxies.iter().for_each(|proxy| drop(network.tend(proxy)));
        assert_eq!(network.claimed(), charged, "the pools have what the receipts say");
        println!(
            "\n  client    was charged {charged:>9} nanoTON in all, as the receipts say; the pools collected exactly that"
        );
        let mut all = 0;
        for (name, wallet, _) in &self.earners {
            let (vouched, paid) = (network.vouched_to(wallet), network.cash_out_to(wallet));
            assert_eq!(paid, vouched, "a worker is paid what was vouched");
            assert_eq!(network.cash_out_to(wallet), 0, "once");
            println!("  worker {name:<8} cashed {paid:>8} nanoTON, all that was vouched for it");
            all += paid;
        }
        assert!(all < charged && all >= charged / 100 * 94, "{all} of {charged}, less a twentieth");
        println!("  proxies   keep {:>17} nanoTON, their commission of 5 %\n", charged - all);
        print!("{}", network.books());
        println!("  which is, to the nanoTON, what the chain began with.");
    }
}

const CHAT: &str = "/v1/chat/completions";

fn chat(model: &str, question: &str) -> Value {
    let messages = json!([{ "role": "user", "content": question }]);
    json!({ "model": model, "messages": messages, "max_tokens": MOST, "temperature": 0 })
}

/// An account's first digits.
fn short(address: &str) -> String {
    format!("{address:.12}...")
}
