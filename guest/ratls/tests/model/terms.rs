//! Messages as terms: a hash is the tuple of what is hashed, a key or a nonce is the name of who made it, so that two terms
//! are equal exactly when they were built alike. That is the perfect cryptography of Dolev and Yao.

/// A machine with a genuine platform; its TLS key, its application key and its GPU bear the same number.
pub type Machine = u8;

/// One end of one TLS connection, by its place in the scenario.
pub type Place = u8;

/// In the place of a machine's key: the attacker's own TLS key.
pub const ATTACKER: u8 = 200;
/// In the place of a machine's key: no certificate is shown.
pub const NOBODY: u8 = 255;

/// Roles of the ends, as in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Client,
    Proxy,
    Worker,
    Service,
}

/// Which end of the TLS connection somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Initiator,
    Responder,
}

impl Direction {
    pub fn other(self) -> Self {
        match self {
            Direction::Initiator => Direction::Responder,
            Direction::Responder => Direction::Initiator,
        }
    }
}

/// What can be left out of the protocol, to see what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The TLS exporter of the connection.
    Exporter,
    /// The random bytes of the challenge.
    Nonce,
    /// The verifier's part, as its challenge states it.
    ChallengeFrom,
    /// The part that the challenge wants.
    ChallengeWants,
    /// The application key that the challenge wants, and the verifier's comparison with it.
    Identity,
    /// Which end of the connection the attester is.
    Direction,
    /// The attester's part.
    AttesterPart,
    /// The verifier's part.
    VerifierPart,
    /// The responder's TLS key, as each end sees it; an initiator has none.
    ResponderKey,
    /// The application keys that the evidence names.
    ApplicationKeys,
    /// The GPU evidence.
    Gpu,
    /// The comparison with reference values.
    Release,
    /// The initiator's wait for the responder's word.
    Accepted,
    /// The domain tag, which parts evidence over a connection from evidence over a key.
    Tag,
}

impl Field {
    /// Every one that a report data or a check is made of.
    pub const ALL: [Field; 14] = [
        Field::Exporter,
        Field::Nonce,
        Field::ChallengeFrom,
        Field::ChallengeWants,
        Field::Identity,
        Field::Direction,
        Field::AttesterPart,
        Field::VerifierPart,
        Field::ResponderKey,
        Field::ApplicationKeys,
        Field::Gpu,
        Field::Release,
        Field::Accepted,
        Field::Tag,
    ];
}

/// A set of fields that are left out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Without(u16);

impl Without {
    pub fn of(fields: &[Field]) -> Self {
        Without(fields.iter().fold(0, |set, field| set | 1 << *field as u16))
    }

    pub fn has(self, field: Field) -> bool {
        self.0 & 1 << field as u16 != 0
    }
}

impl std::fmt::Debug for Without {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(Field::ALL.iter().filter(|field| self.has(**field))).finish()
    }
}

/// A verifier's challenge. The nonce is named by who drew it, and for which round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Challenge {
    pub nonce: (Place, u8),
    pub from: Part,
    pub wants: Part,
    pub identity: Option<Machine>,
}

/// What the report data of a quote is the hash of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A connection.
    Channel(Binding),
    /// A TLS key alone: the certificate with evidence inside.
    Certificate(Machine),
}

/// The hash over a connection, field by field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Binding {
    pub direction: Direction,
    pub attester: Part,
    pub verifier: Part,
    pub exporter: (Place, Place),
    pub challenge: Challenge,
    pub responder_key: u8,
    pub keys: Machine,
    pub gpu: Machine,
}

/// A binding of which nothing is left.
const EMPTY: Binding = Binding {
    direction: Direction::Initiator,
    attester: Part::Client,
    verifier: Part::Client,
    exporter: (NOBODY, NOBODY),
    challenge: Challenge { nonce: (NOBODY, 0), from: Part::Client, wants: Part::Client, identity: None },
    responder_key: NOBODY,
    keys: NOBODY,
    gpu: NOBODY,
};

impl Bound {
    /// The same hash in a protocol that leaves fields out.
    pub fn without(self, without: Without) -> Self {
        match self {
            Bound::Channel(binding) => Bound::Channel(binding.without(without)),
            // Without domain tags it is but the hash over a key.
            Bound::Certificate(key) if without.has(Field::Tag) => {
                Bound::Channel(Binding { responder_key: key, ..EMPTY }.without(without))
            }
            Bound::Certificate(key) => Bound::Certificate(key),
        }
    }
}

impl Binding {
    fn without(mut self, without: Without) -> Self {
        for field in Field::ALL.into_iter().filter(|field| without.has(*field)) {
            match field {
                Field::Exporter => self.exporter = EMPTY.exporter,
                Field::Nonce => self.challenge.nonce = EMPTY.challenge.nonce,
                Field::ChallengeFrom => self.challenge.from = EMPTY.challenge.from,
                Field::ChallengeWants => self.challenge.wants = EMPTY.challenge.wants,
                Field::Identity => self.challenge.identity = EMPTY.challenge.identity,
                Field::Direction => self.direction = EMPTY.direction,
                Field::AttesterPart => self.attester = EMPTY.attester,
                Field::VerifierPart => self.verifier = EMPTY.verifier,
                Field::ResponderKey => self.responder_key = EMPTY.responder_key,
                Field::ApplicationKeys => self.keys = EMPTY.keys,
                Field::Gpu => self.gpu = EMPTY.gpu,
                Field::Release | Field::Accepted | Field::Tag => {}
            }
        }
        self
    }
}
