//! Sessions over quotes of a simulated platform: shared, proved anew, drained, at rest, and attacked.

#[path = "support/sessions.rs"]
mod sessions;
mod support;

use hyper::{Request, StatusCode};
use protocol::channel::Part;
use ratls::Refusal;
use ratls::session::{Reason, RequestError, Settings};
use sessions::{Pair, Streaming, get, quick, short, text};
use std::time::Duration;
use tokio::sync::watch;

#[tokio::test]
async fn many_requests_share_one_connection_and_one_quote() {
    let pair = Pair::one_way(Settings::default()).await;
    let asked = (0..100).map(|n| {
        let requests = pair.requests.clone();
        tokio::spawn(async move { text(requests.send(get(&format!("/say/{n}"))).await.unwrap()).await })
    });
    for (n, answer) in asked.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(answer.await.unwrap(), format!("/say/{n} by nobody"));
    }
    assert_eq!(pair.worker.quotes().quotes, 1);
}

#[tokio::test]
async fn a_worker_that_dialled_out_serves_and_each_knows_the_other() {
    let pair = Pair::mutual(Settings::default()).await;
    assert_eq!(text(pair.requests.send(get("/who")).await.unwrap()).await, "/who by proxy");
    assert_eq!(pair.requests.peer().unwrap().part(), Part::Worker);
}

#[tokio::test]
async fn a_body_of_each_kind_arrives_whole() {
    let pair = Pair::one_way(Settings::default()).await;
    let sent = vec![0x5a; 3 * 1024 * 1024];
    let request = Request::post("/echo").body(http_body_util::Full::from(sent.clone())).unwrap();
    let received = sessions::bytes(pair.requests.send(request).await.unwrap()).await;
    assert!(received == sent, "{} bytes came back", received.len());
}

#[tokio::test]
async fn streams_in_flight_survive_re_attestation_of_both_ends() {
    let pair = Pair::mutual(quick()).await;
    let (stream, body) = Streaming::pair();
    let request = Request::post("/echo").body(body).unwrap();
    let mut response = pair.requests.send(request).await.unwrap().into_body();
    stream.say(b"first").await;
    assert_eq!(sessions::chunk(&mut response).await, "first");
    // Each end is asked anew, twice.
    sessions::until(|| pair.worker.quotes().answered >= 3 && pair.proxy().quotes().answered >= 3).await;
    stream.say(b"last").await;
    assert_eq!(sessions::chunk(&mut response).await, "last");
    drop(stream);
    assert!(sessions::rest_of(response).await.is_empty());
}

#[tokio::test]
async fn a_revoked_release_lets_streams_finish_and_closes() {
    let pair = Pair::one_way(Settings::default()).await;
    let (stream, body) = Streaming::pair();
    let request = Request::post("/echo").body(body).unwrap();
    let mut response = pair.requests.send(request).await.unwrap().into_body();
    stream.say(b"before").await;
    assert_eq!(sessions::chunk(&mut response).await, "before");

    pair.worker.revoke();
    sessions::until(|| pair.requests.is_over()).await;
    let late = pair.requests.send(get("/late")).await.unwrap_err();
    assert!(matches!(late, RequestError::Ended) && late.is_unsent(), "{late}");
    stream.say(b"after").await;
    assert_eq!(sessions::chunk(&mut response).await, "after");
    drop(stream);
    assert!(sessions::rest_of(response).await.is_empty());

    let (client, worker) = pair.ended().await;
    assert!(matches!(client.reason, Reason::Distrusted(_)) && client.reason.is_peer_fault(), "{client:?}");
    assert_eq!(client.cut, 0);
    assert!(matches!(worker.reason, Reason::Closed), "{worker:?}");
}

#[tokio::test]
async fn a_release_revoked_between_handshake_and_session_is_not_missed() {
    let pair = Pair::with_worker_revoked_before_the_session().await;
    let (client, _) = pair.ended().await;
    assert!(matches!(client.reason, Reason::Distrusted(_)), "{client:?}");
}

#[tokio::test]
async fn a_server_drains_a_client_whose_release_is_revoked() {
    let pair = Pair::mutual(Settings::default()).await;
    let (stream, body) = Streaming::pair();
    let request = Request::post("/echo").body(body).unwrap();
    let mut response = pair.requests.send(request).await.unwrap().into_body();
    pair.proxy().revoke();
    stream.say(b"after").await;
    assert_eq!(sessions::chunk(&mut response).await, "after");
    drop((stream, response));
    let (proxy, worker) = pair.ended().await;
    assert!(matches!(worker.reason, Reason::Distrusted(_)), "{worker:?}");
    assert_eq!(worker.cut, 0);
    assert!(matches!(proxy.reason, Reason::Closed), "{proxy:?}");
}

#[tokio::test]
async fn a_stream_that_outlasts_the_grace_is_cut() {
    let settings = Settings { grace: Duration::from_millis(100), ..Settings::default() };
    let pair = Pair::one_way(settings).await;
    let (_stream, body) = Streaming::pair();
    let request = Request::post("/echo").body(body).unwrap();
    let response = pair.requests.send(request).await.unwrap();
    pair.worker.revoke();
    let (client, _) = pair.ended().await;
    assert!(client.cut > 0, "{client:?}");
    drop(response);
}

#[tokio::test]
async fn a_replayed_proof_is_refused_and_the_connection_closed() {
    let pair = Pair::with_replaying_worker(quick()).await;
    let (client, worker) = pair.ended().await;
    assert!(matches!(client.reason, Reason::Refused(_)) && client.reason.is_peer_fault(), "{client:?}");
    assert!(!worker.reason.is_peer_fault(), "{worker:?}");
}

#[tokio::test]
async fn a_peer_whose_platform_falls_silent_is_drained() {
    let pair = Pair::with_worker_of_one_quote(short()).await;
    assert_eq!(text(pair.requests.send(get("/a")).await.unwrap()).await, "/a by nobody");
    let (client, _) = pair.ended().await;
    assert!(matches!(client.reason, Reason::NotRenewed(_)), "{client:?}");
}

#[tokio::test]
async fn a_stopping_server_finishes_what_is_under_way() {
    let pair = Pair::one_way(Settings::default()).await;
    let (stream, body) = Streaming::pair();
    let request = Request::post("/echo").body(body).unwrap();
    let mut response = pair.requests.send(request).await.unwrap().into_body();
    pair.stop_worker.send(true).unwrap();
    stream.say(b"under way").await;
    assert_eq!(sessions::chunk(&mut response).await, "under way");
    drop((stream, response));
    let (client, worker) = pair.ended().await;
    assert!(matches!((client.reason, worker.reason), (Reason::Closed, Reason::Stopped)));
    assert_eq!(worker.cut, 0);
}

#[tokio::test]
async fn a_session_without_users_ends_after_its_last_stream() {
    let pair = Pair::one_way(Settings::default()).await;
    let response = pair.requests.send(get("/a")).await.unwrap();
    let pair = pair.forget_requests();
    assert_eq!(text(response).await, "/a by nobody");
    let (client, worker) = pair.ended().await;
    assert!(matches!((client.reason, worker.reason), (Reason::Stopped, Reason::Closed)));
}

#[tokio::test]
async fn an_idle_session_rests_and_wakes_on_the_same_connection() {
    let settings = Settings { rest: Duration::from_millis(20), ..Settings::default() };
    let pair = Pair::mutual(settings).await;
    for round in 0..5 {
        let path = format!("/round/{round}");
        assert_eq!(text(pair.requests.send(get(&path)).await.unwrap()).await, format!("{path} by proxy"));
        sessions::until(|| pair.requests.is_at_rest()).await;
    }
    assert_eq!((pair.worker.quotes().quotes, pair.proxy().quotes().quotes), (1, 1));
}

#[tokio::test]
async fn requests_that_meet_the_moment_of_rest_are_all_answered() {
    let settings = Settings { rest: Duration::from_millis(1), ..Settings::default() };
    let pair = Pair::one_way(settings).await;
    let workers = (0..4).map(|worker| {
        let requests = pair.requests.clone();
        tokio::spawn(async move {
            for n in 0..150_u64 {
                let path = format!("/{worker}/{n}");
                assert_eq!(text(requests.send(get(&path)).await.unwrap()).await, format!("{path} by nobody"));
                tokio::time::sleep(Duration::from_micros(n * 97 % 4000)).await;
            }
        })
    });
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
}

#[tokio::test]
async fn a_session_at_rest_is_proved_anew_and_rests_again() {
    let settings = Settings { rest: Duration::from_millis(5), ..quick() };
    let pair = Pair::one_way(settings).await;
    sessions::until(|| pair.worker.quotes().answered >= 3).await;
    sessions::until(|| pair.requests.is_at_rest()).await;
    assert!(!pair.requests.is_over());
}

#[tokio::test]
async fn a_peer_that_vanishes_ends_a_session_at_rest() {
    let settings = Settings { rest: Duration::from_millis(5), ..Settings::default() };
    let pair = Pair::one_way(settings).await;
    text(pair.requests.send(get("/a")).await.unwrap()).await;
    sessions::until(|| pair.requests.is_at_rest()).await;
    pair.stop_worker.send(true).unwrap();
    let (client, _) = pair.ended().await;
    assert!(matches!(client.reason, Reason::Closed), "{client:?}");
}

#[tokio::test]
async fn reserved_paths_belong_to_the_session() {
    let pair = Pair::one_way(Settings::default()).await;
    let error = pair.requests.send(get("/.chrysalis/attest")).await.unwrap_err();
    assert!(matches!(error, RequestError::Reserved { .. }), "{error}");

    let mut raw = sessions::raw_client(Settings::default()).await;
    for (method, path) in
        [("GET", "/.chrysalis/attest"), ("POST", "/.chrysalis/else"), ("POST", "/.chrysalis/renew")]
    {
        assert_eq!(raw.ask(method, path, b"").await.unwrap().0, StatusCode::NOT_FOUND, "{method} {path}");
    }
    assert_eq!(
        raw.ask("POST", "/.chrysalis/attest", b"no challenge").await.unwrap().0,
        StatusCode::FORBIDDEN
    );
    assert_eq!(raw.ask("POST", "/.chrysalis/attest", &[0; 513]).await.unwrap().0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn challenges_in_quick_succession_are_turned_away_before_a_quote_is_made() {
    let mut raw = sessions::raw_client(Settings::default()).await;
    assert_eq!(raw.ask("POST", "/.chrysalis/attest", b"x").await.unwrap().0, StatusCode::FORBIDDEN);
    assert_eq!(raw.ask("POST", "/.chrysalis/attest", b"x").await.unwrap().0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_head_beyond_its_bound_is_refused_and_the_connection_lives() {
    let mut raw = sessions::raw_client(Settings::default()).await;
    let path = format!("/{}", "x".repeat(20 * 1024));
    match raw.ask("GET", &path, b"").await {
        Ok((status, _)) => assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(error) => assert!(error.is_reset(), "{error}"),
    }
    assert_eq!(raw.ask("GET", "/a", b"").await.unwrap().0, StatusCode::OK);
}

#[tokio::test]
async fn a_client_end_that_never_renews_is_drained() {
    let mut raw = sessions::raw_mutual(short()).await;
    assert_eq!(raw.ask("GET", "/a", b"").await.unwrap().0, StatusCode::OK);
    let ended = raw.worker_ended().await;
    assert!(matches!(ended.reason, Reason::NotRenewed(_)), "{ended:?}");
}

#[tokio::test]
async fn foreign_evidence_in_a_renewal_is_refused_and_the_connection_closed() {
    let mut raw = sessions::raw_mutual(Settings::default()).await;
    let (status, challenge) = raw.ask("POST", "/.chrysalis/renew", b"").await.unwrap();
    assert_eq!(status, StatusCode::OK);
    // Right in all but one thing: it speaks of another connection of the same proxy.
    let foreign = raw.answer_on_another_connection(&challenge).await;
    let answered = raw.ask("POST", "/.chrysalis/renew", &foreign).await;
    assert!(answered.is_err() || answered.unwrap().0 == StatusCode::FORBIDDEN);
    let ended = raw.worker_ended().await;
    assert!(matches!(ended.reason, Reason::Refused(_)), "{ended:?}");
}

#[tokio::test]
async fn a_challenge_of_a_renewal_is_good_for_one_answer() {
    let mut raw = sessions::raw_mutual(Settings::default()).await;
    assert_eq!(raw.ask("POST", "/.chrysalis/renew", b"unasked").await.unwrap().0, StatusCode::CONFLICT);
    let (_, challenge) = raw.ask("POST", "/.chrysalis/renew", b"").await.unwrap();
    let evidence = raw.answer(&challenge).await;
    assert_eq!(raw.ask("POST", "/.chrysalis/renew", &evidence).await.unwrap().0, StatusCode::NO_CONTENT);
    assert_eq!(raw.ask("POST", "/.chrysalis/renew", &evidence).await.unwrap().0, StatusCode::CONFLICT);
    // Asked anew, the old answer is a replay.
    raw.ask("POST", "/.chrysalis/renew", b"").await.unwrap();
    let _ = raw.ask("POST", "/.chrysalis/renew", &evidence).await;
    let ended = raw.worker_ended().await;
    assert!(matches!(ended.reason, Reason::Refused(_)), "{ended:?}");
}

#[tokio::test]
async fn bytes_that_are_no_connection_preface_end_the_session() {
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64]] {
        let ended = sessions::raw_bytes(bytes).await;
        assert!(matches!(ended.reason, Reason::Broken(_)), "{ended:?}");
    }
}

#[tokio::test]
async fn requests_without_a_driver_fail_and_do_not_hang() {
    let (_stop, stopping) = watch::channel(false);
    let (requests, driver, _worker) = sessions::client(stopping).await;
    driver.abort();
    assert!(driver.await.is_err());
    assert!(matches!(requests.send(get("/a")).await, Err(RequestError::Ended)));
}

#[tokio::test]
async fn a_proof_that_expires_ends_the_session_before_it_is_overdue() {
    let pair = Pair::one_way(Settings::default()).await;
    let expires = pair.requests.peer().unwrap().expires().unwrap();
    let pair = Pair::one_way_at(expires - 2).await;
    let (client, _) = pair.ended().await;
    let Reason::Distrusted(refusal) = &client.reason else { panic!("{client:?}") };
    assert!(matches!(**refusal, Refusal::Expired { .. }), "{refusal}");
}

#[tokio::test]
async fn a_lost_sender_of_stop_is_a_stop() {
    let (stop, stopping) = watch::channel(false);
    let (requests, ended, _worker) = sessions::client(stopping).await;
    drop(stop);
    assert!(matches!(ended.await.unwrap().reason, Reason::Stopped));
    assert!(requests.is_over());
}
