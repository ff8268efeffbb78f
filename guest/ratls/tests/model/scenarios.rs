//! Who is there: the allowed pairs of parts, each with a machine of the attacker's own that runs the same release.

use crate::terms::{Direction, Machine, NOBODY, Part};
use crate::world::{End, Scenario, Wanted};

/// The machine that a verifier means.
const RIGHT: Machine = 1;
/// Another honest one.
const OTHER: Machine = 2;
/// The attacker's: genuine, of the same release, so its guest is honest and all around it is not.
const HIS: Machine = 3;

fn client(name: &'static str, part: Part, identity: Option<Machine>) -> End {
    let wants = Some(Wanted { part, identity });
    End { name, machine: NOBODY, direction: Direction::Initiator, part: Part::Client, wants, answers: vec![] }
}

fn one_way(name: &'static str, machine: Machine, part: Part) -> End {
    let answers = vec![Part::Client];
    End { name, machine, direction: Direction::Responder, part, wants: None, answers }
}

fn mutual(
    name: &'static str,
    machine: Machine,
    direction: Direction,
    parts: (Part, Part),
    identity: Option<Machine>,
) -> End {
    let wants = Some(Wanted { part: parts.1, identity });
    End { name, machine, direction, part: parts.0, wants, answers: vec![parts.1] }
}

fn clients_to(part: Part) -> Vec<End> {
    vec![
        client("client A", part, Some(RIGHT)),
        client("client B", part, None),
        one_way("the right one", RIGHT, part),
        one_way("the attacker's own", HIS, part),
    ]
}

/// The pairs, and one machine that is in two of them at once.
pub fn all() -> Vec<Scenario> {
    use Direction::{Initiator, Responder};
    use Part::{Client, Proxy, Service, Worker};
    let ends: Vec<(&'static str, Vec<End>)> = vec![
        ("clients to proxies", clients_to(Proxy)),
        ("clients to services", clients_to(Service)),
        (
            "a proxy to workers",
            vec![
                mutual("the proxy", OTHER, Initiator, (Proxy, Worker), None),
                mutual("the worker", RIGHT, Responder, (Worker, Proxy), None),
                mutual("the attacker's worker", HIS, Responder, (Worker, Proxy), None),
                mutual("the attacker's proxy", HIS, Initiator, (Proxy, Worker), None),
            ],
        ),
        (
            "workers that dial proxies",
            vec![
                mutual("the worker", OTHER, Initiator, (Worker, Proxy), Some(RIGHT)),
                mutual("the right proxy", RIGHT, Responder, (Proxy, Worker), None),
                mutual("the attacker's proxy", HIS, Responder, (Proxy, Worker), None),
            ],
        ),
        (
            "services among themselves",
            vec![
                mutual("service A dialling", RIGHT, Initiator, (Service, Service), None),
                mutual("service A serving", RIGHT, Responder, (Service, Service), None),
                mutual("service B serving", OTHER, Responder, (Service, Service), None),
            ],
        ),
        (
            "a machine in two roles",
            vec![
                client("the client", Worker, None),
                mutual("the proxy dialling", OTHER, Initiator, (Proxy, Worker), Some(RIGHT)),
                End { answers: vec![Client, Proxy], ..one_way("the worker, to anybody", RIGHT, Worker) },
                mutual("the worker, mutual", RIGHT, Responder, (Worker, Proxy), None),
                one_way("the proxy serving", OTHER, Proxy),
            ],
        ),
    ];
    ends.into_iter().map(|(name, ends)| Scenario { name, ends, stolen: vec![], leaks: false }).collect()
}

/// How much the attacker starts with.
pub fn powers() -> Vec<(&'static str, Vec<Machine>, bool)> {
    vec![
        ("the network and a machine of his own", vec![], false),
        ("and one machine's TLS key", vec![OTHER], false),
        ("and every TLS key", vec![RIGHT, OTHER, HIS], false),
        ("and every TLS key and the secrets of any connection", vec![RIGHT, OTHER, HIS], true),
    ]
}
