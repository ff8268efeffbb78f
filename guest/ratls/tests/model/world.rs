//! Who takes part, what the attacker may do, and every next state.
//!
//! ```text
//! start:  the attacker, who is the network, wires every end: to another end, to another end whose secrets he has, to himself
//! step:   Accept(end, round, evidence)   a verifier gets evidence that fits what it expects; if nobody made it yet, a machine
//!                                        that may be asked does so now
//!         Done(end)                      an initiator gets the responder's word
//! ```
//! Whatever the attacker can do he can still do later, so nothing is lost by wiring everything first, by making a quote only
//! when somebody takes it, and by leaving refusals out, which only close connections. A challenge that no honest verifier
//! made fits no expectation, so he delivers only what some verifier made, changed where the change is not bound.

use crate::terms::{
    ATTACKER, Binding, Bound, Challenge, Direction, Field, Machine, NOBODY, Part, Place, Without,
};

/// Rounds of attestation on a connection: the first, and one again.
pub const ROUNDS: usize = 2;
/// Ends in a scenario.
pub const ENDS: usize = 5;

/// What a verifier asks for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub part: Part,
    pub identity: Option<Machine>,
}

/// An honest end of one connection.
#[derive(Debug, Clone)]
pub struct End {
    pub name: &'static str,
    /// Whose keys it has; [`NOBODY`] for an anonymous client.
    pub machine: Machine,
    pub direction: Direction,
    pub part: Part,
    pub wants: Option<Wanted>,
    /// Verifiers that it gives evidence to.
    pub answers: Vec<Part>,
}

/// Ends, and what the attacker starts with.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub name: &'static str,
    pub ends: Vec<End>,
    /// Machines whose TLS keys he has.
    pub stolen: Vec<Machine>,
    /// Whether he may have the secrets of connections between honest ends.
    pub leaks: bool,
}

/// What an end is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Another end; the attacker sees nothing.
    Direct(Place),
    /// Another end; the attacker reads and writes at will.
    Leaked(Place),
    /// The attacker, who shows this key.
    Attacker(u8),
}

/// Where evidence came from that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// One of the answers that an end gave.
    Answer(Place, u8),
    /// Another release, which signs whatever it is given.
    OtherRelease,
    /// A certificate with evidence inside.
    Certificate(Machine),
}

/// Evidence as a verifier got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Evidence {
    pub origin: Origin,
    /// The application key that it names.
    pub keys: Machine,
    /// Whose GPU evidence it carries.
    pub gpu: Machine,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct State {
    pub answered: [[Option<Challenge>; ROUNDS]; ENDS],
    pub accepted: [[Option<Evidence>; ROUNDS]; ENDS],
    pub done: [bool; ENDS],
}

/// One thing that happens.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// A verifier takes evidence in a round; it is made just now where a challenge stands here.
    Accept(Place, u8, Evidence, Option<Challenge>),
    /// An initiator hears that it was accepted.
    Done(Place),
}

/// A scenario that is wired up, in a protocol without some fields.
pub struct World<'a> {
    pub scenario: &'a Scenario,
    pub links: Vec<Link>,
    pub without: Without,
}

impl World<'_> {
    pub fn end(&self, at: Place) -> &End {
        &self.scenario.ends[usize::from(at)]
    }

    pub fn link(&self, at: Place) -> Link {
        self.links[usize::from(at)]
    }

    pub fn places(&self) -> impl Iterator<Item = Place> + use<> {
        0..self.scenario.ends.len() as Place
    }

    /// Whether the attacker reads and writes at this end.
    pub fn open(&self, at: Place) -> bool {
        !matches!(self.link(at), Link::Direct(_))
    }

    pub fn exporter(&self, at: Place) -> (Place, Place) {
        match self.link(at) {
            Link::Direct(peer) | Link::Leaked(peer) => (at.min(peer), at.max(peer)),
            Link::Attacker(_) => (at, ATTACKER),
        }
    }

    /// The key in the responder's certificate, as the end at `at` knows it: its own, or the one that it was shown.
    pub fn responder_key(&self, at: Place) -> u8 {
        match (self.end(at).direction, self.link(at)) {
            (Direction::Responder, _) => self.end(at).machine,
            (Direction::Initiator, Link::Direct(peer) | Link::Leaked(peer)) => self.end(peer).machine,
            (Direction::Initiator, Link::Attacker(key)) => key,
        }
    }

    /// What the verifier at `at` sends in a round, once the round before is over.
    pub fn challenge(&self, at: Place, round: u8) -> Option<Challenge> {
        let end = self.end(at);
        end.wants.map(|wanted| Challenge {
            nonce: (at, round),
            from: end.part,
            wants: wanted.part,
            identity: wanted.identity,
        })
    }

    fn sent(&self, state: &State, at: Place, round: u8) -> bool {
        round == 0 || state.accepted[usize::from(at)][usize::from(round) - 1].is_some()
    }

    /// The quote that an end made in a round.
    pub fn quoted(&self, at: Place, challenge: Challenge) -> Bound {
        let end = self.end(at);
        Bound::Channel(Binding {
            direction: end.direction,
            attester: end.part,
            verifier: challenge.from,
            exporter: self.exporter(at),
            challenge,
            responder_key: self.responder_key(at),
            keys: end.machine,
            gpu: end.machine,
        })
    }

    /// What the verifier's code would compute for evidence that claims these.
    fn expected(&self, at: Place, round: u8, wanted: Wanted, keys: Machine, gpu: Machine) -> Option<Bound> {
        let end = self.end(at);
        Some(Bound::Channel(Binding {
            direction: end.direction.other(),
            attester: wanted.part,
            verifier: end.part,
            exporter: self.exporter(at),
            challenge: self.challenge(at, round)?,
            responder_key: self.responder_key(at),
            keys,
            gpu,
        }))
    }

    /// Everything that can happen next.
    pub fn steps(&self, state: &State) -> Vec<Step> {
        let mut out = Vec::new();
        for at in self.places() {
            let taken = state.accepted[usize::from(at)].iter().flatten().count();
            if let Some(wanted) = self.end(at).wants
                && taken < ROUNDS
            {
                self.accepts(state, at, taken as u8, wanted, &mut out);
            }
            if self.may_be_done(state, at) {
                out.push(Step::Done(at));
            }
        }
        out
    }

    /// The state after a step.
    pub fn apply(state: &State, step: Step) -> State {
        let mut next = *state;
        match step {
            Step::Accept(at, round, evidence, made) => {
                if let (Some(challenge), Origin::Answer(from, turn)) = (made, evidence.origin) {
                    next.answered[usize::from(from)][usize::from(turn)] = Some(challenge);
                }
                next.accepted[usize::from(at)][usize::from(round)] = Some(evidence);
            }
            Step::Done(at) => next.done[usize::from(at)] = true,
        }
        next
    }

    fn accepts(&self, state: &State, at: Place, round: u8, wanted: Wanted, out: &mut Vec<Step>) {
        for (origin, made) in self.deliverable(state, at, round) {
            let made_now = |from: Place, turn: u8| {
                made.or(state.answered[usize::from(from)][usize::from(turn)]).map(|c| self.quoted(from, c))
            };
            let bound = match origin {
                Origin::Answer(from, turn) => made_now(from, turn),
                Origin::Certificate(machine) => Some(Bound::Certificate(machine)),
                Origin::OtherRelease => None,
            };
            for (keys, gpu) in self.claims(at, origin, wanted) {
                let named =
                    self.without.has(Field::Identity) || wanted.identity.is_none_or(|key| key == keys);
                let Some(expected) = self.expected(at, round, wanted, keys, gpu) else { continue };
                // Another release signs what fits; only the comparison with reference values stands against it.
                let bound = if origin == Origin::OtherRelease { Some(expected) } else { bound };
                let listed = origin != Origin::OtherRelease || self.without.has(Field::Release);
                let fits = bound.is_some_and(|b| b.without(self.without) == expected.without(self.without));
                if named && listed && fits {
                    out.push(Step::Accept(at, round, Evidence { origin, keys, gpu }, made));
                }
            }
        }
    }

    /// Evidence that can reach the verifier at `at`, with the challenge if it is still to be made.
    fn deliverable(&self, state: &State, at: Place, round: u8) -> Vec<(Origin, Option<Challenge>)> {
        if let Link::Direct(peer) = self.link(at) {
            let asked = self.challenge(at, round).filter(|challenge| self.agrees(peer, challenge));
            let turn = state.answered[usize::from(peer)].iter().flatten().count() as u8;
            return asked
                .map(|challenge| (Origin::Answer(peer, turn), Some(challenge)))
                .into_iter()
                .collect();
        }
        let mut out = vec![(Origin::OtherRelease, None)];
        for from in self.places().filter(|from| self.open(*from) && !self.end(*from).answers.is_empty()) {
            out.push((Origin::Certificate(self.end(from).machine), None));
            let given = state.answered[usize::from(from)].iter().flatten().count();
            out.extend((0..given as u8).map(|turn| (Origin::Answer(from, turn), None)));
            if given < ROUNDS {
                let mut asked = self.attackers_challenges(state, from);
                asked.retain(|challenge| self.agrees(from, challenge));
                out.extend(asked.into_iter().map(|c| (Origin::Answer(from, given as u8), Some(c))));
            }
        }
        out
    }

    /// Whether the measured code of an end answers a challenge.
    fn agrees(&self, at: Place, challenge: &Challenge) -> bool {
        let end = self.end(at);
        challenge.wants == end.part
            && challenge.identity.is_none_or(|identity| identity == end.machine)
            && end.answers.contains(&challenge.from)
    }

    /// Challenges that he saw, or can foretell, with whatever isn't bound changed to what `to` answers.
    fn attackers_challenges(&self, state: &State, to: Place) -> Vec<Challenge> {
        let to = self.end(to);
        let mut out = Vec::new();
        for at in self.places() {
            for round in 0..ROUNDS as u8 {
                let Some(seen) = self.challenge(at, round) else { continue };
                let known = self.open(at) && self.sent(state, at, round);
                if !known && !self.without.has(Field::Nonce) {
                    continue;
                }
                let own = [seen.from];
                let froms = if self.without.has(Field::ChallengeFrom) { &to.answers[..] } else { &own };
                let wants = if self.without.has(Field::ChallengeWants) { to.part } else { seen.wants };
                let identity = if self.without.has(Field::Identity) { None } else { seen.identity };
                out.extend(froms.iter().map(|from| Challenge { from: *from, wants, identity, ..seen }));
            }
        }
        out
    }

    /// What he can let evidence name: the attester's own, or anybody's where it isn't bound.
    fn claims(&self, at: Place, origin: Origin, wanted: Wanted) -> Vec<(Machine, Machine)> {
        let own = match origin {
            Origin::Answer(from, _) => self.end(from).machine,
            Origin::Certificate(machine) => machine,
            Origin::OtherRelease => wanted.identity.unwrap_or(ATTACKER),
        };
        let mut everybody: Vec<Machine> = self.scenario.ends.iter().map(|end| end.machine).collect();
        everybody.retain(|machine| *machine != NOBODY);
        everybody.sort_unstable();
        everybody.dedup();
        let choose =
            |field| if self.without.has(field) && self.open(at) { everybody.clone() } else { vec![own] };
        let (keys, gpus) = (choose(Field::ApplicationKeys), choose(Field::Gpu));
        keys.iter().flat_map(|keys| gpus.iter().map(|gpu| (*keys, *gpu))).collect()
    }

    /// The responder's word matters where the attacker cannot forge it.
    fn may_be_done(&self, state: &State, at: Place) -> bool {
        let (end, index) = (self.end(at), usize::from(at));
        let mutual = end.wants.is_some() && !end.answers.is_empty() && end.direction == Direction::Initiator;
        let Link::Direct(peer) = self.link(at) else { return false };
        let told = state.accepted[usize::from(peer)][0].is_some() || self.without.has(Field::Accepted);
        mutual && !state.done[index] && state.accepted[index][0].is_some() && told
    }
}
