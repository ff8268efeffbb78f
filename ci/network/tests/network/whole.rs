//! The role play when nothing goes wrong but one worker.

use crate::model;
use crate::play::Network;
use crate::stage::post;
use serde_json::json;

#[test]
fn clients_pay_proxies_route_workers_earn_and_the_books_balance() {
    let Some(mut network) = Network::start() else { return };
    let first = network.embedded("red green blue");
    assert_eq!(first["data"][0]["embedding"].as_array().unwrap().len(), model::WIDTH);
    let pinned = json!({ "model": format!("small@{}", "ab".repeat(32)), "input": "red" });
    assert_eq!(post(network.at, "/v1/embeddings", &pinned).0, 200);

    // One of three workers goes in the middle; every answer comes.
    let before = network.charged();
    assert!(before > 0, "{}", network.status());
    let asked: Vec<_> = std::thread::scope(|scope| {
        let ask = |number: usize| {
            let network = &network;
            scope.spawn(move || (0..4).map(|_| network.embed(&format!("red {number}")).0).collect::<Vec<_>>())
        };
        let asking: Vec<_> = (0..3).map(ask).collect();
        asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(asked.iter().all(|status| *status == 200), "{asked:?}");
    network.workers[0].machine.kill();
    for number in 0..6 {
        let (status, body) = network.embed(&format!("blue {number}"));
        assert_eq!(status, 200, "{body}");
    }

    let charged = network.charged();
    network.proxies.iter().for_each(|proxy| drop(network.tend(proxy)));
    assert_eq!(network.claimed(), charged, "the pools have what receipts say, to the nanoTON");
    let vouched: u64 = network.workers.iter().map(|worker| network.vouched(worker)).sum();
    assert!(vouched < charged && vouched >= charged / 100 * 94, "{vouched} of {charged}, less a twentieth");
    let cashed: u64 = network.workers.iter().map(|worker| network.cash_out(worker)).sum();
    assert_eq!(cashed, vouched, "each worker has what it was vouched for, the one that is gone too");
    assert_eq!(network.workers.iter().map(|worker| network.cash_out(worker)).sum::<u64>(), 0, "once");
    eprintln!("{}", network.books());
}
