//! What goes wrong: processes killed at once, a pool that is short, messages that come twice.
//!
//! Of every fault the claim is the same: nothing was charged that was not finished, and what is lost is within the bound that
//! is stated for it.

use crate::play::Network;
use ton::forms::{Control, Faults};

#[test]
fn whoever_is_killed_comes_back_and_no_coin_is_lost() {
    let Some(mut network) = Network::start() else { return };
    network.embedded("red");
    chain_is_killed(&mut network);
    client_is_killed(&mut network);
    let charged = proxy_is_killed(&mut network);
    messages_come_twice_late_and_shuffled(&network, charged);
    eprintln!("{}", network.books());
}

/// Requests go on by the views that were proven; a view has an age, not an end.
fn chain_is_killed(network: &mut Network) {
    network.stage.kill_chain();
    // A worker whose first job comes in the very moment may not have seen the session yet; another one has.
    network.embedded("green");
    network.stage.start_chain();
    network.embedded("green");
}

/// What the client had allowed is kept, so its next gateway goes on; a charge has its receipt or was never made.
fn client_is_killed(network: &mut Network) {
    let at = network.at;
    let body = serde_json::json!({ "model": "small", "input": "cut" });
    let asking = std::thread::spawn(move || crate::stage::post(at, "/v1/embeddings", &body));
    network.kill_gateway();
    // It got its answer, or the connection broke.
    let _ = asking.join();
    network.open_gateway();
    network.embedded("blue");
}

/// The session ends with the process: the owner registers the next, the old one's vouchers are still good.
fn proxy_is_killed(network: &mut Network) -> u64 {
    for number in 0..4 {
        network.embedded(&format!("red {number}"));
    }
    let before: u64 = network.workers.iter().map(|worker| network.vouched(worker)).sum();
    assert!(before > 0);
    let first = network.workers.iter().map(|worker| network.cash_out(worker)).sum::<u64>();
    assert_eq!(first, before);
    let proxy = &mut network.proxies[0];
    proxy.machine.kill();
    proxy.machine.start(&[("--state", "state")]);
    let proxy = &network.proxies[0];
    crate::guest::until("the next session's registration", || {
        (network.tend(proxy)["epoch"] == 2).then_some(())
    });
    for number in 0..4 {
        network.embedded(&format!("green {number}"));
    }
    network.charged()
}

/// The chain may deliver an external message twice, late and in another order: each claim is paid once.
fn messages_come_twice_late_and_shuffled(network: &Network, charged: u64) {
    let faults = Faults { duplicate_externals: 2, delay_blocks: 3, reorder: true, lose_one_in: 4, seed: 9 };
    network.stage.order(Control::Faults(faults));
    network.proxies.iter().for_each(|proxy| drop(network.tend(proxy)));
    let claimed = network.claimed();
    assert!(claimed >= charged, "{claimed} claimed, {charged} charged by this gateway");
    for worker in &network.workers {
        network.cash_out(worker);
    }
    assert_eq!(network.workers.iter().map(|worker| network.cash_out(worker)).sum::<u64>(), 0, "paid once");
    network.stage.order(Control::Faults(Faults::default()));
}

#[test]
fn a_pool_that_is_short_stops_work_until_its_owner_allots_more() {
    let Some(mut network) = Network::start() else { return };
    network.embedded("red");
    let charged = network.charged();
    // A session whose pot is empty: no worker takes a job that the pot could not pay.
    for proxy in &mut network.proxies {
        proxy.machine.kill();
        proxy.machine.start(&[("--state", "state")]);
    }
    let register = |proxy: &crate::play::Proxy| {
        let words = ["pool", "register", "--allot", "0", "--wallet", proxy.owner, "--pool", &proxy.pool];
        let shown = network.stage.asked(&words, proxy.machine.address.unwrap());
        (shown["epoch"] == 2).then_some(())
    };
    network.proxies.iter().for_each(|proxy| crate::guest::until("a session", || register(proxy)));
    let (status, answer) = network.embed("green");
    assert_ne!(status, 200, "{answer}");
    assert_eq!(network.charged(), charged);
    for proxy in &network.proxies {
        network.stage.facts(&["pool", "allot", "--wallet", proxy.owner, "--pool", &proxy.pool, "1"]);
    }
    network.embedded("green");
    eprintln!("{}", network.books());
}
