//! Peers that do what no right one does, and a disk that is full, with processes: nothing is charged that was not delivered,
//! nothing that was acknowledged is lost, and whoever does wrong is asked less.

use crate::guest::until;
use crate::play::Network;
use crate::scripted::{App, FIRST, MODEL, REST, Scripted, USAGE, ask, opened};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use protocol::channel::Part;
use ratls::session::{self, End};
use ratls::{Endpoint, Wanted};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

const SSE: (&str, &str) = ("content-type", "text/event-stream");
const TOKENS: (&str, &str) = ("chrysalis-tokens", "7,0");

/// What a wrong worker answers: headers, pieces, usage; `None` breaks off.
type Wrong = (&'static [(&'static str, &'static str)], &'static [&'static str], Option<&'static str>);

const WRONGS: [Wrong; 8] = [
    (&[SSE, TOKENS], &[FIRST], None),
    (&[SSE, TOKENS], &[FIRST, REST], Some("7,0,5000,0")),
    (&[SSE, TOKENS], &[FIRST, REST], Some("7,0,4,0")),
    (&[SSE, TOKENS], &[FIRST, REST], Some("garbage")),
    (&[SSE, TOKENS], &[FIRST, ":c 2,0\n"], Some(USAGE)),
    (&[SSE, TOKENS], &[FIRST, ":c 4000,0\n"], Some(USAGE)),
    (&[SSE, TOKENS], &["\u{0}\u{1}garbage, and no event"], None),
    (&[("content-type", "text/html")], &["<p>garbage"], Some(USAGE)),
];

#[test]
fn a_worker_that_answers_garbage_or_breaks_off_costs_nobody_anything_and_is_asked_no_more() {
    let Some((mut network, served)) = opened() else { return };
    let proxy = network.proxies[0].machine.address.unwrap();
    let mut liar = Scripted::new(&mut network, "liar", &served);
    liar.dial(&network, proxy);
    for (headers, pieces, usage) in WRONGS {
        let (app, job) = ask(&network, &liar);
        let answer = job.answers(headers);
        pieces.iter().for_each(|piece| answer.says(piece));
        match usage {
            Some(usage) => answer.took(usage),
            None => answer.breaks(),
        }
        assert!(!app.sees("[DONE]") || !app.ends() || usage.is_some(), "{pieces:?} is a whole answer");
    }
    let outcomes = |name: &str| network.counted(&format!("chrysalis_proxy_jobs_total{{outcome=\"{name}\"}}"));
    assert!(outcomes("fault") >= 6 && outcomes("broke") >= 2 && outcomes("done") == 0);
    network.tend(&network.proxies[0]);
    assert_eq!((network.charged(), network.claimed(), network.vouched_to(&liar.wallet)), (0, 0, 0));

    // Somebody who was never measured is asked before it, each time.
    let mut right = Scripted::new(&mut network, "right", &served);
    right.dial(&network, proxy);
    let mut due = 0;
    for _ in 0..4 {
        let (app, job) = ask(&network, &right);
        due += job.cost(5).0;
        job.is_done();
        assert!(app.ends());
        assert!(liar.soon().is_none(), "the liar is asked still");
    }
    network.tend(&network.proxies[0]);
    assert_eq!(network.claimed(), due);
    assert_eq!(network.vouched_to(&liar.wallet), 0);
    eprintln!("{}", network.books());
}

#[test]
fn who_has_no_money_is_served_nothing_and_a_full_disk_takes_nothing_new_and_loses_nothing() {
    let Some((mut network, served)) = opened() else { return };
    let proxy = network.proxies[0].machine.address.unwrap();
    let mut worker = Scripted::new(&mut network, "worker", &served);
    worker.dial(&network, proxy);
    without_money(&network, proxy, &worker);
    full_disk(&mut network, &mut worker);
    eprintln!("{}", network.books());
}

/// Somebody attests the proxy, and asks without paying; a gateway whose vault is too small asks nobody.
fn without_money(network: &Network, proxy: SocketAddr, worker: &Scripted) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (status, said) = runtime.block_on(async {
        let (me, verifier) = (Arc::new(Endpoint::anonymous()), network.stage.site.verifier());
        let wanted = Wanted::part(Part::Proxy);
        let tcp = tokio::net::TcpStream::connect(proxy).await.unwrap();
        let attested = ratls::connect(tcp, &me, &verifier, &wanted).await.unwrap();
        let (_stop, stopping) = tokio::sync::watch::channel(false);
        let (requests, connection) =
            session::open(attested, End::new(me).verifying(verifier, wanted), stopping);
        tokio::spawn(connection);
        let body = serde_json::json!({ "model": MODEL, "messages": [], "stream": true }).to_string();
        let request = hyper::Request::post("https://proxy/v1/chat/completions");
        let answer = requests.send(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap();
        let status = answer.status().as_u16();
        let said = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&said).into_owned())
    });
    assert!(status == 402 && said.contains("payment_required"), "{status} {said}");
    assert!(worker.soon().is_none(), "nobody worked for it");
}

/// The proxy's log can grow no more, between requests and within one.
fn full_disk(network: &mut Network, worker: &mut Scripted) {
    network.proxies[0].machine.kill();
    network.proxies[0].machine.outlives_limits();
    network.proxies[0].machine.start(&[("--state", "state")]);
    until("the next session's registration", || {
        (network.tend(&network.proxies[0])["epoch"] == 2).then_some(())
    });
    worker.dial(network, network.proxies[0].machine.address.unwrap());
    let mut due = 0;
    let mut whole = |network: &Network| {
        let (app, job) = ask(network, worker);
        due += job.cost(5).0;
        job.is_done();
        assert!(app.ends());
    };
    (0..4).for_each(|_| whole(network));
    // One is under way when the disk is full: it was held for, so it is answered, and charged when there is room.
    let (app, job) = ask(network, worker);
    let later = job.cost(5).0;
    let answer = job.begins(FIRST);
    assert!(app.sees("\"n\":1"));
    let machine = &network.proxies[0].machine;
    machine.limit_files(Some(log_of(network)));
    answer.says(REST);
    answer.took(USAGE);
    assert!(app.sees("[DONE]"), "what was begun is answered");

    let refused = App::asks(network.at, MODEL);
    assert!(refused.sees("no_log_space"), "the refusal says why");
    assert!(worker.soon().is_none(), "nothing is sent that was not held for");
    assert_eq!(network.counted("chrysalis_proxy_log_writes"), 1, "of two proxies' logs one can be written");
    network.tend(&network.proxies[0]);
    assert_eq!(network.claimed(), due, "what was acknowledged is there, and nothing else yet");

    machine.limit_files(None);
    assert!(app.ends(), "its vouchers come when there is room");
    until("the charge that was late", || {
        network.tend(&network.proxies[0]);
        (network.claimed() == due + later).then_some(())
    });
    let (app, job) = ask(network, worker);
    job.is_done();
    assert!(app.ends(), "served again");
}

/// Bytes of the proxy's log without the zeros that it has ready; what else it writes into files is shorter.
fn log_of(network: &Network) -> u64 {
    let machine = &network.proxies[0].machine;
    let logs = fs::read_dir(machine.path("state")).unwrap();
    let written = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
    };
    let length = logs.map(|entry| written(&entry.unwrap().path())).max().unwrap();
    assert!(length > machine.log().len() as u64 + 500, "{length}");
    length
}
