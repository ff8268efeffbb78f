//! Gateways, proxies and disks that end in the middle.

use crate::fake::{FOREVER, Fake, GLOBAL_ID, Lie, ROOT, TON, pool};
use crate::rig::{CHAT, Rig, STREAM, facts_of, limits, settings, until, vault, written};
use client::gateway::{Outcome, Settings};
use http_body_util::BodyExt;
use payment::client::Limits;
use tokio::net::TcpListener;

/// What the folder says was allowed of the first vault.
fn kept(rig: &Rig, field: &str) -> u64 {
    let file = rig.dir.path().join(format!("vault-{}.json", hex::encode(vault(0).hash)));
    let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    kept[field].as_u64().unwrap()
}

#[tokio::test]
async fn what_a_cap_allows_is_on_disk_before_the_cap_leaves() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    let body = STREAM.replace("a secret question", FOREVER);
    let mut response = rig.send("POST", "/v1/chat/completions", &[], &body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    // The proxy has the cap now; so has the disk.
    let allowed = rig.gateway.status().vaults[0].allowed;
    assert!(allowed > 0);
    assert_eq!(kept(&rig, "allowed"), allowed);
}

#[tokio::test]
async fn a_gateway_killed_in_the_middle_comes_back_owing_no_more_than_it_allowed() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    assert_eq!(rig.chat().await.status, 200);
    let body = STREAM.replace("a secret question", FOREVER);
    let mut response = rig.send("POST", "/v1/chat/completions", &[], &body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    let allowed = kept(&rig, "allowed");
    let dir = rig.killed().await;
    drop(response);
    // The proxy notices, and charges what it delivered; its floor is then more than the client ever saw a use for.
    until(|| fake.held(&vault(0)) == 0).await;
    assert!(fake.used(&vault(0)) <= allowed);

    let again = Rig::at(dir, facts_of(&[&fake], 1000 * TON), &[&fake], settings()).await;
    assert_eq!(again.chat().await.status, 200, "the floor is within what was allowed");
    assert_eq!(again.gateway.status().vaults[0].used, fake.used(&vault(0)));
}

#[tokio::test]
async fn a_gateway_that_lost_its_folder_believes_no_floor() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    assert_eq!(rig.chat().await.status, 200);
    let dir = rig.killed().await;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let again = Rig::at(dir, facts_of(&[&fake], 1000 * TON), &[&fake], settings()).await;
    let answer = again.chat().await;
    assert_eq!(answer.fault(), (502, "proxy_refused".into()));
    assert!(answer.message().contains("was used"), "{}", answer.message());
}

#[tokio::test]
async fn the_days_limit_outlives_a_restart() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    assert_eq!(rig.chat().await.status, 200);
    let hold = rig.log()[0].hold;
    let dir = rig.killed().await;
    let day = Settings { limits: Limits { per_day: hold, ..limits() }, ..settings() };
    let again = Rig::at(dir, facts_of(&[&fake], 1000 * TON), &[&fake], day).await;
    assert_eq!(again.chat().await.fault(), (429, "day_limit".into()));
}

#[tokio::test]
async fn a_full_disk_lets_no_cap_leave() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    // Where the new file would be written stands a folder, which no user may write over.
    let fresh = rig.dir.path().join(format!("vault-{}.new", hex::encode(vault(0).hash)));
    std::fs::create_dir(&fresh).unwrap();
    let answer = rig.chat().await;
    assert_eq!(answer.fault(), (500, "not_kept".into()));
    assert_eq!((fake.dispatched(), rig.gateway.status().vaults[0].open), (0, 0));
    std::fs::remove_dir(&fresh).unwrap();
    assert_eq!(rig.chat().await.status, 200);
}

#[tokio::test]
async fn a_proxy_that_was_restarted_is_appraised_anew_and_asked_again() {
    let first = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&first]).await;
    assert_eq!(rig.chat().await.status, 200);
    first.kill();
    // The same place, another boot: another session key, and books that know what was used.
    let listener = loop {
        match TcpListener::bind(first.address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let second = Fake::on(listener, pool(1), Lie::None, ROOT, GLOBAL_ID);
    second.knows(vault(0), facts_of(&[&second], 1000 * TON).vaults[0].1);
    until(|| rig.gateway.status().proxies[0].session_key.is_none_or(|key| key.0 != first.key.to_bytes()))
        .await;
    let mut answer = rig.chat().await;
    // It is tried again after a pause where it was found away in between.
    for _ in 0..200 {
        if answer.status == 200 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        answer = rig.chat().await;
    }
    assert_eq!((answer.status, second.dispatched()), (200, 1));
    assert_eq!(rig.log().last().unwrap().session_key.0, second.key.to_bytes());
}

#[tokio::test]
async fn a_proxy_killed_in_the_middle_of_a_stream_cuts_it_and_its_hold_stays_counted() {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    let body = STREAM.replace("a secret question", FOREVER);
    let mut response = rig.send("POST", "/v1/chat/completions", &[], &body).await;
    response.body_mut().frame().await.unwrap().unwrap();
    fake.kill();
    let cut = loop {
        match tokio::time::timeout(crate::rig::PATIENCE, response.body_mut().frame()).await.unwrap() {
            Some(Ok(_)) => {}
            Some(Err(_)) => break true,
            None => break false,
        }
    };
    assert!(cut, "a part never looks whole");
    let vault = rig.gateway.status().vaults.remove(0);
    assert_eq!((vault.open, vault.used), (1, 0));
    assert!(vault.allowed > 0);
    assert!(!written(rig.dir.path()).contains(FOREVER));
    assert!(rig.log().iter().all(|entry| entry.outcome != Outcome::Settled));
    assert_eq!(rig.post("/v1/chat/completions", CHAT).await.fault().0, 503);
}
