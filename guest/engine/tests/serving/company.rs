//! Whatever comes beside a request, its answer is the one that it gets alone; and what was computed for one client is used for
//! no other.

use super::*;
use engine::{KvPrecision, Sharing};
use std::sync::Mutex;

/// A token whose word is damaged: what holds it fails while it runs, beside the others.
const DAMAGED: u32 = 251;

/// The same weights with keys and values in both precisions.
fn both() -> &'static [Arc<Generator>; 2] {
    static BOTH: OnceLock<[Arc<Generator>; 2]> = OnceLock::new();
    BOTH.get_or_init(|| {
        let mut folder = Decoder::random(31);
        folder.poke("model.embed_tokens.weight", DAMAGED as usize * common::decoder::WIDTH, f32::NAN);
        let dir = folder.write();
        [KvPrecision::F32, KvPrecision::F16].map(|kv| {
            let options = Options { kv_precision: Some(kv), ..Options::default() };
            Arc::new(Generator::open_with(dir.path(), options).unwrap())
        })
    })
}

/// What a client does.
#[derive(Debug, Clone)]
enum Act {
    /// A sound request of so many tokens, one of six texts, so that beginnings are met again.
    Ask {
        client: u64,
        text: usize,
        len: usize,
        most: usize,
        choices: usize,
    },
    /// One whose prompt holds the damaged word.
    AskDamaged {
        client: u64,
        len: usize,
    },
    /// One that is refused before it runs.
    AskTooMuch,
    /// Ends a request, whichever it is.
    Cancel(prop::sample::Index),
    Step,
}

fn act() -> impl Strategy<Value = Act> {
    let ask = (0..3u64, 0..6usize, 1..70usize, 1..12usize, 1..3usize);
    prop_oneof![
        4 => ask.prop_map(|(client, text, len, most, choices)| Act::Ask { client, text, len, most, choices }),
        1 => (0..3u64, 1..60usize).prop_map(|(client, len)| Act::AskDamaged { client, len }),
        1 => Just(Act::AskTooMuch),
        1 => any::<prop::sample::Index>().prop_map(Act::Cancel),
        4 => Just(Act::Step),
    ]
}

fn asked(text: usize, len: usize, most: usize, choices: usize) -> Request {
    let mut asked = request(tokens(len, text), text as u64, most);
    asked.sampling.logit_bias = vec![(DAMAGED, -100.0)];
    Request { choices, ..asked }
}

fn limits_of(generator: &Generator, chunk: usize, sharing: Sharing) -> Limits {
    let kv_bytes = 5 * CONTEXT * generator.facts().cached_bytes;
    Limits { kv_bytes, sequences: 5, waiting: 256, prefill_chunk: chunk, sharing }
}

/// What each choice of a request says when nobody else is there; computed once.
fn alone(kind: usize, key: (usize, usize, usize, usize)) -> Vec<String> {
    type Said = BTreeMap<(usize, (usize, usize, usize, usize)), Vec<String>>;
    static SAID: Mutex<Said> = Mutex::new(BTreeMap::new());
    let mut said = SAID.lock().unwrap();
    let compute = || {
        let generator = &both()[kind];
        let limits = limits_of(generator, 256, Sharing::Request);
        let mut scheduler = Scheduler::new(generator.clone(), limits).unwrap();
        let prepared = generator.prepare(asked(key.0, key.1, key.2, key.3), None).unwrap();
        let choices = complete(&mut scheduler, ClientId(1), prepared).unwrap();
        choices.into_iter().map(|(text, _)| text).collect()
    };
    said.entry((kind, key)).or_insert_with(compute).clone()
}

/// Requests that are there, and what they are to say: nothing where they are to fail.
#[derive(Default)]
struct Expected {
    wanted: BTreeMap<RequestId, Option<Vec<String>>>,
    said: BTreeMap<(RequestId, usize), String>,
}

impl Expected {
    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Text { id, choice, text, .. } => *self.said.entry((id, choice)).or_default() += &text,
                Event::Finished { id, choice, .. } => {
                    let wanted = self.wanted[&id].as_ref().expect("an answer of a sound request");
                    let said = self.said.remove(&(id, choice)).unwrap_or_default();
                    assert_eq!(said, wanted[choice], "{id:?}, choice {choice}");
                }
                Event::Failed { id, error } => {
                    assert_eq!(self.wanted.remove(&id), Some(None), "{error}");
                    assert!(!error.is_request_fault());
                }
                Event::Started { id, .. } => assert!(self.wanted.contains_key(&id)),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_request_changes_what_another_one_gets(
        kind in 0..2usize, chunk in prop::sample::select(&[1usize, 7, 64][..]),
        sharing in prop::sample::select(&[Sharing::Request, Sharing::Client, Sharing::Everyone][..]),
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let generator = &both()[kind];
        let mut scheduler = Scheduler::new(generator.clone(), limits_of(generator, chunk, sharing)).unwrap();
        let mut expected = Expected::default();
        for act in acts {
            match act {
                Act::Ask { client, text, len, most, choices } => {
                    let wanted = alone(kind, (text, len, most, choices));
                    let prepared = generator.prepare(asked(text, len, most, choices), None).unwrap();
                    let id = scheduler.submit(ClientId(client), prepared).unwrap();
                    expected.wanted.insert(id, Some(wanted));
                }
                Act::AskDamaged { client, len } => {
                    let mut damaged = asked(0, len, 4, 1);
                    let Prompt::Tokens(tokens) = &mut damaged.prompt else { unreachable!() };
                    tokens[len - 1] = DAMAGED;
                    let prepared = generator.prepare(damaged, None).unwrap();
                    expected.wanted.insert(scheduler.submit(ClientId(client), prepared).unwrap(), None);
                }
                Act::AskTooMuch => {
                    let error = generator.prepare(asked(0, CONTEXT, 1, 1), None).unwrap_err();
                    prop_assert!(error.is_request_fault());
                }
                Act::Cancel(which) => {
                    let ids: Vec<RequestId> = expected.wanted.keys().copied().collect();
                    if !ids.is_empty() {
                        let id = ids[which.index(ids.len())];
                        scheduler.cancel(id);
                        // No event of it may follow: `take` would not know it.
                        expected.wanted.remove(&id);
                    }
                }
                Act::Step => expected.take(scheduler.step()),
            }
        }
        while !scheduler.is_idle() {
            expected.take(scheduler.step());
        }
        prop_assert!(expected.wanted.values().all(Option::is_some), "a damaged word went unseen");
        prop_assert_eq!(scheduler.load().blocks_free, scheduler.load().blocks_total);
    }
}

#[test]
fn a_beginning_is_used_again_as_far_as_the_sharing_says_and_no_further() {
    for (kind, generator) in both().iter().enumerate() {
        // Of the same request, of another one of its client, of another client.
        for (sharing, again, other) in
            [(Sharing::Request, 0, 0), (Sharing::Client, 48, 0), (Sharing::Everyone, 48, 48)]
        {
            let limits = limits_of(generator, 64, sharing);
            let mut scheduler = Scheduler::new(generator.clone(), limits).unwrap();
            let mut cached = |client: u64| {
                let prepared = generator.prepare(asked(2, 60, 3, 1), None).unwrap();
                scheduler.submit(ClientId(client), prepared).unwrap();
                let (mut found, mut text) = (None, String::new());
                while !scheduler.is_idle() {
                    for event in scheduler.step() {
                        match event {
                            Event::Text { text: more, .. } => text += &more,
                            Event::Finished { usage, .. } => found = Some(usage.cached_tokens),
                            Event::Failed { error, .. } => panic!("{error}"),
                            Event::Started { .. } => {}
                        }
                    }
                }
                assert_eq!(text, alone(kind, (2, 60, 3, 1))[0]);
                found.expect("an end")
            };
            assert_eq!((cached(1), cached(1), cached(2)), (0, again, other), "{sharing:?}");
        }
    }
}
