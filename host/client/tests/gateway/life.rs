//! What an app gets, and what it is told where it gets nothing.

use crate::fake::{EMBEDDER_ROOT, FOREVER, Fake, Lie, MODEL, MODEL_ROOT, PRICE, TON, pool};
use crate::rig::{CHAT, Rig, STREAM, answer, facts_of, limits, settings, until, vault, written};
use client::gateway::{Due, NotLoopback, Outcome, Settings, State, TEMPLATE, loopback, receipt_of};
use http_body_util::BodyExt;
use payment::client::Limits;
use payment::price::Tokens;
use protocol::market::Blob;
use sha2::{Digest, Sha256};
use std::sync::Arc;

#[tokio::test]
async fn a_chat_is_answered_paid_and_receipted() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    let answer = rig.chat().await;
    assert_eq!(
        (answer.status, answer.json()["choices"][0]["message"]["content"].as_str()),
        (200, Some("Hello from a fake"))
    );
    let charged = PRICE.charge(&Tokens { prompt: 9, completion: 4, ..Tokens::default() }).unwrap();
    assert_eq!(answer.field("chrysalis-charged"), charged.to_string());
    assert_eq!(fake.used(&vault(0)), charged);
    assert_eq!(fake.held(&vault(0)), 0);

    let receipt: Blob = answer.field("chrysalis-receipt").parse().unwrap();
    let due = Due {
        request_hash: Some(Sha256::digest(CHAT).into()),
        response_hash: Some(Sha256::digest(&answer.body).into()),
        model_root: Some(MODEL_ROOT),
        ..Due::default()
    };
    let receipt = due.check(&receipt_of(&receipt).unwrap(), &fake.key).unwrap();
    assert_eq!((receipt.charged, receipt.request.to_string()), (charged, answer.field("chrysalis-request")));

    let log = rig.log();
    assert_eq!(
        (log.len(), log[0].outcome, log[0].charged, log[0].request),
        (1, Outcome::Settled, charged, receipt.request)
    );
    // The body goes out as it came, with a bound that its bytes give.
    assert_eq!(&fake.state.bodies.lock().unwrap()[0][..], CHAT.as_bytes());
    let most = fake.state.mosts.lock().unwrap()[0];
    assert_eq!((most.prompt as usize, most.completion), (CHAT.len() + TEMPLATE as usize, 16));
}

#[tokio::test]
async fn a_stream_comes_as_it_is_made_and_ends_with_the_receipt() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    let answer = rig.post_with("/v1/chat/completions", &[("te", "trailers")], STREAM).await;
    assert_eq!(
        (answer.status, answer.field("content-type").as_str(), answer.cut),
        (200, "text/event-stream", false)
    );
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.contains("Hello") && text.ends_with("data: [DONE]\n\n"), "{text}");
    let receipt: Blob = answer.trailers["chrysalis-receipt"].to_str().unwrap().parse().unwrap();
    let due = Due { response_hash: Some(Sha256::digest(&answer.body).into()), ..Due::default() };
    let receipt = due.check(&receipt_of(&receipt).unwrap(), &fake.key).unwrap();
    assert_eq!(answer.trailers["chrysalis-charged"].to_str().unwrap(), receipt.charged.to_string());
    assert_eq!(rig.log()[0].outcome, Outcome::Settled);

    // An app that takes no trailers finds it in the log.
    let answer = rig.post("/v1/chat/completions", STREAM).await;
    assert!(answer.trailers.is_empty() && !answer.cut && answer.headers.get("trailer").is_none());
    assert_eq!(rig.log().len(), 2);
    assert_eq!(rig.log()[1].request.to_string(), answer.field("chrysalis-request"));
}

#[tokio::test]
async fn embeddings_and_completions_are_answered_too() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    let answer = rig.post("/v1/embeddings", r#"{"model":"vectors","input":["a","b"]}"#).await;
    assert_eq!((answer.status, answer.json()["data"].as_array().map(Vec::len)), (200, Some(2)));
    assert_eq!(rig.log()[0].model_root.0, EMBEDDER_ROOT);
    let answer = rig.post("/v1/completions", r#"{"model":"little","prompt":"x","max_tokens":8}"#).await;
    assert_eq!(answer.json()["choices"][0]["text"], "Hello from a fake");
    let used = fake.used(&vault(0));
    assert_eq!(rig.gateway.status().charged, used);
    assert_eq!(rig.gateway.status().vaults[0].used, used);
}

#[tokio::test]
async fn models_are_listed_by_name_and_by_exact_weights_and_others_are_not_found() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    // Also as the very first request, before anything is connected.
    let listed = rig.get("/v1/models").await.json();
    let ids: Vec<_> =
        listed["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    let pinned = format!("{MODEL}@{}", hex::encode(MODEL_ROOT));
    assert!(ids.contains(&MODEL) && ids.contains(&pinned.as_str()), "{ids:?}");
    let ask = |model: &str| CHAT.replace(MODEL, model);
    assert_eq!(rig.post("/v1/chat/completions", &ask(&pinned)).await.status, 200);
    let other = format!("{MODEL}@{}", hex::encode([0; 32]));
    let answer = rig.post("/v1/chat/completions", &ask(&other)).await;
    assert_eq!(answer.fault(), (404, "model_root_not_found".into()));
    let answer = rig.post("/v1/chat/completions", &ask("huge")).await;
    assert_eq!(answer.fault(), (404, "model_not_found".into()));
    assert!(answer.message().contains(MODEL), "{}", answer.message());
    assert_eq!(fake.dispatched(), 1);
}

#[tokio::test]
async fn who_has_no_vault_or_an_empty_one_is_told_what_to_do() {
    let fake = Fake::start(pool(1)).await;
    let empty = Rig::with(&[&fake], settings(), 1000).await;
    let answer = empty.chat().await;
    assert_eq!(answer.fault(), (402, "vault_empty".into()));
    assert!(answer.message().contains("chrysalis vault top-up"), "{}", answer.message());
    assert_eq!(answer.field("x-should-retry"), "false");
    let none = Rig::over(&[]).await;
    let answer = none.chat().await;
    assert_eq!(answer.fault(), (402, "no_vault".into()));
    assert!(answer.message().contains("chrysalis vault open"), "{}", answer.message());
    // Once it was topped up, and the chain shows it, the same request goes through.
    empty.facts.send_replace(Arc::new(facts_of(&[&fake], 1000 * TON)));
    fake.knows(vault(0), facts_of(&[&fake], 1000 * TON).vaults[0].1);
    until(|| empty.gateway.status().vaults[0].deposited == Some(1000 * TON)).await;
    assert_eq!(empty.chat().await.status, 200);
}

#[tokio::test]
async fn a_vault_of_another_channel_key_is_not_used() {
    let fake = Fake::start(pool(1)).await;
    let mut facts = facts_of(&[&fake], 1000 * TON);
    facts.vaults[0].1.client_key = payment::SecretKey::from_seed(&[9; 32]).public().to_bytes();
    let rig = Rig::at(Arc::new(tempfile::tempdir().unwrap()), facts, &[&fake], settings()).await;
    let answer = rig.chat().await;
    assert_eq!(answer.fault(), (402, "no_vault".into()));
    assert!(answer.message().contains("another channel key"), "{}", answer.message());
}

#[tokio::test]
async fn limits_of_a_request_and_of_a_day_are_kept() {
    let fake = Fake::start(pool(1)).await;
    let hold = PRICE
        .charge(&Tokens { prompt: CHAT.len() as u32 + TEMPLATE, completion: 16, ..Tokens::default() })
        .unwrap();
    let with =
        |per_request, per_day| Settings { limits: Limits { per_request, per_day, ..limits() }, ..settings() };
    let small = Rig::with(&[&fake], with(hold - 1, 1000 * TON), 1000 * TON).await;
    let answer = small.chat().await;
    assert_eq!(answer.fault(), (400, "request_limit".into()));
    assert!(answer.message().contains("max_tokens"), "{}", answer.message());
    drop(small);
    // For one whole request and what the first one really cost, and nothing more.
    let day = Rig::with(&[&fake], with(hold, hold), 1000 * TON).await;
    assert_eq!(day.chat().await.status, 200);
    let answer = day.chat().await;
    assert_eq!(answer.fault(), (429, "day_limit".into()));
    assert_eq!(
        (answer.json()["error"]["type"].as_str(), answer.field("x-should-retry").as_str()),
        (Some("insufficient_quota"), "false")
    );
    assert_eq!(fake.dispatched(), 1);
}

#[tokio::test]
async fn a_price_above_the_limit_is_not_paid() {
    let fake = Fake::start(pool(1)).await;
    let dear = Settings { max_price: Some(PRICE.base - 1), ..settings() };
    let rig = Rig::with(&[&fake], dear, 1000 * TON).await;
    let answer = rig.chat().await;
    assert_eq!(answer.fault(), (402, "price_too_high".into()));
    assert!(answer.message().contains("--max-price"), "{}", answer.message());
    assert_eq!(fake.dispatched(), 0);
}

#[tokio::test]
async fn another_proxy_answers_where_one_is_busy_gone_or_breaks_before_the_first_byte() {
    for (lie, body) in [(Lie::Busy, CHAT), (Lie::Reset, CHAT), (Lie::Reset, STREAM), (Lie::Cut, CHAT)] {
        let (bad, good) = (Fake::start(pool(1)).await, Fake::start(pool(2)).await);
        bad.lies(lie);
        let rig = Rig::over(&[&bad, &good]).await;
        until(|| rig.gateway.status().proxies.iter().all(|proxy| proxy.state == State::Connected)).await;
        for _ in 0..2 {
            assert_eq!(rig.post("/v1/chat/completions", body).await.status, 200, "{lie:?}");
        }
        assert!(good.dispatched() >= 1, "{lie:?}");
    }
}

#[tokio::test]
async fn a_busy_proxys_own_words_and_pause_reach_the_app() {
    let fake = Fake::start(pool(1)).await;
    fake.lies(Lie::Busy);
    let rig = Rig::over(&[&fake]).await;
    let answer = rig.chat().await;
    assert_eq!(answer.fault(), (503, "no_worker".into()));
    assert_eq!(
        (answer.field("retry-after").as_str(), answer.field("x-should-retry").as_str()),
        ("7", "true")
    );
    // What was refused before it was dispatched is held no longer.
    assert_eq!(rig.gateway.status().vaults[0].open, 0);
}

#[tokio::test]
async fn a_cap_that_the_proxy_finds_too_low_is_made_anew_once() {
    let fake = Fake::start(pool(1)).await;
    fake.lies(Lie::CapTooLow);
    let rig = Rig::over(&[&fake]).await;
    assert_eq!(rig.chat().await.status, 200);
    assert_eq!(fake.dispatched(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_off_in_the_middle_breaks_off_at_the_app() {
    let fake = Fake::start(pool(1)).await;
    fake.lies(Lie::Cut);
    let rig = Rig::over(&[&fake]).await;
    // The break may come before the head does.
    if let Ok(response) = rig.try_send("POST", "/v1/chat/completions", &[], STREAM).await {
        let answer = answer(response).await;
        assert!(answer.status == 200 && answer.cut);
    }
    // The proxy released it, and says so when it is asked.
    until(|| rig.log().len() == 1).await;
    assert_eq!((rig.log()[0].outcome, fake.used(&vault(0))), (Outcome::Free, 0));
}

#[tokio::test]
async fn an_app_that_goes_away_pays_for_what_was_delivered_and_no_more() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    let body = STREAM.replace("a secret question", FOREVER);
    let mut response = rig.send("POST", "/v1/chat/completions", &[], &body).await;
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(!first.is_empty());
    drop(response);
    until(|| rig.log().len() == 1).await;
    let entry = rig.log().remove(0);
    assert_eq!(entry.outcome, Outcome::Settled, "{entry:?}");
    let receipt = receipt_of(&entry.receipt.unwrap()).unwrap().voucher;
    assert_eq!(receipt.end, payment::receipt::End::Cancelled);
    assert!(receipt.charged > 0 && receipt.charged == fake.used(&vault(0)));
    assert_eq!(rig.gateway.status().vaults[0].open, 0);
    assert_eq!(rig.chat().await.status, 200, "the next one is as any");
}

#[tokio::test]
async fn many_apps_at_once_are_each_charged_once() {
    let fake = Fake::start(pool(1)).await;
    let rig = Arc::new(Rig::over(&[&fake]).await);
    let mut asks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let rig = rig.clone();
        asks.spawn(async move { rig.chat().await.status });
    }
    let all = asks.join_all().await;
    assert!(all.iter().all(|status| *status == 200), "{all:?}");
    let (log, status) = (rig.log(), rig.gateway.status());
    assert_eq!((log.len(), status.settled, status.refused, status.vaults[0].open), (24, 24, 0, 0));
    assert_eq!(log.iter().map(|entry| entry.charged).sum::<u64>(), fake.used(&vault(0)));
}

#[tokio::test]
async fn foreign_hosts_pages_and_tokens_are_kept_out_and_bodies_are_bounded() {
    let fake = Fake::start(pool(1)).await;
    let guarded = Settings { token: Some(Sha256::digest("right").into()), ..settings() };
    let rig = Rig::with(&[&fake], guarded, 1000 * TON).await;
    let token = ("authorization", "Bearer right");
    let post = |fields: Vec<(&'static str, &'static str)>, body: String| {
        let rig = &rig;
        async move { rig.post_with("/v1/chat/completions", &fields, &body).await.fault() }
    };
    assert_eq!(post(vec![("host", "evil.example"), token], CHAT.into()).await, (403, "foreign_host".into()));
    assert_eq!(
        post(vec![("origin", "https://evil.example"), token], CHAT.into()).await,
        (403, "foreign_origin".into())
    );
    assert_eq!(post(vec![], CHAT.into()).await, (401, "invalid_api_key".into()));
    assert_eq!(
        post(vec![("authorization", "Bearer wrong")], CHAT.into()).await,
        (401, "invalid_api_key".into())
    );
    assert_eq!(post(vec![token], "x".repeat(1024 * 1024 + 1)).await, (413, "body_too_large".into()));
    assert_eq!(post(vec![token], "{".into()).await, (400, "invalid_json".into()));
    assert_eq!(fake.dispatched(), 0);
    assert_eq!(rig.post_with("/v1/chat/completions", &[token], CHAT).await.status, 200);
    let answer = rig.send("GET", "/v1/chat/completions", &[token], "").await;
    assert_eq!(answer.status(), 405);
    let elsewhere: Result<_, NotLoopback> = loopback("0.0.0.0:1".parse().unwrap());
    assert!(elsewhere.is_err());
}

#[tokio::test]
async fn nothing_that_is_told_or_written_has_a_word_of_a_prompt_or_an_answer() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    rig.chat().await;
    rig.post("/v1/chat/completions", STREAM).await;
    fake.lies(Lie::ResponseHash);
    rig.chat().await;
    let status = rig.get("/chrysalis/v1/status").await;
    let metrics = rig.get("/metrics").await;
    let metrics = String::from_utf8(metrics.body.to_vec()).unwrap();
    assert!(metrics.contains("chrysalis_gateway_requests_total{outcome=\"refused\"} 1"), "{metrics}");
    let told = rig.told.lock().unwrap().join("\n");
    let all = [written(rig.dir.path()), told, metrics, status.json().to_string()].concat();
    assert!(all.contains("allowed") && !all.contains("secret question") && !all.contains("Hello"), "{all}");
}

#[tokio::test]
async fn the_first_request_waits_for_the_first_look_at_the_chain() {
    let fake = Fake::start(pool(1)).await;
    let facts = facts_of(&[&fake], 1000 * TON);
    let unseen = client::gateway::Facts { vaults: facts.vaults.clone(), ..Default::default() };
    let rig = Rig::at(Arc::new(tempfile::tempdir().unwrap()), unseen, &[&fake], settings()).await;
    let seen = async {
        tokio::task::yield_now().await;
        rig.facts.send_replace(Arc::new(facts));
    };
    let (answer, ()) = tokio::join!(rig.chat(), seen);
    assert_eq!(answer.status, 200, "{:?}", answer.body);
}
