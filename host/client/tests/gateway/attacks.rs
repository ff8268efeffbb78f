//! Proxies that are attested and lie: each lie is noticed, costs at most the cap, and is told of.

use crate::fake::{Fake, Lie, pool};
use crate::rig::{CHAT, Rig, STREAM, until, vault};
use client::gateway::{Outcome, State};

/// Lies in a receipt, with a word of what is said of each.
const RECEIPTS: [(Lie, &str); 10] = [
    (Lie::Overcharge, "the total that receipts explain"),
    (Lie::TooManyTokens, "count of tokens"),
    (Lie::ResponseHash, "response hash"),
    (Lie::RequestHash, "request hash"),
    (Lie::OtherRoot, "model root"),
    (Lie::OtherPrice, "price"),
    (Lie::Replayed, "hash"),
    (Lie::OtherSigner, "signature"),
    (Lie::Garbage, "RCP1"),
    (Lie::NoReceipt, "without a receipt"),
];

#[tokio::test]
async fn an_answer_with_a_wrong_receipt_is_withheld_and_the_proxy_is_left() {
    for (lie, word) in RECEIPTS {
        let fake = Fake::start(pool(1)).await;
        let rig = Rig::over(&[&fake]).await;
        // An honest one before: something to be replayed.
        assert_eq!(rig.post("/v1/embeddings", r#"{"model":"vectors","input":"a"}"#).await.status, 200);
        let used = rig.gateway.status().vaults[0].used;
        fake.lies(lie);
        let answer = rig.chat().await;
        let code = if lie == Lie::NoReceipt { "no_receipt" } else { "wrong_receipt" };
        assert_eq!(answer.fault(), (502, code.into()), "{lie:?}");
        assert!(answer.message().contains(word), "{lie:?}: {}", answer.message());
        let status = rig.gateway.status();
        assert_eq!(status.vaults[0].used, used, "{lie:?}: nothing of it is believed");
        if lie != Lie::NoReceipt {
            assert!(rig.told("left: "), "{lie:?}");
            assert_eq!((status.proxies[0].state, rig.log()[1].outcome), (State::Left, Outcome::Refused));
            // It is honest again, and is not asked again.
            fake.lies(Lie::None);
            let before = fake.dispatched();
            let answer = rig.chat().await;
            assert_eq!((answer.fault().0, fake.dispatched()), (502, before), "{lie:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_receipt_of_a_stream_is_told_logged_and_the_proxy_left() {
    for lie in [Lie::ResponseHash, Lie::OtherRoot, Lie::Overcharge, Lie::Garbage] {
        let fake = Fake::start(pool(1)).await;
        let rig = Rig::over(&[&fake]).await;
        fake.lies(lie);
        let answer = rig.post_with("/v1/chat/completions", &[("te", "trailers")], STREAM).await;
        assert!(
            answer.status == 200 && answer.trailers.is_empty(),
            "{lie:?}: no receipt is passed on that is none"
        );
        assert_eq!((rig.log()[0].outcome, rig.gateway.status().refused), (Outcome::Refused, 1), "{lie:?}");
        assert!(rig.told("left: "), "{lie:?}");
    }
}

#[tokio::test]
async fn a_second_proxy_answers_where_the_first_one_lies() {
    let (liar, good) = (Fake::start(pool(1)).await, Fake::start(pool(2)).await);
    liar.lies(Lie::ResponseHash);
    let rig = Rig::over(&[&liar, &good]).await;
    until(|| rig.gateway.status().proxies.iter().all(|proxy| proxy.state == State::Connected)).await;
    for _ in 0..3 {
        assert_eq!(rig.chat().await.status, 200);
    }
    assert!(liar.dispatched() <= 1 && good.dispatched() >= 3);
}

#[tokio::test]
async fn no_cap_is_signed_for_terms_that_lie() {
    for (lie, code, word) in [
        (Lie::TermsKey, "proxy_refused", "session_key"),
        (Lie::NoKey, "proxy_refused", "`sk`"),
        (Lie::TermsPrice, "price_differs", "root's book"),
        (Lie::Floor, "proxy_refused", "what the proxy says was used"),
    ] {
        let fake = Fake::start_as(pool(1), lie, crate::fake::ROOT, crate::fake::GLOBAL_ID).await;
        let rig = Rig::over(&[&fake]).await;
        let answer = rig.chat().await;
        assert_eq!(answer.fault(), (502, code.into()), "{lie:?}: {}", answer.message());
        assert!(answer.message().contains(word), "{lie:?}: {}", answer.message());
        let status = rig.gateway.status();
        assert_eq!((fake.state.bodies.lock().unwrap().len(), status.vaults[0].allowed), (0, 0), "{lie:?}");
    }
}

#[tokio::test]
async fn a_proxy_of_another_root_or_network_is_left() {
    for (root, network) in [(pool(9), crate::fake::GLOBAL_ID), (crate::fake::ROOT, -239)] {
        let fake = Fake::start_as(pool(1), Lie::None, root, network).await;
        let rig = Rig::over(&[&fake]).await;
        assert_eq!(rig.chat().await.fault(), (502, "proxy_refused".into()));
        assert!(fake.state.bodies.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn evidence_that_is_refused_is_named_by_its_checks_and_nothing_is_sent() {
    let fake = Fake::start(pool(1)).await;
    let mut trust = crate::fake::trust();
    trust.reference.releases[0].rtmr2 = trust.reference.releases[0].rtmr1;
    let verifier = std::sync::Arc::new(ratls::Verifier::fixed(trust, crate::fake::AT));
    let rig = Rig::judging(&[&fake], verifier).await;
    let answer = rig.chat().await;
    assert_eq!(answer.fault(), (502, "proxy_refused".into()));
    assert!(answer.message().contains("registers"), "{}", answer.message());
    assert!(fake.state.bodies.lock().unwrap().is_empty() && rig.log().is_empty());
}

#[tokio::test]
async fn what_a_lying_proxy_can_take_is_what_was_allowed() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    fake.lies(Lie::TooManyTokens);
    assert_eq!(rig.post("/v1/chat/completions", CHAT).await.status, 502);
    let vault_status = rig.gateway.status().vaults.remove(0);
    let hold = rig.log()[0].hold;
    assert_eq!((vault_status.allowed, vault_status.used), (hold, 0));
    assert!(fake.used(&vault(0)) <= hold);
}
