//! The daemon as a process: a small random model, a SIMULATED platform that plays configfs-tsm's files, the service
//! manager's socket and signals.

#[path = "../../engine/tests/common/mod.rs"]
mod model;
#[path = "../../ratls/tests/support/mod.rs"]
mod support;

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use protocol::Attester;
use protocol::openai::{EmbeddingResponse, EmbeddingVector};
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{World, world_with};
use tokio::net::TcpStream;

const CONFIG: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n[[models]]\nname = \"small\"\n\
    root = \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"\ndata_blocks = 1\n";

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chrysalis-worker"));
    let paths = [
        ("--config", "static.toml"),
        ("--runtime-config", "runtime.toml"),
        ("--trust", "trust"),
        ("--progress", "progress"),
        ("--models", "models"),
        ("--tsm", "tsm"),
        ("--ccel", "no-ccel"),
        ("--tpm-log", "tpm-log"),
        ("--runtime", "runtime"),
    ];
    for (option, name) in paths {
        command.arg(option).arg(folder.join(name));
    }
    command.args(["--listen", "127.0.0.1:0"]).env("NOTIFY_SOCKET", folder.join("notify"));
    command.stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

/// Plays the kernel's side of configfs-tsm until told to stop.
fn play(base: &Path, attester: &dyn Attester, stop: &AtomicBool) {
    let (mut made, mut done) = (HashSet::new(), HashSet::new());
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir(base).unwrap().flatten().map(|entry| entry.path()) {
            // An entry may be removed at any moment; what can't be written then is not missed.
            if made.insert(entry.clone()) {
                for (file, text) in
                    [("outblob", ""), ("inblob", ""), ("generation", "0\n"), ("provider", "tdx_guest\n")]
                {
                    let _ = fs::write(entry.join(file), text);
                }
            }
            let asked =
                fs::read(entry.join("inblob")).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
            if let Some(report_data) = asked.filter(|_| done.insert(entry.clone())) {
                let _ = fs::write(entry.join("outblob"), attester.quote(&report_data).unwrap());
                let _ = fs::write(entry.join("generation"), "1\n");
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A worker process and everything around it; killed when dropped.
struct Guest {
    folder: tempfile::TempDir,
    world: World,
    notify: UnixDatagram,
    child: Child,
    stop: Arc<AtomicBool>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root, world) = (folder.path(), world_with(CONFIG.as_bytes()));
        fs::write(root.join("static.toml"), CONFIG).unwrap();
        fs::write(root.join("runtime.toml"), "schema = 1\naddress = \"127.0.0.1/8\"\n").unwrap();
        fs::create_dir(root.join("models")).unwrap();
        // The folder outlives this function: it is moved, not removed.
        fs::rename(model::Folder::random(7).write().keep(), root.join("models/small")).unwrap();
        fs::create_dir(root.join("tsm")).unwrap();
        fs::write(root.join("tpm-log"), world.attester.event_log().unwrap().bytes).unwrap();
        fs::write(root.join("runtime"), world.attester.runtime().unwrap()).unwrap();
        let notify = UnixDatagram::bind(root.join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(120))).unwrap();

        let stop = Arc::new(AtomicBool::new(false));
        let (base, attester, stopping) = (root.join("tsm"), world.attester.clone(), stop.clone());
        std::thread::spawn(move || play(&base, attester.as_ref(), &stopping));
        let child = command(root).spawn().unwrap();
        Guest { folder, world, notify, child, stop }
    }

    fn notified(&self) -> String {
        let mut bytes = [0; 64];
        let n = self.notify.recv(&mut bytes).expect("the daemon speaks to the service manager");
        String::from_utf8_lossy(&bytes[..n]).into()
    }

    async fn embed(&self, address: &str, text: &str) -> EmbeddingResponse {
        let tcp = TcpStream::connect(address).await.unwrap();
        let attested = support::connect(tcp, &self.world.verifier()).await;
        let (_, _, stream) = attested.unwrap().into_parts();
        let (mut requests, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let body = serde_json::json!({ "model": "small", "input": text }).to_string();
        let request = Request::post("/v1/embeddings").header("host", "worker");
        let response = requests.send_request(request.body(Full::<Bytes>::from(body)).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_ready_answers_over_its_own_evidence_and_stops_on_sigterm() {
    let mut guest = Guest::start();
    assert_eq!(guest.notified(), "READY=1");
    let mut log = BufReader::new(guest.child.stderr.take().unwrap());
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("chrysalis-worker: serving 1 model(s) on ").unwrap();

    let answer = guest.embed(address, "red green blue").await;
    let EmbeddingVector::Float(vector) = &answer.data[0].embedding else { panic!("{answer:?}") };
    assert_eq!(vector.len(), model::WIDTH);
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    assert!((length - 1.0).abs() < 1e-5, "{length}");

    let process = rustix::process::Pid::from_child(&guest.child);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(guest.notified(), "STOPPING=1");
    assert!(guest.child.wait().unwrap().success());
    let mut rest = String::new();
    log.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "chrysalis-worker: stopped, 0 connection(s) cut\n");
    assert!(
        fs::read_dir(guest.folder.path().join("tsm")).unwrap().next().is_none(),
        "a report entry was left behind"
    );
}

/// Runs the daemon until it gives up; what it said.
fn refusal(folder: &Path) -> String {
    let output = command(folder).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_daemon_without_its_inputs_says_which_and_what_next() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("static.toml");
    let said = refusal(folder.path());
    assert!(said.contains("static.toml") && said.contains("chrysalis-init writes it"), "{said}");

    fs::write(&config, CONFIG.replace("\"worker\"", "\"proxy\"")).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("expected `worker`"), "{said}");

    fs::write(&config, format!("{CONFIG}surprise = 1\n")).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("surprise") && said.contains("line 8"), "{said}");

    fs::write(&config, CONFIG).unwrap();
    let said = refusal(folder.path());
    assert!(said.contains("model `small`") && said.contains("models/small"), "{said}");
}

#[test]
fn there_is_no_option_beyond_the_paths() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_chrysalis-worker")).args(["--insecure", "yes"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("--insecure: no such option"), "{said}");
}
