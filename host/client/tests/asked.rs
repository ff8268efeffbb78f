//! A client against a worker in this process: real quotes of a SIMULATED platform, and answers made by hand.

#[path = "../../../guest/ratls/tests/support/mod.rs"]
mod support;

use client::{Client, ClientError, Trust};
use evidence::CheckName;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use protocol::openai::chat::ChatRequest;
use protocol::openai::{EmbeddingInput, EmbeddingRequest};
use ratls::session::{self, End};
use std::convert::Infallible;
use support::{AT, World, world};
use tokio::net::TcpListener;
use tokio::sync::watch;

fn trust(world: &World) -> Trust {
    Trust::new(world.policy.clone(), world.collateral.clone(), world.reference.clone())
}

/// Serves every connection; returns the address.
async fn worker(world: &World) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let acceptor = world.acceptor();
    tokio::spawn(async move {
        let (_stop, stopping) = watch::channel(false);
        loop {
            let Ok(accepted) = acceptor.accept(listener.accept().await.unwrap().0).await else { continue };
            let (end, stop) = (End::new(acceptor.endpoint().clone()), stopping.clone());
            tokio::spawn(async move {
                session::serve(accepted, end, service_fn(reply), stop).await;
            });
        }
    });
    address
}

/// Answers of a worker whose vectors are a text's length; some model names make it misbehave.
async fn reply(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/v1/models" {
        let list =
            r#"{"object":"list","data":[{"id":"m","object":"model","created":0,"owned_by":"chrysalis"}]}"#;
        return Ok(Response::new(list.into()));
    }
    let chat = request.uri().path() == "/v1/chat/completions";
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if chat {
        let ask: ChatRequest<serde_json::Value> = serde_json::from_slice(&body).unwrap();
        let said = ask.messages[0]["content"].as_str().unwrap().to_uppercase();
        let answer = serde_json::json!({
            "id": "1", "object": "chat.completion", "created": 0, "model": ask.model,
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": said }, "finish_reason": "stop" }],
        });
        return Ok(Response::new(answer.to_string().into()));
    }
    let ask: EmbeddingRequest = serde_json::from_slice(&body).unwrap();
    let EmbeddingInput::Many(texts) = ask.input else { panic!("the client sends lists") };
    let object = |(i, text): (usize, &String)| {
        format!(r#"{{"object":"embedding","index":{i},"embedding":[{}.0,0.5]}}"#, text.len())
    };
    let data: Vec<_> = texts.iter().enumerate().map(object).collect();
    let usage = r#"{"prompt_tokens":7,"total_tokens":7}"#;
    let good = format!(r#"{{"object":"list","data":[{}],"model":"m","usage":{usage}}}"#, data.join(","));
    let refusal = r#"{"error":{"message":"no such model; there is: m","type":"invalid_request_error","param":"model","code":"model_not_found"}}"#;
    Ok(match ask.model.as_str() {
        "m" => Response::new(good.into()),
        "short" => Response::new(good.replace(r#""index":1"#, r#""index":0"#).into()),
        "garbage" => Response::new("<html>".into()),
        "huge" => Response::new(vec![b' '; 17 * 1024 * 1024].into()),
        "bare" => Response::builder().status(502).body("bad gateway".into()).unwrap(),
        _ => Response::builder().status(404).body(refusal.into()).unwrap(),
    })
}

#[tokio::test]
async fn a_right_worker_is_appraised_once_and_asked_often() {
    let world = world();
    let mut client = Client::connect(&worker(&world).await, &trust(&world), AT).await.unwrap();
    assert!(client.appraised().verdict().accepted);
    assert!(client.appraised().verdict().table(false).contains("SIMULATED"));

    assert_eq!(client.models().await.unwrap().data[0].id, "m");
    let texts = ["a".to_string(), "bb".to_string()];
    for _ in 0..3 {
        let answer = client.embed("m", &texts).await.unwrap();
        assert_eq!(answer.vectors, [[1.0, 0.5], [2.0, 0.5]]);
        assert_eq!(answer.prompt_tokens, 7);
    }
}

#[tokio::test]
async fn a_message_is_answered_over_the_same_session() {
    let world = world();
    let mut client = Client::connect(&worker(&world).await, &trust(&world), AT).await.unwrap();
    for text in ["one", "two"] {
        let answer = client.chat("m", text, Some(9)).await.unwrap();
        let message = answer.choices[0].message.as_ref().unwrap();
        assert_eq!(message.content, Some(text.to_uppercase()));
    }
}

#[tokio::test]
async fn a_second_connection_pays_no_chain_and_gets_the_same_verdict() {
    let world = world();
    let (address, trust) = (worker(&world).await, trust(&world));
    let first = Client::connect(&address, &trust, AT).await.unwrap();
    assert_eq!((trust.cache.stats().missed, trust.cache.stats().entries), (1, 1));
    let second = Client::connect(&address, &trust.clone(), AT).await.unwrap();
    let stats = trust.cache.stats();
    // A session looks at the kept quote once more when it begins, which the cache counts too.
    assert!(stats.missed == 1 && stats.known + stats.repeated > 0, "{stats:?}");
    // Nothing differs but what is bound to the connection.
    let alike = |client: &Client| {
        let mut verdict = client.appraised().verdict().clone();
        verdict.td.as_mut().unwrap().report_data = evidence::Hex([0; 64]);
        let bound = verdict.checks.iter_mut().find(|check| check.name == CheckName::ReportData).unwrap();
        (bound.expected, bound.actual) = (String::new(), String::new());
        verdict
    };
    assert_eq!(alike(&first), alike(&second));
    assert_ne!(first.appraised().td().report_data, second.appraised().td().report_data);
}

#[tokio::test]
async fn a_known_platform_is_refused_as_before_under_another_trust_with_the_same_cache() {
    let world = world();
    let (address, trust) = (worker(&world).await, trust(&world));
    Client::connect(&address, &trust, AT).await.unwrap();
    let mut other = trust.clone();
    other.reference.releases[0].rtmr2 = other.reference.releases[0].rtmr1;
    let error = Client::connect(&address, &other, AT).await.err().unwrap();
    let failed: Vec<_> = error.verdict().unwrap().failed().map(|check| check.name).collect();
    assert_eq!(failed, [CheckName::Registers]);
    let production = Trust { policy: evidence::Policy::production(), ..trust.clone() };
    assert!(Client::connect(&address, &production, AT).await.err().unwrap().verdict().is_some());
    let expired = Client::connect(&address, &trust, AT + 10 * 365 * 24 * 60 * 60).await.err().unwrap();
    let failed: Vec<_> = expired.verdict().unwrap().failed().map(|check| check.name).collect();
    assert!(failed.contains(&CheckName::CollateralWindow), "{failed:?}");
}

#[tokio::test]
async fn a_worker_of_another_release_is_refused_with_the_whole_verdict() {
    let world = world();
    let mut trust = trust(&world);
    trust.reference.releases[0].rtmr2 = trust.reference.releases[0].rtmr1;
    let error = Client::connect(&worker(&world).await, &trust, AT).await.err().unwrap();
    let verdict = error.verdict().unwrap();
    assert!(!verdict.accepted);
    assert_eq!(verdict.failed().map(|check| check.name).collect::<Vec<_>>(), [CheckName::Registers]);
    assert!(error.to_string().contains("next:"), "{error}");
}

#[tokio::test]
async fn a_simulated_worker_is_refused_under_the_production_policy() {
    let world = world();
    let trust = Trust { policy: evidence::Policy::production(), ..trust(&world) };
    let error = Client::connect(&worker(&world).await, &trust, AT).await.err().unwrap();
    assert!(error.verdict().is_some_and(|verdict| !verdict.accepted), "{error}");
}

#[tokio::test]
async fn nobody_there_and_no_attested_channel_are_told_apart() {
    let world = world();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let plain = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut hello = [0; 64];
        tcp.readable().await.unwrap();
        let _ = tcp.try_read(&mut hello);
        let _ = tcp.try_write(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let error = Client::connect(&address, &trust(&world), AT).await.err().unwrap();
    assert!(matches!(error, ClientError::Channel { .. }) && error.verdict().is_none(), "{error}");
    plain.await.unwrap();

    // The listener is gone now.
    let error = Client::connect(&address, &trust(&world), AT).await.err().unwrap();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.to_string().starts_with(&address), "{error}");
}

#[tokio::test]
async fn what_the_worker_says_and_what_it_should_not_say_are_told_apart() {
    let world = world();
    let address = worker(&world).await;
    let texts = ["a".to_string(), "bb".to_string()];
    let mut client = Client::connect(&address, &trust(&world), AT).await.unwrap();

    let error = client.embed("other", &texts).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Api { status: 404, error, .. } if error.param.as_deref() == Some("model"))
    );
    assert!(error.to_string().ends_with("no such model; there is: m"), "{error}");

    for model in ["short", "garbage", "bare"] {
        let error = client.embed(model, &texts).await.unwrap_err();
        assert!(matches!(error, ClientError::Unexpected { .. }), "{model}: {error}");
    }
    let error = client.embed("huge", &texts).await.unwrap_err();
    assert!(matches!(error, ClientError::Unexpected { .. }), "{error}");
    // The rest of that answer was not read; the connection is none the worse for it.
    assert_eq!(client.embed("m", &texts).await.unwrap().prompt_tokens, 7);
}
