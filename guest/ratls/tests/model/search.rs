//! Breadth first through every state of every wiring, with the claims tried at each; the first that breaks gives its trace.

use crate::terms::{ATTACKER, Direction, Machine, NOBODY, Place, Without};
use crate::world::{End, Evidence, Link, Origin, Scenario, State, Step, World};
use std::collections::HashSet;

/// How a claim was broken, step by step.
#[derive(Debug)]
pub struct Attack {
    pub claim: &'static str,
    pub trace: Vec<String>,
}

/// What a search went through where it found nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Explored {
    pub wirings: usize,
    pub states: usize,
}

/// Goes through everything that can happen in a protocol that lacks some fields, and holds the claims that begin with `about`
/// against it.
pub fn explore(scenario: &Scenario, without: Without, about: &str) -> Result<Explored, Attack> {
    let mut explored = Explored::default();
    for links in wirings(scenario) {
        let world = World { scenario, links, without };
        explored.wirings += 1;
        explored.states += explore_one(&world, about)?;
    }
    Ok(explored)
}

fn explore_one(world: &World<'_>, about: &str) -> Result<usize, Attack> {
    let mut seen = HashSet::from([State::default()]);
    // Each state with where it came from, in order of discovery; the front of the search walks along it.
    let mut found: Vec<(State, Option<(usize, Step)>)> = vec![(State::default(), None)];
    let mut front = 0;
    while front < found.len() {
        let state = found[front].0;
        for step in world.steps(&state) {
            let next = World::apply(&state, step);
            let judged = judge(world, &state, &next, step);
            if let Some(claim) = judged.err().filter(|claim| claim.starts_with(about)) {
                return Err(Attack { claim, trace: trace(world, &found, front, step) });
            }
            if seen.insert(next) {
                found.push((next, Some((front, step))));
            }
        }
        front += 1;
    }
    Ok(found.len())
}

/// The claims, at the step that could break them.
fn judge(world: &World<'_>, before: &State, after: &State, step: Step) -> Result<(), &'static str> {
    match step {
        Step::Accept(at, round, evidence, _) => judge_accepted(world, (before, after), at, round, evidence),
        Step::Done(at) => match world.link(at) {
            Link::Direct(peer) if after.accepted[usize::from(peer)][0].is_none() => {
                Err("key confirmation: the initiator believes that it was accepted, and it was not")
            }
            _ => Ok(()),
        },
    }
}

fn judge_accepted(
    world: &World<'_>,
    (before, after): (&State, &State),
    at: Place,
    round: u8,
    evidence: Evidence,
) -> Result<(), &'static str> {
    let (from, turn) = match evidence.origin {
        Origin::Answer(from, turn) => (from, turn),
        Origin::OtherRelease => return Err("release: evidence of an unlisted release was accepted"),
        Origin::Certificate(_) => {
            return Err("domain: evidence over a key alone was accepted for a connection");
        }
    };
    let (verifier, attester) = (world.end(at), world.end(from));
    let Some(wanted) = verifier.wants else { return Err("an end that verifies nothing accepted evidence") };
    let answered = after.answered[usize::from(from)][usize::from(turn)];
    let Some(answered) = answered else { return Err("evidence was accepted that nobody made") };
    let claims = [
        (
            world.exporter(at) == world.exporter(from) && at != from,
            "agreement: the attester is not at the other end of this connection",
        ),
        (answered.nonce == (at, round), "freshness: the evidence does not answer this challenge"),
        (!accepted_before(before, evidence.origin), "freshness: the same evidence was accepted twice"),
        (
            attester.direction == verifier.direction.other(),
            "agreement: an end of the same direction was accepted",
        ),
        (attester.part == wanted.part, "no diversion: a machine of another part was accepted"),
        (answered.from == verifier.part, "agreement: the attester takes its verifier for another part"),
        (
            evidence.keys == attester.machine,
            "identity: an application key was believed that is not the attester's",
        ),
        (evidence.gpu == attester.machine, "agreement: the GPU evidence is not the attester's"),
        (
            wanted.identity.is_none_or(|key| key == attester.machine),
            "identity: another machine than the wanted one was accepted",
        ),
        (
            world.responder_key(at) == world.responder_key(from),
            "agreement: the ends see different TLS keys of the responder",
        ),
    ];
    claims.iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, claim)| Err(claim))
}

fn accepted_before(state: &State, origin: Origin) -> bool {
    state.accepted.iter().flatten().flatten().any(|evidence| evidence.origin == origin)
}

/// Every way to connect the ends.
fn wirings(scenario: &Scenario) -> Vec<Vec<Link>> {
    let mut out = Vec::new();
    wire(scenario, &mut vec![None; scenario.ends.len()], &mut out);
    out
}

fn wire(scenario: &Scenario, links: &mut Vec<Option<Link>>, out: &mut Vec<Vec<Link>>) {
    let Some(at) = links.iter().position(Option::is_none) else {
        out.push(links.iter().flatten().copied().collect());
        return;
    };
    for key in attackers_keys(scenario, &scenario.ends[at]) {
        links[at] = Some(Link::Attacker(key));
        wire(scenario, links, out);
    }
    for peer in at + 1..links.len() {
        let (near, far) = (&scenario.ends[at], &scenario.ends[peer]);
        if links[peer].is_some() || near.direction == far.direction {
            continue;
        }
        type Make = fn(Place) -> Link;
        let kinds: &[Make] = if scenario.leaks { &[Link::Direct, Link::Leaked] } else { &[Link::Direct] };
        for kind in kinds {
            links[at] = Some(kind(peer as Place));
            links[peer] = Some(kind(at as Place));
            wire(scenario, links, out);
            links[peer] = None;
        }
    }
    links[at] = None;
}

/// With which key the attacker may face an end: none as an initiator, his own or a stolen one as a responder.
fn attackers_keys(scenario: &Scenario, end: &End) -> Vec<Machine> {
    match end.direction {
        Direction::Responder => vec![NOBODY],
        Direction::Initiator => scenario.stolen.iter().copied().chain([ATTACKER]).collect(),
    }
}

fn trace(
    world: &World<'_>,
    found: &[(State, Option<(usize, Step)>)],
    last: usize,
    step: Step,
) -> Vec<String> {
    let mut steps = vec![step];
    let mut at = last;
    while let Some((before, step)) = found[at].1 {
        steps.push(step);
        at = before;
    }
    let wired = world.places().map(|at| describe_link(world, at));
    wired.chain(steps.into_iter().rev().map(|step| describe(world, step))).collect()
}

fn key(key: u8) -> String {
    match key {
        NOBODY => "no key".into(),
        ATTACKER => "his own key".into(),
        machine => format!("the key of machine {machine}"),
    }
}

fn describe_link(world: &World<'_>, at: Place) -> String {
    let name = world.end(at).name;
    match world.link(at) {
        Link::Direct(peer) => format!("{name} is connected to {}", world.end(peer).name),
        Link::Leaked(peer) => {
            format!("{name} is connected to {}, and the attacker has the secrets", world.end(peer).name)
        }
        Link::Attacker(shown) => format!("{name} is connected to the attacker, who shows {}", key(shown)),
    }
}

fn describe(world: &World<'_>, step: Step) -> String {
    match step {
        Step::Accept(at, round, evidence, made) => {
            let origin = match evidence.origin {
                Origin::Answer(from, turn) => {
                    format!("of {} (its answer {})", world.end(from).name, turn + 1)
                }
                Origin::OtherRelease => "of another release".into(),
                Origin::Certificate(machine) => format!("in the certificate of machine {machine}"),
            };
            let asked = made.map_or(String::new(), |challenge| {
                let (of, round) = challenge.nonce;
                format!(", quoted for the challenge of {} (round {})", world.end(of).name, round + 1)
            });
            let (Evidence { keys, gpu, .. }, name) = (evidence, world.end(at).name);
            let round = round + 1;
            format!(
                "{name} accepts (round {round}) the evidence {origin}{asked}: application key {keys}, GPU {gpu}"
            )
        }
        Step::Done(at) => format!("{} believes that it was accepted", world.end(at).name),
    }
}
