//! The routes as a client sees them, over workers that are played: unpaid, and with books.

use super::*;
use crate::books::Kept;
use crate::play::{Boot, MODEL, MOST, PRICE, Purse, WORKER};
use crate::registry::{Newcomer, Place};
use crate::router::Model;
use axum::{Router, http};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use payment::receipt::{End, Receipt};
use payment::{Signed, Use, Voucher};
use protocol::market::{Blob, PaymentError};
use protocol::openai::{ErrorBody, ModelList};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What comes of a worker, piece by piece.
#[derive(Clone, Debug)]
enum Part {
    Data(&'static str),
    /// So many bytes.
    Long(usize),
    /// The trailer `chrysalis-usage`.
    Usage(&'static str),
    /// The stream is reset.
    Break,
    /// Nothing, for ever.
    Hang,
}

/// One answer of a worker; `None` for one that is gone.
#[derive(Clone, Debug)]
struct Play {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    parts: Vec<Part>,
}

const JSON: (&str, &str) = ("content-type", "application/json");
const SSE: (&str, &str) = ("content-type", "text/event-stream");

fn says(status: u16, text: &'static str) -> Option<Play> {
    Some(Play { status, headers: vec![JSON, ("retry-after", "7")], parts: vec![Part::Data(text)] })
}

fn json(parts: Vec<Part>) -> Option<Play> {
    Some(Play { status: 200, headers: vec![JSON], parts })
}

fn stream(parts: Vec<Part>) -> Option<Play> {
    Some(Play {
        status: 200,
        headers: vec![SSE, ("chrysalis-tokens", "7,0"), ("chrysalis-load", "1,0")],
        parts,
    })
}

#[derive(Clone)]
struct Fake {
    play: Option<Play>,
    seen: Arc<Mutex<Vec<http::request::Parts>>>,
}

impl Fake {
    fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

impl Way for Fake {
    fn is_draining(&self) -> bool {
        false
    }
}

impl Upstream for Fake {
    async fn send(&self, request: hyper::Request<Full<Bytes>>) -> Option<hyper::Response<Body>> {
        self.seen.lock().unwrap().push(request.into_parts().0);
        let play = self.play.clone()?;
        let mut response = hyper::Response::builder().status(play.status);
        for (name, value) in play.headers {
            response = response.header(name, value);
        }
        Some(response.body(Body::new(Tape(play.parts.into()))).unwrap())
    }

    fn proof(&self) -> Proof {
        Proof { release: [3; 32], evidence: [4; 32] }
    }
}

struct Tape(VecDeque<Part>);

impl hyper::body::Body for Tape {
    type Data = Bytes;
    type Error = std::io::Error;
    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let tape = &mut self.get_mut().0;
        if matches!(tape.front(), Some(Part::Hang)) {
            return Poll::Pending;
        }
        Poll::Ready(tape.pop_front().map(|part| match part {
            Part::Data(text) => Ok(Frame::data(text.into())),
            Part::Long(length) => Ok(Frame::data(vec![b'x'; length].into())),
            Part::Usage(text) => {
                let mut trailers = http::HeaderMap::new();
                trailers.insert("chrysalis-usage", text.parse().unwrap());
                Ok(Frame::trailers(trailers))
            }
            Part::Break | Part::Hang => Err(std::io::ErrorKind::ConnectionReset.into()),
        }))
    }
}

/// A proxy with workers that all have the model `m`, and play this.
struct Stage {
    router: Router,
    front: Arc<Front<Fake>>,
    workers: Vec<Fake>,
    _places: Vec<Place<Fake>>,
    boot: Option<Boot>,
}

fn stage(plays: Vec<Option<Play>>, boot: Option<Boot>) -> Stage {
    let registry = Arc::new(Registry::default());
    if boot.is_some() {
        registry.set_prices([(MODEL, PRICE)].into());
    }
    let (mut workers, mut places) = (Vec::new(), Vec::new());
    for (n, play) in plays.into_iter().enumerate() {
        let worker = Fake { play, seen: Arc::default() };
        let models = vec![Model { name: "m".into(), root: MODEL }];
        let newcomer = Newcomer { name: [n as u8; 32], models, wallet: Some(WORKER) };
        let place = registry.join(newcomer, worker.clone()).unwrap();
        place.heard(&crate::play::facts());
        places.push(place);
        workers.push(worker);
    }
    let front = Arc::new(Front::new(registry, boot.as_ref().map(|boot| boot.money.clone())));
    Stage { router: crate::routes(front.clone()), front, workers, _places: places, boot }
}

fn unpaid(plays: Vec<Option<Play>>) -> Stage {
    stage(plays, None)
}

fn paid(plays: Vec<Option<Play>>) -> (Stage, Purse) {
    let boot = Boot::first();
    let purse = boot.client(1, 1 << 40);
    (stage(plays, Some(boot)), purse)
}

const ASK: &str = r#"{"input":["a secret text"],"model":"m","encoding_format":"base64"}"#;

impl Stage {
    async fn send(&self, method: &str, path: &str, body: &str) -> Response {
        let request = hyper::Request::builder().method(method).uri(path);
        self.call(request.header("authorization", "Bearer secret").body(Body::from(body.to_owned())).unwrap())
            .await
    }

    async fn call(&self, request: hyper::Request<Body>) -> Response {
        TowerToHyperService::new(self.router.clone()).call(request).await.unwrap()
    }

    async fn embed(&self) -> Response {
        self.send("POST", "/v1/embeddings", ASK).await
    }

    /// One paid request of a right client; its number.
    async fn order(&self, purse: &mut Purse) -> (u64, Response) {
        let (number, cap, order) = purse.ask(Sha256::digest(ASK).into());
        let request = hyper::Request::post("/v1/chat/completions")
            .header("chrysalis-vault", crate::money::account(purse.vault).to_string())
            .header("chrysalis-request", number.to_string())
            .header("chrysalis-cap", Blob::new(cap.to_bytes()).to_string())
            .header("chrysalis-order", Blob::new(order.to_bytes()).to_string())
            .header("chrysalis-most", MOST.to_string());
        (number, self.call(request.body(Body::from(ASK)).unwrap()).await)
    }

    /// What the books hold of a vault: used and held.
    async fn books(&self, purse: &Purse) -> (u64, u64) {
        let (vault, money) = (purse.vault, &self.boot.as_ref().unwrap().money);
        let standing = money.books().look(move |desk, _| desk.standing(&vault)).await.unwrap();
        standing.map_or((0, 0), |standing| (standing.used, standing.held))
    }

    async fn kept(&self, purse: &Purse, number: u64) -> Option<Kept> {
        let (vault, money) = (purse.vault, &self.boot.as_ref().unwrap().money);
        money.books().look(move |desk, _| desk.receipt(&vault, number)).await.unwrap()
    }

    fn page(&self) -> String {
        self.front.metrics.page(&Default::default())
    }
}

async fn text_of(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn code_of(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: ErrorBody = serde_json::from_str(&text_of(response).await).unwrap();
    (status, body.error.code.unwrap())
}

/// Body and vouchers of an answer; none without trailers.
async fn whole(response: Response) -> (String, Option<(Signed<Use>, Signed<Receipt>)>) {
    fn voucher<V: Voucher>(trailers: &http::HeaderMap, name: &str) -> Signed<V> {
        let blob: Blob = trailers[name].to_str().unwrap().parse().unwrap();
        Signed::from_bytes(blob.bytes()).unwrap()
    }
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().filter(|trailers| !trailers.is_empty()).cloned();
    let vouchers = trailers.map(|t| (voucher(&t, "chrysalis-use"), voucher(&t, "chrysalis-receipt")));
    (String::from_utf8(collected.to_bytes().to_vec()).unwrap(), vouchers)
}

#[tokio::test]
async fn a_request_reaches_a_worker_whole_and_without_the_clients_headers() {
    let stage = unpaid(vec![says(200, "answer")]);
    let response = stage.embed().await;
    assert_eq!((response.status().as_u16(), response.headers().get("retry-after")), (200, None));
    assert_eq!(text_of(response).await, "answer");
    let seen = stage.workers[0].seen.lock().unwrap();
    assert_eq!(seen[0].uri.path(), "/v1/embeddings");
    let names: Vec<&str> = seen[0].headers.keys().map(header::HeaderName::as_str).collect();
    assert_eq!(names, ["content-type"]);
}

#[tokio::test]
async fn a_worker_that_fails_before_the_first_byte_is_replaced() {
    let early = vec![
        None,
        says(503, "busy"),
        says(500, "failed"),
        json(vec![Part::Break]),
        json(vec![Part::Data("{"), Part::Break]),
        json(vec![]),
        stream(vec![Part::Break]),
        Some(Play {
            status: 200,
            headers: vec![("content-type", "text/html")],
            parts: vec![Part::Data("x")],
        }),
        Some(Play { status: 200, headers: vec![SSE, ("chrysalis-load", "x")], parts: vec![Part::Data("x")] }),
    ];
    for bad in early {
        let stage = unpaid(vec![bad.clone(), bad.clone(), says(200, "good")]);
        let response = stage.embed().await;
        assert_eq!(text_of(response).await, "good", "{bad:?}");
        assert!(stage.workers.iter().all(|worker| worker.asked() == 1));
    }
}

#[tokio::test]
async fn a_workers_own_refusal_is_passed_on_and_no_other_is_asked() {
    let stage = unpaid(vec![says(400, "no"), says(400, "no")]);
    let response = stage.embed().await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (400, "7"));
    assert_eq!(stage.workers.iter().map(Fake::asked).sum::<usize>(), 1);
}

#[tokio::test]
async fn without_a_worker_the_answer_is_503_with_retry_after() {
    let stage = unpaid(vec![says(200, "w")]);
    let other = stage.send("POST", "/v1/embeddings", &ASK.replace("\"m\"", "\"other\"")).await;
    assert_eq!(other.headers()["retry-after"], "1");
    assert_eq!(code_of(other).await, (503, "no_worker".into()));
    assert_eq!(code_of(unpaid(vec![]).embed().await).await, (503, "no_worker".into()));
    assert_eq!(code_of(unpaid(vec![None]).embed().await).await, (503, "no_answer".into()));
}

#[tokio::test]
async fn errors_never_repeat_what_was_sent() {
    let stage = unpaid(vec![]);
    for body in [
        "a secret text",
        r#"{"input":"a secret text"}"#,
        r#"{"model":["a secret text"]}"#,
        r#"{"model":"a secret text"}"#,
        r#"{"model":"m@a secret text"}"#,
    ] {
        let text = text_of(stage.send("POST", "/v1/embeddings", body).await).await;
        assert!(!text.contains("secret"), "{text}");
    }
    assert!(!stage.page().contains("secret"));
}

#[tokio::test]
async fn models_of_all_workers_are_listed_once() {
    let stage = unpaid(vec![None, None]);
    let list: ModelList =
        serde_json::from_str(&text_of(stage.send("GET", "/v1/models", "").await).await).unwrap();
    assert_eq!(list.data.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["m"]);
    assert_eq!(code_of(stage.send("GET", "/v1/chat", "").await).await, (404, "unknown_url".into()));
    assert_eq!(code_of(stage.send("GET", "/v1/embeddings", "").await).await.0, 405);
    assert_eq!(code_of(stage.send("GET", "/chrysalis/v1/terms", "").await).await, (404, "unpaid".into()));
}

#[tokio::test]
async fn answers_under_way_are_counted_until_their_last_byte() {
    let endless = || stream(vec![Part::Data("data: x\n\n"), Part::Hang]);
    let stage = unpaid((0..4).map(|_| endless()).collect());
    let mut held = Vec::new();
    for _ in 0..IN_FLIGHT {
        held.push(stage.embed().await);
    }
    assert!(held.iter().all(|response| response.status() == 200));
    assert_eq!(code_of(stage.embed().await).await, (503, "overloaded".into()));
    held.pop();
    assert_eq!(stage.embed().await.status(), 200);
}

#[tokio::test]
async fn busy_workers_and_a_clients_full_share_are_429_with_retry_after() {
    let hangs = || stream(vec![Part::Data("data: x\n\n"), Part::Hang]);
    let stage = unpaid(vec![hangs()]);
    let held: Vec<_> = futures(&stage, 128).await;
    let busy = stage.embed().await;
    assert!(busy.headers().contains_key("retry-after"));
    assert_eq!(code_of(busy).await, (429, "rate_limit_exceeded".into()));
    drop(held);

    let stage = unpaid((0..4).map(|_| hangs()).collect());
    let _held = futures(&stage, 300).await;
    let from = |connection| {
        let mut request = hyper::Request::post("/v1/embeddings").body(Body::from(ASK)).unwrap();
        request.extensions_mut().insert(Connection(connection));
        stage.call(request)
    };
    let newcomer = from(7).await;
    assert_eq!(newcomer.status(), 200, "somebody else has a share of its own");
    let more = from(0).await;
    assert_eq!(code_of(more).await, (429, "rate_limit_exceeded".into()));
}

async fn futures(stage: &Stage, count: usize) -> Vec<Response> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push(stage.embed().await);
    }
    held
}

#[tokio::test]
async fn what_is_ready_is_passed_on_as_one_piece() {
    let stage = unpaid(vec![stream((0..64).map(|_| Part::Data("data: {\"a\":1}\n\n")).collect())]);
    let mut body = stage.embed().await.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap().len(), 64 * 15);
}

#[tokio::test]
async fn a_paid_stream_ends_with_vouchers_that_the_client_accepts() {
    let events = "data: {\"x\":1}\n\n:c 3,1\n";
    let (stage, mut purse) =
        paid(vec![stream(vec![Part::Data(events), Part::Data("data: [DONE]\n\n"), Part::Usage("7,2,3,1")])]);
    let (number, response) = stage.order(&mut purse).await;
    let (text, vouchers) = whole(response).await;
    assert_eq!(text, format!("{events}data: [DONE]\n\n"));
    let (used, receipt) = vouchers.unwrap();
    let charged = purse.client.settle(number, &used, &receipt).unwrap();
    let said = receipt.voucher;
    assert_eq!((said.tokens.cached, said.tokens.reasoning, said.end), (2, 1, End::Complete));
    assert_eq!((said.release, said.evidence, said.model_root), ([3; 32], [4; 32], MODEL));
    assert_eq!(said.response_hash, <[u8; 32]>::from(Sha256::digest(text)));
    assert_eq!(stage.books(&purse).await, (charged, 0));
    let payout =
        stage.boot.as_ref().unwrap().money.books().look(|desk, _| desk.payout(&WORKER)).await.unwrap();
    assert_eq!(payout.unwrap().voucher.total, charged - charged / 10);
    let page = stage.page();
    assert!(page.contains(&format!("chrysalis_proxy_charged_nanoton_total {charged}\n")), "{page}");
    assert!(page.contains("result=\"complete\"} 1\n"), "{page}");

    let seen = stage.workers[0].seen.lock().unwrap();
    let mut names: Vec<&str> = seen[0].headers.keys().map(header::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["chrysalis-job", "chrysalis-most", "chrysalis-pool", "chrysalis-price", "content-type"]
    );
    assert_eq!(seen[0].headers["chrysalis-price"], "1000000000,10000,5000,20000,20000,1000");
    assert_ne!(seen[0].headers["chrysalis-job"], number.to_string().as_str());
}

#[tokio::test]
async fn a_client_that_leaves_in_a_stream_pays_for_what_was_delivered() {
    let parts = vec![Part::Data("data: a\n\n:c 3,0\ndata: not counted yet\n\n"), Part::Hang];
    let (stage, mut purse) = paid(vec![stream(parts)]);
    let (number, response) = stage.order(&mut purse).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Open));
    drop(body);
    // Until it is on disk it is under way still.
    let (used, receipt) = loop {
        match stage.kept(&purse, number).await {
            Some(Kept::Charged { used, receipt }) => break (used, receipt),
            other => assert_eq!(other, Some(Kept::Open)),
        }
    };
    assert_eq!(receipt.voucher.end, End::Cancelled);
    assert_eq!((receipt.voucher.tokens.prompt, receipt.voucher.tokens.completion), (7, 3));
    assert!(purse.client.settle(number, &used, &receipt).is_ok());
    let path = format!("/chrysalis/v1/receipts/{}/{number}", crate::money::account(purse.vault));
    assert_eq!(stage.send("GET", &path, "").await.status(), 200);
    assert!(stage.page().contains("result=\"cancelled\"} 1\n"));
}

#[tokio::test]
async fn a_client_that_leaves_before_anything_was_counted_pays_nothing() {
    let (stage, mut purse) = paid(vec![stream(vec![Part::Data("data: a\n\n"), Part::Hang])]);
    let (number, response) = stage.order(&mut purse).await;
    drop(response);
    assert_eq!(stage.books(&purse).await, (0, 0));
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Free));
    let path = format!("/chrysalis/v1/receipts/{}/{number}", crate::money::account(purse.vault));
    assert_eq!(code_of(stage.send("GET", &path, "").await).await, (404, "not_charged".into()));
}

/// Lets time pass, as far as timers are concerned; whatever waits for it runs.
async fn pass(time: Duration) {
    tokio::time::pause();
    for _ in 0..time.as_secs() {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    tokio::time::resume();
}

/// What became of a request, once it is no longer under way.
async fn became(stage: &Stage, purse: &Purse, number: u64) -> Kept {
    loop {
        match stage.kept(purse, number).await {
            Some(Kept::Open) => tokio::task::yield_now().await,
            other => return other.expect("it is known"),
        }
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off_and_pays_for_what_was_passed_on() {
    let parts = vec![Part::Data("data: a\n\n:c 3,0\n"), Part::Long(PIECES), Part::Long(PIECES), Part::Hang];
    let (stage, mut purse) = paid(vec![stream(parts)]);
    let (number, response) = stage.order(&mut purse).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    pass(Duration::from_secs(50)).await;
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Open), "it has its time");
    body.frame().await.unwrap().unwrap();
    pass(Duration::from_secs(50)).await;
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Open), "whoever reads slowly reads");
    assert_eq!((stage.front.in_flight(), stage.front.workers.in_flight()), (1, 1));
    pass(Duration::from_secs(30)).await;
    let Kept::Charged { receipt, .. } = became(&stage, &purse, number).await else { panic!("it is charged") };
    assert_eq!((receipt.voucher.end, receipt.voucher.tokens.completion), (End::Cancelled, 3));
    assert_eq!((stage.front.in_flight(), stage.front.workers.in_flight()), (0, 0), "its places are free");
    assert!(body.frame().await.unwrap().is_err(), "the stream is reset");
}

/// More than is passed on as one piece.
const PIECES: usize = 80 * 1024;

#[tokio::test]
async fn a_client_that_waits_for_its_worker_is_not_cut_off() {
    let (stage, mut purse) = paid(vec![stream(vec![Part::Data("data: a\n\n:c 3,0\n"), Part::Hang])]);
    let (number, response) = stage.order(&mut purse).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { body.frame().await.is_some() });
    tokio::task::yield_now().await;
    pass(Duration::from_secs(100)).await;
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Open));
    // The worker's own time is over first.
    pass(Duration::from_secs(30)).await;
    assert!(waiting.await.unwrap());
    assert_eq!(became(&stage, &purse, number).await, Kept::Free);
}

#[tokio::test]
async fn whoever_takes_a_whole_answer_and_not_its_vouchers_has_paid() {
    let (stage, mut purse) = paid(vec![json(vec![Part::Data("{}"), Part::Usage("5,0,2,0")])]);
    let (number, response) = stage.order(&mut purse).await;
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "{}");
    drop(body);
    let Kept::Charged { receipt, .. } = became(&stage, &purse, number).await else { panic!("it is charged") };
    assert_eq!((receipt.voucher.end, receipt.voucher.tokens.completion), (End::Complete, 2));

    // And who does not even take it has not, nor holds a place for longer than whoever reads nothing.
    let (number, response) = stage.order(&mut purse).await;
    pass(Duration::from_secs(80)).await;
    assert_eq!(became(&stage, &purse, number).await, Kept::Free);
    assert_eq!((stage.front.in_flight(), stage.front.workers.in_flight()), (0, 0));
    drop(response);
}

#[tokio::test]
async fn a_long_answer_that_is_left_costs_what_was_read_for_it() {
    let long = Play {
        status: 200,
        headers: vec![JSON, ("chrysalis-tokens", "9,0")],
        parts: vec![Part::Long(300 * 1024), Part::Hang],
    };
    let (stage, mut purse) = paid(vec![Some(long)]);
    let (number, response) = stage.order(&mut purse).await;
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    let Kept::Charged { receipt, .. } = became(&stage, &purse, number).await else { panic!("it is charged") };
    let tokens = receipt.voucher.tokens;
    assert_eq!((receipt.voucher.end, tokens.prompt, tokens.completion), (End::Cancelled, 9, 0));
}

#[tokio::test]
async fn a_worker_that_fails_in_a_stream_costs_the_client_nothing_and_says_so() {
    let begun = || Part::Data("data: a\n\n:c 3,0\n");
    let bad = [
        vec![begun(), Part::Break],
        vec![begun()],
        vec![begun(), Part::Usage("nonsense")],
        vec![begun(), Part::Usage("101,0,3,0")],
        vec![begun(), Part::Usage("7,0,101,0")],
        vec![begun(), Part::Usage("7,0,2,0")],
        vec![begun(), Part::Data(":c 2,0\n"), Part::Hang],
        vec![begun(), Part::Data(":c 99,2\n"), Part::Hang],
        vec![begun(), Part::Long(17 * 1024 * 1024), Part::Hang],
    ];
    for parts in bad {
        let what = format!("{parts:?}");
        // Where all of it is ready at once nothing was passed on yet: the wrong part comes later here.
        let (stage, mut purse) = paid(vec![stream(parts)]);
        let (number, response) = stage.order(&mut purse).await;
        assert_eq!(response.status(), 200);
        let (text, vouchers) = whole(response).await;
        assert!(text.ends_with("\n\n") && text.contains("worker_failed"), "{what}: {text}");
        assert!(vouchers.is_none(), "{what}");
        assert_eq!(stage.books(&purse).await, (0, 0), "{what}");
        assert_eq!(stage.kept(&purse, number).await, Some(Kept::Free), "{what}");
        assert!(stage.page().contains("result=\"broken\"} 1\n"), "{what}");
    }
}

#[tokio::test]
async fn a_short_answer_without_right_usage_is_another_workers_to_give() {
    let bad = [
        vec![Part::Data("{}")],
        vec![Part::Data("{}"), Part::Usage("1,0")],
        vec![Part::Data("{}"), Part::Usage("101,0,0,0")],
        vec![Part::Data("{}"), Part::Usage("4294967296,0,0,0")],
    ];
    for parts in bad {
        let good = json(vec![Part::Data("{}"), Part::Usage("5,0,0,0")]);
        let (stage, mut purse) = paid(vec![json(parts), good]);
        let (number, response) = stage.order(&mut purse).await;
        let (_, vouchers) = whole(response).await;
        let (used, receipt) = vouchers.unwrap();
        assert_eq!(receipt.voucher.tokens.prompt, 5);
        assert!(purse.client.settle(number, &used, &receipt).is_ok());
        assert!(stage.page().contains("outcome=\"fault\"} 1\n"), "{}", stage.page());
    }
}

#[tokio::test]
async fn a_worker_that_is_owed_too_much_is_paid_again_and_another_one_asked() {
    let good = json(vec![Part::Data("{}"), Part::Usage("5,0,0,0")]);
    let (stage, mut purse) = paid(vec![says(402, "unpaid"), good]);
    let (_, response) = stage.order(&mut purse).await;
    assert!(whole(response).await.1.is_some());
    assert!(stage.page().contains("outcome=\"fault\"} 0\n"), "it did nothing wrong");
}

#[tokio::test]
async fn a_request_that_nobody_answers_gives_its_hold_back() {
    let (stage, mut purse) = paid(vec![None, says(503, "busy")]);
    let (number, response) = stage.order(&mut purse).await;
    assert_eq!(code_of(response).await, (503, "no_answer".into()));
    assert_eq!(stage.books(&purse).await, (0, 0));
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Free));
}

#[tokio::test]
async fn payment_that_is_missing_or_too_low_is_402_and_says_what_would_do() {
    let (stage, mut purse) = paid(vec![says(200, "w")]);
    assert_eq!(code_of(stage.embed().await).await, (402, "payment_required".into()));
    let poor = stage.boot.as_ref().unwrap().client(2, 1);
    let (_, cap, order) = purse.ask(Sha256::digest(ASK).into());
    let request = |vault, cap: &str| {
        let request = hyper::Request::post("/v1/embeddings").header("chrysalis-request", "1");
        let request = request.header("chrysalis-vault", crate::money::account(vault).to_string());
        let request = request.header("chrysalis-order", Blob::new(order.to_bytes()).to_string());
        let request = if cap.is_empty() { request } else { request.header("chrysalis-cap", cap) };
        request.header("chrysalis-most", MOST.to_string()).body(Body::from(ASK)).unwrap()
    };
    let without = stage.call(request(purse.vault, "")).await;
    assert_eq!(without.status(), 402);
    let said: PaymentError = serde_json::from_str(&text_of(without).await).unwrap();
    assert_eq!(said.needed.unwrap().cap, Some(cap.voucher.cap));
    let other = stage.call(request(poor.vault, "")).await;
    assert_eq!(code_of(other).await, (401, "bad_order".into()));
    let nowhere = payment::Address { workchain: 0, hash: [99; 32] };
    assert_eq!(code_of(stage.call(request(nowhere, "")).await).await, (402, "payment_required".into()));
    assert_eq!(code_of(stage.call(request(purse.vault, "?")).await).await, (400, "invalid_header".into()));
    assert_eq!(stage.workers[0].asked(), 0);
}

#[tokio::test]
async fn a_full_disk_is_503_and_nothing_is_sent() {
    let (stage, mut purse) = paid(vec![json(vec![Part::Data("{}"), Part::Usage("5,0,0,0")])]);
    whole(stage.order(&mut purse).await.1).await;
    stage.boot.as_ref().unwrap().tape.room(0);
    let (_, response) = stage.order(&mut purse).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(code_of(response).await, (503, "no_log_space".into()));
    assert_eq!(stage.workers[0].asked(), 1);
}

#[tokio::test]
async fn a_disk_that_fills_while_a_worker_answers_keeps_the_vouchers_until_there_is_room() {
    let parts = vec![Part::Data("data: a\n\n:c 3,0\n"), Part::Usage("7,0,3,0")];
    let (stage, mut purse) = paid(vec![stream(parts)]);
    let (number, response) = stage.order(&mut purse).await;
    stage.boot.as_ref().unwrap().tape.room(0);
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().unwrap().into_data().unwrap().starts_with(b"data: a"));
    let waiting = tokio::spawn(async move { body.frame().await });
    while stage.boot.as_ref().unwrap().money.books().standing().writes {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.kept(&purse, number).await, Some(Kept::Open));
    assert!(!waiting.is_finished(), "an end without vouchers would say that it is free");
    stage.boot.as_ref().unwrap().tape.room(1 << 20);
    assert!(waiting.await.unwrap().unwrap().unwrap().is_trailers(), "its vouchers, once they are on disk");
    assert!(matches!(stage.kept(&purse, number).await, Some(Kept::Charged { .. })));
}

#[tokio::test]
async fn what_is_said_of_money_reads_as_the_market_has_it() {
    let (stage, mut purse) = paid(vec![json(vec![Part::Data("{}"), Part::Usage("5,0,0,0")])]);
    whole(stage.order(&mut purse).await.1).await;
    async fn get<T: market::Body>(stage: &Stage, path: &str) -> T {
        let response = stage.send("GET", path, "").await;
        assert_eq!(response.status(), 200, "{path}");
        market::read(text_of(response).await.as_bytes()).unwrap()
    }
    let vault = crate::money::account(purse.vault);
    let terms: market::Terms = get(&stage, "/chrysalis/v1/terms").await;
    assert_eq!((terms.phase, terms.epoch, terms.models[0].workers), (market::Phase::Active, 1, 1));
    assert_eq!(terms.models[0].price.unwrap().base, PRICE.base);
    let known: market::VaultTerms = get(&stage, &format!("/chrysalis/v1/vaults/{vault}")).await;
    assert!(known.used > 0 && known.floor == known.used && known.last_use.is_some());
    let claims: market::Claims = get(&stage, "/chrysalis/v1/claims").await;
    assert_eq!((claims.claims[0].vault, claims.claims[0].due), (vault, known.used));
    let payouts: market::Payouts =
        get(&stage, &format!("/chrysalis/v1/payouts/{}", crate::money::account(WORKER))).await;
    assert_eq!(payouts.payouts[0].epoch, 1);
    let quote: market::Quote = get(&stage, "/chrysalis/v1/quote?model=m&requests=3&tokens=200").await;
    assert_eq!(quote.total, 3 * quote.charge_per_request);
    let consent: market::Consent = get(&stage, "/chrysalis/v1/session").await;
    assert!(consent.session.is_none(), "it is registered already");
    let nobody = format!("/chrysalis/v1/vaults/0:{}", "99".repeat(32));
    assert_eq!(code_of(stage.send("GET", &nobody, "").await).await, (404, "no_vault".into()));
}
