//! Claims about choosing, over random houses and long times.

use super::*;
use proptest::prelude::*;

const NOON: Moment = Moment { ms: 1_000_000, hour: 12 };
const DAY: u64 = 86_400_000;
const ONE: Offer = Offer { slots: 1, hours: (0, 24), device: Some(DeviceKind::Cpu), memory: 0 };

fn model(name: &str, n: u8) -> Model {
    Model { name: name.into(), root: [n; 32] }
}

fn ask(model: &str) -> Ask<'_> {
    Ask { model, root: None, prompt: 100, completion: 100, max_price: None, deadline_ms: None, device: None }
}

fn price(base: u64) -> Price {
    Price { base, prompt: 10_000, cached: 0, completion: 10_000, reasoning: 10_000 }
}

/// One that has said that its models work.
fn join(router: &mut Router, id: WorkerId, name: u8, models: Vec<Model>, now: Moment) -> bool {
    let roots: Vec<_> = models.iter().map(|model| model.root).collect();
    let joined = router.join(id, [name; 32], models);
    router.tested(id, roots, now);
    joined
}

/// Workers 0.. with the model `m`, each of a name of its own.
fn house(workers: u64) -> Router {
    let mut router = Router::default();
    for id in 0..workers {
        assert!(join(&mut router, id, id as u8, vec![model("m", 1)], NOON));
        router.offer(id, ONE);
    }
    router
}

fn done(ms_per_token: u64) -> Outcome {
    Outcome::Done { first_ms: 100, total_ms: 100 + 99 * ms_per_token, read: 100, written: 100 }
}

fn at(ms: u64) -> Moment {
    Moment { ms: NOON.ms + ms, hour: 12 }
}

#[test]
fn of_two_the_faster_gets_the_requests() {
    let mut router = house(2);
    for (id, ms) in [(0, 30), (1, 10)] {
        router.choose(&ask("m"), NOON, &[1 - id]).unwrap();
        router.ended(id, done(ms), NOON);
    }
    for n in 0..50 {
        let choice = router.choose(&ask("m"), at(n), &[]).unwrap();
        assert_eq!(choice.worker, 1);
        router.ended(1, done(10), at(n));
    }
}

#[test]
fn when_the_faster_is_busy_enough_the_slower_gets_some() {
    let mut router = house(2);
    for (id, ms) in [(0, 30), (1, 10)] {
        router.choose(&ask("m"), NOON, &[1 - id]).unwrap();
        router.ended(id, done(ms), NOON);
    }
    let chosen: Vec<_> = (0..4).map(|_| router.choose(&ask("m"), NOON, &[]).unwrap().worker).collect();
    assert!(chosen.contains(&0) && chosen.contains(&1), "{chosen:?}");
}

#[test]
fn equal_workers_share_and_an_unmeasured_one_is_tried() {
    let mut router = house(3);
    let mut count = [0; 3];
    for n in 0..30 {
        let choice = router.choose(&ask("m"), at(n), &[]).unwrap();
        count[choice.worker as usize] += 1;
        router.ended(choice.worker, done(20), at(n));
    }
    assert_eq!(count, [10, 10, 10]);
}

#[test]
fn a_failing_worker_loses_traffic_and_gets_it_back_in_time() {
    let mut router = house(2);
    let share = |router: &mut Router, from: u64, fails: bool| {
        let mut count = 0;
        for n in 0..100 {
            let now = at(from + n * 2_000);
            (0..2).for_each(|id| router.tested(id, [[1; 32]], now));
            let choice = router.choose(&ask("m"), now, &[]).unwrap();
            count += usize::from(choice.worker == 0);
            let outcome = if fails && choice.worker == 0 { Outcome::Fault } else { done(20) };
            router.ended(choice.worker, outcome, now);
        }
        count
    };
    assert!(share(&mut router, 0, true) < 10, "it fails");
    assert!(share(&mut router, 200_000, false) < 50, "it is remembered");
    assert!(share(&mut router, DAY, false) >= 45, "and forgiven");
}

#[test]
fn what_is_nobodys_fault_costs_no_reputation_but_a_moments_rest() {
    let mut router = house(2);
    for outcome in [Outcome::Refused, Outcome::Cancelled, Outcome::Broke] {
        router.choose(&ask("m"), NOON, &[1]).unwrap();
        router.ended(0, outcome, NOON);
    }
    assert_eq!(router.choose(&ask("m"), NOON, &[]).unwrap().worker, 1, "it broke off a moment ago");
    router.ended(1, Outcome::Cancelled, NOON);
    assert_eq!(router.choose(&ask("m"), NOON, &[1]).unwrap().worker, 0, "better than nobody");
    router.ended(0, Outcome::Cancelled, NOON);
    assert_eq!(router.records[&[0; 32]].worth(NOON.ms), 1.0);
    let later = at(REST_MS + 1);
    let both: std::collections::BTreeSet<_> =
        (0..2).map(|_| router.choose(&ask("m"), later, &[]).unwrap().worker).collect();
    assert_eq!(both.len(), 2);
}

#[test]
fn reputation_outlives_a_connection() {
    let mut router = house(2);
    for _ in 0..10 {
        router.choose(&ask("m"), NOON, &[1]).unwrap();
        router.ended(0, Outcome::Fault, NOON);
    }
    router.leave(0);
    assert!(join(&mut router, 7, 0, vec![model("m", 1)], NOON));
    for n in 0..5 {
        let now = at(REST_MS + 1 + n);
        assert_eq!(router.choose(&ask("m"), now, &[]).unwrap().worker, 1);
        router.ended(1, done(20), now);
    }
}

#[test]
fn hours_span_midnight() {
    let mut router = house(1);
    router.offer(0, Offer { hours: (22, 6), ..ONE });
    let open = |router: &mut Router, hour| router.choose(&ask("m"), Moment { ms: 0, hour }, &[]).is_ok();
    assert_eq!([21, 22, 23].map(|hour| open(&mut router, hour)), [false, true, true]);
    router.leave(0);
    assert!(join(&mut router, 0, 0, vec![model("m", 1)], NOON));
    router.offer(0, Offer { hours: (22, 6), ..ONE });
    assert_eq!([0, 5, 6].map(|hour| open(&mut router, hour)), [true, true, false]);
}

#[test]
fn a_full_house_says_when_to_come_back() {
    let mut router = house(1);
    router.offer(0, Offer { slots: 2, ..ONE });
    for _ in 0..8 {
        router.choose(&ask("m"), NOON, &[]).unwrap();
    }
    let Err(NoWorker::Busy { retry_ms }) = router.choose(&ask("m"), NOON, &[]) else { panic!("full") };
    assert!(retry_ms > 0);
    router.ended(0, done(20), NOON);
    assert!(router.choose(&ask("m"), NOON, &[]).is_ok());
}

#[test]
fn a_workers_word_can_make_it_look_busier_never_freer() {
    let mut router = house(2);
    router.load(0, 1, 2, NOON);
    assert_eq!(router.choose(&ask("m"), NOON, &[]).unwrap().worker, 1);
    for _ in 0..2 {
        router.choose(&ask("m"), NOON, &[1]).unwrap();
    }
    router.load(0, 0, 0, NOON);
    assert_eq!(router.choose(&ask("m"), NOON, &[]).unwrap().worker, 1, "it has two of ours");
}

#[test]
fn a_deadline_that_nobody_meets_is_told_with_the_best_there_is() {
    let mut router = house(1);
    router.choose(&ask("m"), NOON, &[]).unwrap();
    router.ended(0, done(20), NOON);
    let hurry = Ask { deadline_ms: Some(500), ..ask("m") };
    let Err(NoWorker::TooSlow { predicted_ms }) = router.choose(&hurry, NOON, &[]) else { panic!("slow") };
    assert!((1_500..3_000).contains(&predicted_ms), "{predicted_ms}");
    assert!(router.choose(&Ask { deadline_ms: Some(3_000), ..ask("m") }, NOON, &[]).is_ok());
}

#[test]
fn a_name_without_a_root_is_the_cheapest_and_a_root_is_exact() {
    let mut router = Router::default();
    for n in 0..2 {
        assert!(join(&mut router, n.into(), n, vec![model("m", n + 1)], NOON));
    }
    router.set_prices([([1; 32], price(200)), ([2; 32], price(100))].into());
    assert_eq!(router.choose(&ask("m"), NOON, &[]).unwrap().root, [2; 32]);
    let exact = Ask { root: Some([1; 32]), ..ask("m") };
    assert_eq!(router.choose(&exact, NOON, &[]).unwrap().worker, 0);
    let other = Ask { root: Some([3; 32]), ..ask("m") };
    assert_eq!(router.choose(&other, NOON, &[]), Err(NoWorker::UnknownModel));
    let cheap = Ask { max_price: Some(150), ..exact };
    assert_eq!(router.choose(&cheap, NOON, &[]), Err(NoWorker::TooDear));
}

#[test]
fn whoever_has_not_said_lately_that_its_model_works_is_not_asked() {
    let mut router = Router::default();
    assert!(router.join(0, [0; 32], vec![model("m", 1)]));
    router.offer(0, ONE);
    assert_eq!(router.choose(&ask("m"), NOON, &[]), Err(NoWorker::Untested));
    assert!(router.models(NOON).is_empty() && router.capacity(&[1; 32], NOON).workers == 0);
    router.tested(0, [[2; 32]], NOON);
    assert_eq!(router.choose(&ask("m"), NOON, &[]), Err(NoWorker::Untested), "it has no such model");
    router.tested(0, [[1; 32]], NOON);
    assert!(router.choose(&ask("m"), at(TESTED_MS), &[]).is_ok());
    assert_eq!((router.models(NOON).len(), router.capacity(&[1; 32], NOON).workers), (1, 1));
    assert_eq!(router.choose(&ask("m"), at(TESTED_MS + 1), &[]), Err(NoWorker::Untested), "long ago");
    router.tested(0, [[1; 32]], at(TESTED_MS + 1));
    assert!(router.choose(&ask("m"), at(TESTED_MS + 1), &[]).is_ok());
    router.tested(0, [], at(TESTED_MS + 2));
    assert_eq!(router.choose(&ask("m"), at(TESTED_MS + 2), &[]), Err(NoWorker::Untested), "it failed");
}

#[test]
fn a_pinned_device_is_computed_on_by_no_other() {
    let mut router = house(3);
    router.offer(1, Offer { device: Some(DeviceKind::Gpu), memory: 80, ..ONE });
    router.offer(2, Offer { device: None, memory: 200, ..ONE });
    let pinned = |kind, memory_bytes| Ask { device: Some(DevicePin { kind, memory_bytes }), ..ask("m") };
    for n in 0..3 {
        assert_eq!(router.choose(&pinned(DeviceKind::Gpu, 80), at(n), &[]).unwrap().worker, 1);
        router.ended(1, Outcome::Cancelled, at(n));
    }
    assert_eq!(router.choose(&pinned(DeviceKind::Gpu, 81), NOON, &[]), Err(NoWorker::OtherDevice));
    assert_eq!(router.choose(&pinned(DeviceKind::Cpu, 1), NOON, &[]), Err(NoWorker::OtherDevice));
    assert_eq!(router.choose(&pinned(DeviceKind::Cpu, 0), NOON, &[]).unwrap().worker, 0);
    assert_eq!(router.choose(&pinned(DeviceKind::Gpu, 0), NOON, &[1]), Err(NoWorker::NoneLeft));
}

#[test]
fn an_unmeasured_worker_is_taken_for_as_fast_as_those_with_a_device_like_its_own() {
    let mut router = house(3);
    for id in [1, 2] {
        router.offer(id, Offer { device: Some(DeviceKind::Gpu), ..ONE });
    }
    for (id, others, ms) in [(0, [1, 2], 100), (1, [0, 2], 5)] {
        router.choose(&ask("m"), NOON, &others).unwrap();
        router.ended(id, done(ms), NOON);
    }
    // Taken for the mean of all it would be twice as slow as the measured one, and not be tried.
    let tried: BTreeSet<_> = (0..2)
        .map(|n| {
            let choice = router.choose(&ask("m"), at(n), &[]).unwrap();
            router.ended(choice.worker, Outcome::Cancelled, at(n));
            choice.worker
        })
        .collect();
    assert_eq!(tried, [1, 2].into());
}

/// One step of a random life.
#[derive(Debug, Clone)]
enum Step {
    Join(u64, u8),
    Leave(u64),
    Tested(u64, u8),
    Choose { model: u8, max_price: Option<u64>, tried: Vec<u64>, device: Option<(DeviceKind, u64)> },
    End { nth: usize, outcome: u8 },
    Load(u64, u32),
    Pass(u64),
}

fn device() -> impl Strategy<Value = Option<(DeviceKind, u64)>> {
    let kind = prop_oneof![Just(DeviceKind::Cpu), Just(DeviceKind::Gpu)];
    prop::option::of((kind, 0u64..600))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0u64..6, 0u8..3).prop_map(|(id, m)| Step::Join(id, m)),
        (0u64..6).prop_map(Step::Leave),
        (0u64..6, 0u8..3).prop_map(|(id, m)| Step::Tested(id, m)),
        (0u8..3, prop::option::of(50u64..350), prop::collection::vec(0u64..6, 0..3), device())
            .prop_map(|(model, max_price, tried, device)| Step::Choose { model, max_price, tried, device }),
        (0usize..8, 0u8..6).prop_map(|(nth, outcome)| Step::End { nth, outcome }),
        (0u64..6, any::<u32>()).prop_map(|(id, load)| Step::Load(id, load)),
        (0u64..5_000).prop_map(Step::Pass),
        (0u64..2 * TESTED_MS).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// Whatever happened before, who is chosen is here, has the model, was not tried, is not too dear and not full.
    #[test]
    fn whoever_is_chosen_can_serve_it_at_the_price(steps in steps()) {
        let mut router = Router::default();
        router.set_prices((0..3u8).map(|m| ([m; 32], price(100 * (u64::from(m) + 1)))).collect());
        let (mut now, mut models, mut open) = (NOON, BTreeMap::new(), Vec::new());
        let mut tested: BTreeMap<u64, (u8, u64)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Join(id, m) if !models.contains_key(&id) => {
                    let joined = router.join(id, [id as u8; 32], vec![model(&format!("m{m}"), m)]);
                    prop_assert!(joined);
                    let kind = [DeviceKind::Cpu, DeviceKind::Gpu][id as usize % 2];
                    router.offer(id, Offer { device: Some(kind), memory: id * 100, ..ONE });
                    models.insert(id, m);
                }
                Step::Join(..) => {}
                Step::Leave(id) => {
                    router.leave(id);
                    models.remove(&id);
                    tested.remove(&id);
                    open.retain(|other| *other != id);
                }
                Step::Tested(id, m) => {
                    router.tested(id, [[m; 32]], now);
                    if models.contains_key(&id) {
                        tested.insert(id, (m, now.ms));
                    }
                }
                Step::Choose { model, max_price, tried, device } => {
                    let name = format!("m{model}");
                    let device = device.map(|(kind, memory_bytes)| DevicePin { kind, memory_bytes });
                    let ask = Ask { max_price, device, ..ask(&name) };
                    if let Ok(choice) = router.choose(&ask, now, &tried) {
                        prop_assert_eq!(models.get(&choice.worker), Some(&model));
                        prop_assert!(!tried.contains(&choice.worker));
                        let (root, said) = tested[&choice.worker];
                        prop_assert!(root == model && now.ms - said <= TESTED_MS, "its word is missing or old");
                        if let Some(pin) = device {
                            prop_assert_eq!(pin.kind == DeviceKind::Gpu, choice.worker % 2 == 1);
                            prop_assert!(choice.worker * 100 >= pin.memory_bytes);
                        }
                        prop_assert!(max_price.is_none_or(|most| 100 * (u64::from(model) + 1) <= most));
                        open.push(choice.worker);
                        let there = open.iter().filter(|id| **id == choice.worker).count();
                        prop_assert!(there <= QUEUE as usize, "more than its queue holds");
                    }
                }
                Step::End { nth, outcome } if nth < open.len() => {
                    let id = open.remove(nth);
                    let outcome = match outcome {
                        0 => Outcome::Refused,
                        1 => Outcome::Cancelled,
                        2 => Outcome::Broke,
                        3 => Outcome::Fault,
                        _ => done(u64::from(outcome)),
                    };
                    router.ended(id, outcome, now);
                }
                Step::End { .. } => {}
                Step::Load(id, load) => router.load(id, load, load, now),
                Step::Pass(ms) => now.ms += ms,
            }
            prop_assert_eq!(router.in_flight() as usize, open.len());
        }
    }

    /// A worker twice as fast is never passed over for the slower one while both are idle and of equal record.
    #[test]
    fn idle_and_equal_but_for_speed_the_faster_is_chosen(slow in 20u64..500, rounds in 1usize..30) {
        let mut router = house(2);
        for (id, ms) in [(0, slow), (1, slow / 2)] {
            router.choose(&ask("m"), NOON, &[1 - id]).unwrap();
            router.ended(id, done(ms), NOON);
        }
        for _ in 0..rounds {
            let choice = router.choose(&ask("m"), NOON, &[]).unwrap();
            prop_assert_eq!(choice.worker, 1);
            router.ended(choice.worker, done(slow / 2), NOON);
        }
    }

    /// No history makes a record worthless, or better than new.
    #[test]
    fn a_record_stays_within_its_bounds(events in prop::collection::vec((any::<bool>(), 0u64..2_000_000), 0..200)) {
        let (mut record, mut now) = (Record::default(), 0);
        for (good, pause) in events {
            now += pause;
            if good { record.good(now) } else { record.bad(now) }
            prop_assert!((0.01..=1.0).contains(&record.worth(now)));
        }
        prop_assert!(record.worth(now + 30 * DAY) > 0.99);
    }
}
