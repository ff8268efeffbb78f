//! `tunnel` and `connect` as processes: two of them with SIMULATED platforms of their own, whose configfs-tsm this test plays,
//! and an HTTP/2 client and server that know of no tunnel.

use evidence::Reference;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use release::{State, Tuple};
use serde_json::Value;
use simulator::{Guest, Platform};
use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// When all of this happens, Unix seconds.
const AT: u64 = 1_790_000_000;
const CONFIG: &str = "schema = 1\nrole = \"worker\"\nnetwork = \"local\"\n";

/// A machine on a platform of its own: the files that a guest has, the kernel's side of configfs-tsm, and in `trust` what others
/// hold it against.
struct Machine {
    folder: tempfile::TempDir,
    stop: Arc<AtomicBool>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Machine {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        let platform = Platform::generate(AT).unwrap();
        let guest = Guest::boot(platform.identity().unwrap(), CONFIG.as_bytes(), &[]).unwrap();
        let reference = simulator::reference().unwrap();
        write("static.toml", CONFIG.as_bytes());
        write("log", &guest.event_log().bytes);
        write("runtime", &guest.runtime());
        write("root.der", &platform.root_der().unwrap());
        write("policy.toml", b"schema = 1\nplatform = \"simulated\"\nroot = \"root.der\"\n");
        write("collateral.json", platform.collateral().unwrap().to_json().as_bytes());
        write("reference.json", &serde_json::to_vec(&reference).unwrap());
        fs::create_dir(folder.path().join("tsm")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (base, stopping) = (folder.path().join("tsm"), stop.clone());
        std::thread::spawn(move || play(&base, &guest, &stopping));
        Machine { folder, stop }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().into()
    }

    /// Options of an end that is attested as this machine.
    fn attested(&self) -> Vec<String> {
        let files = [
            ("--static-config", "static.toml"),
            ("--tsm", "tsm"),
            ("--ccel", "no-ccel"),
            ("--tpm-log", "log"),
            ("--runtime-record", "runtime"),
        ];
        files.iter().flat_map(|(option, name)| [(*option).into(), self.path(name)]).collect()
    }

    /// Options of whoever holds something against this machine.
    fn trusted(&self) -> Vec<String> {
        let files = [
            ("--policy", "policy.toml"),
            ("--collateral", "collateral.json"),
            ("--reference", "reference.json"),
        ];
        let options = files.iter().flat_map(|(option, name)| [(*option).into(), self.path(name)]);
        options.chain(["--at".into(), AT.to_string()]).collect()
    }
}

/// Plays the kernel's side of configfs-tsm until told to stop.
fn play(base: &Path, guest: &Guest, stop: &AtomicBool) {
    let (mut made, mut done) = (HashSet::new(), HashSet::new());
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir(base).into_iter().flatten().flatten().map(|entry| entry.path()) {
            // An entry may be removed at any moment; what can't be written then is not missed.
            if made.insert(entry.clone()) {
                let files =
                    [("outblob", ""), ("inblob", ""), ("generation", "0\n"), ("provider", "tdx_guest\n")];
                for (file, text) in files {
                    let _ = fs::write(entry.join(file), text);
                }
            }
            let asked =
                fs::read(entry.join("inblob")).ok().and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
            if let Some(report_data) = asked.filter(|_| done.insert(entry.clone())) {
                let _ = fs::write(entry.join("outblob"), guest.quote(&report_data));
                let _ = fs::write(entry.join("generation"), "1\n");
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// An end of a tunnel that runs; killed when dropped.
struct End {
    child: Child,
    out: BufReader<ChildStdout>,
    address: String,
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    fn start(args: &[&str], options: &[Vec<String>]) -> Result<Self, String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_chrysalis"))
            .args(["--json", "tunnel"])
            .args(args)
            .args(options.concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut end = End { child, out, address: String::new() };
        match end.told("listening") {
            Some(value) => end.address = value["address"].as_str().unwrap().into(),
            None => {
                let mut text = String::new();
                end.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                let code = end.child.wait().unwrap().code();
                return Err(format!("exit code {code:?}: {text}"));
            }
        }
        Ok(end)
    }

    /// The next event of this kind; `None` when the process has ended.
    fn told(&mut self, event: &str) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.out.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            match serde_json::from_str::<Value>(&line) {
                Ok(value) if value["event"] == event => return Some(value),
                _ => {}
            }
        }
    }
}

fn serve(machine: &Machine, service: &str, options: &[Vec<String>]) -> End {
    let all = [&[machine.attested()][..], options].concat();
    End::start(&["serve", "--listen", "127.0.0.1:0", "--to", service], &all).unwrap()
}

fn connect(address: &str, machine: &Machine, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chrysalis"))
        .args(["connect", address])
        .args(machine.trusted())
        .args(if options.contains(&"--part") { &[][..] } else { &["--part", "service"] })
        .args(options)
        .output()
        .unwrap()
}

/// An HTTP/2 server that answers with the body it was sent, and how it was asked.
async fn http2_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move {
                let _ = http.serve_connection(TokioIo::new(tcp), service_fn(reflect)).await;
            });
        }
    });
    address
}

async fn reflect(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let version = format!("{:?}", request.version());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::builder().header("spoken", version).body(Full::new(body)).unwrap())
}

async fn http2_requests(address: &str) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await;
    let (mut requests, connection) = handshake.unwrap();
    tokio::spawn(connection);
    for number in 0..10_u8 {
        let body = Bytes::from(vec![number; 50_000]);
        let request = Request::post("http://service/").body(Full::new(body.clone())).unwrap();
        let response = requests.send_request(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http2_client_talks_to_a_server_through_two_processes() {
    let machine = Machine::start();
    let far = serve(&machine, &http2_server().await, &[]);
    let mut near = End::start(&["dial", &far.address], &[machine.trusted()]).unwrap();
    http2_requests(&near.address).await;
    curl(&near.address);
    // The far end dies: the next program is told so by a reset, and the near end says why.
    drop(far);
    near.told("ended").unwrap();
    assert_eq!(refused_by(&near.address).await, ErrorKind::ConnectionReset);
    // Streams that were open then were cut, and say so before.
    while !near.told("failed").unwrap()["reason"].as_str().unwrap().contains("cannot connect") {}
}

/// How an entrance breaks off a program that it can't carry; that may be before the program knows that it is connected.
async fn refused_by(address: &str) -> ErrorKind {
    match TcpStream::connect(address).await {
        Ok(mut tcp) => tcp.read(&mut [0]).await.unwrap_err().kind(),
        Err(error) => error.kind(),
    }
}

/// The same with a client that others wrote.
fn curl(address: &str) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--http2-prior-knowledge"])
        .args(["--data", "through the tunnel", "--write-out", " over HTTP/%{http_version}"])
        .arg(format!("http://{address}/"))
        .output();
    let Ok(output) = output else { return eprintln!("SKIPPED: no curl on this machine") };
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text, "through the tunnel over HTTP/2", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_attested_ends_hold_each_other_against_what_they_know() {
    let (one, other) = (Machine::start(), Machine::start());
    let service = http2_server().await;
    let mut far = serve(&one, &service, &[vec!["--mutual".into()], other.trusted()]);
    let near = End::start(&["dial", &far.address], &[one.trusted(), other.attested()]).unwrap();
    http2_requests(&near.address).await;
    let let_in = far.told("let_in").unwrap();
    assert_eq!(let_in["peer"]["platform"], "simulated");
    assert_eq!(let_in["peer"]["release"], "simulated release");

    // Who shows nothing, and who is of a platform that the far end does not know.
    for options in [vec![one.trusted()], vec![one.trusted(), one.attested()]] {
        let error = End::start(&["dial", &far.address], &options).err().unwrap();
        assert!(error.contains("Some(2)"), "{error}");
        far.told("turned_away").unwrap();
    }
    drop(near);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_to_another_release_is_not_opened() {
    let (one, other) = (Machine::start(), Machine::start());
    let far = serve(&one, "127.0.0.1:1", &[]);
    let error = End::start(&["dial", &far.address], &[other.trusted()]).err().unwrap();
    assert!(error.contains("Some(1)"), "{error}");
}

#[test]
fn a_tunnel_listens_for_nobody_but_this_machine_and_says_what_it_needs() {
    let machine = Machine::start();
    let open = End::start(&["dial", "127.0.0.1:1", "--listen", "0.0.0.0:0"], &[machine.trusted()]);
    let error = open.err().unwrap();
    assert!(error.contains("Some(2)") && error.contains("loopback"), "{error}");
    let bare = End::start(&["serve", "--listen", "127.0.0.1:0", "--to", "127.0.0.1:1"], &[]);
    let error = bare.err().unwrap();
    assert!(error.contains("Some(2)") && error.contains("--static-config"), "{error}");
}

#[test]
fn connect_shows_checks_registers_and_channel_of_a_live_peer() {
    let machine = Machine::start();
    let far = serve(&machine, "127.0.0.1:1", &[]);
    let output = connect(&far.address, &machine, &["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["accepted"], true);
    assert_eq!(value["platform"], "simulated");
    assert_eq!(value["checks"].as_array().unwrap().len(), 27);
    assert_eq!(value["channel"]["key_exchange"], "X25519MLKEM768");
    assert_eq!(value["channel"]["part"], "service");
    let digest = value["channel"]["release"].as_str().unwrap().to_owned();
    for timing in ["tcp", "evidence", "appraisal"] {
        assert!(value["channel"]["milliseconds"][timing].as_f64().unwrap() > 0.0, "{timing}");
    }

    // By its other name, as scripts know it.
    let verify = ["verify", "--part", "service", "--endpoint", &far.address];
    let verified =
        Command::new(env!("CARGO_BIN_EXE_chrysalis")).args(verify).args(machine.trusted()).output();
    assert_eq!(verified.unwrap().status.code(), Some(0));

    let output = connect(&far.address, &machine, &["--release", "simulated release"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["ACCEPTED: SIMULATED", "mrtd ", "rtmr3 ", "X25519MLKEM768", &digest, "appraisal"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_taken_out_of_the_reference_values_loses_its_tunnel_and_gets_it_back() {
    let machine = Machine::start();
    let far = serve(&machine, &http2_server().await, &[]);
    let named = ["--release".into(), "simulated release".into()];
    let mut near = End::start(&["dial", &far.address], &[machine.trusted(), named.to_vec()]).unwrap();
    http2_requests(&near.address).await;
    let listed = fs::read(machine.path("reference.json")).unwrap();

    fs::write(machine.path("reference.json"), "half of a fi").unwrap();
    assert!(near.told("trust").unwrap()["reason"].as_str().unwrap().contains("reference.json"));
    http2_requests(&near.address).await;

    let mut revoked = Reference::parse(&listed).unwrap();
    revoked.releases[0].name = "the next release".into();
    revoked.releases[0].rtmr2 = revoked.releases[0].rtmr1;
    fs::write(machine.path("reference.json"), serde_json::to_vec(&revoked).unwrap()).unwrap();
    assert!(near.told("trust").unwrap()["reason"].is_null());
    let ended = near.told("ended").unwrap();
    assert!(ended["reason"].as_str().unwrap().contains("no longer trusted"), "{ended}");
    assert_eq!(refused_by(&near.address).await, ErrorKind::ConnectionReset);

    fs::write(machine.path("reference.json"), listed).unwrap();
    near.told("trust").unwrap();
    http2_requests(&near.address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_end_that_is_told_to_stop_finishes_what_is_under_way() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap().to_string();
    let machine = Machine::start();
    let mut far = serve(&machine, &service, &[]);
    let near = End::start(&["dial", &far.address], &[machine.trusted()]).unwrap();
    let mut program = TcpStream::connect(&near.address).await.unwrap();
    program.write_all(b"question").await.unwrap();
    let (mut served, _) = listener.accept().await.unwrap();
    served.read_exact(&mut [0; 8]).await.unwrap();
    // The shell's own `kill`: a small root has no program of that name.
    let kill = format!("kill -TERM {}", far.child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    // It takes nobody any more, and still brings the answer.
    while TcpStream::connect(&far.address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served.write_all(b"answer").await.unwrap();
    drop(served);
    let mut answer = String::new();
    program.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    drop(program);
    assert_eq!(far.child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_weaker_certificate_is_served_to_others_marked_as_such_and_refused_by_us() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let _ = tcp.read(&mut [0; 4096]).await;
            let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhere").await;
        }
    });
    let machine = Machine::start();
    let options = [&machine.attested()[..], &["--weaker-listen".into(), "127.0.0.1:0".into()]].concat();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chrysalis"));
    command.args(["tunnel", "serve", "--listen", "127.0.0.1:0", "--to", &service]).args(options);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.strip_prefix("WEAKER: listening on ").unwrap().split(' ').next().unwrap().to_owned();

    let output = connect(&address, &machine, &["--json"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("2.23.133.5.4.9") && text.contains("not who is at the other end"), "{text}");
    let dialled = End::start(&["dial", &address], &[machine.trusted()]).err().unwrap();
    assert!(dialled.contains("2.23.133.5.4.9"), "{dialled}");

    let asked = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--insecure", &format!("https://{address}/")])
        .output();
    match asked {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "here", "{output:?}"),
        Err(_) => eprintln!("SKIPPED: no curl on this machine"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn connect_refuses_with_1_and_fails_with_2() {
    let (machine, stranger) = (Machine::start(), Machine::start());
    let far = serve(&machine, "127.0.0.1:1", &[]);
    let refused = |options: &[&str], part: &str| {
        let output = connect(&far.address, &machine, &[options, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{options:?}: {text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["accepted"] == false && text.contains(part), "{options:?}: {text}");
    };
    refused(&["--release", &"00".repeat(32)], "simulated release");
    refused(&["--identity", "session=0011"], "identity");
    refused(&["--part", "proxy"], "part");

    let output = connect(&far.address, &stranger, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("REFUSED"));
    for (address, options) in [("127.0.0.1:1", &[][..]), (&far.address, &["--gpu", "sometimes"])] {
        let output = connect(address, &machine, options);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

/// A publication of the SIMULATED guests' release in a folder, with the settings of a consumer who wants this many rebuilders.
fn published(folder: &Path, threshold: u32, state: State) -> Vec<String> {
    let evidence::Release { mrtd, rtmr0, rtmr1, rtmr2, rtmr3, .. } =
        simulator::reference().unwrap().releases.remove(0);
    let mut publication =
        release::samples::publication_of(AT, Tuple { mrtd, rtmr0, rtmr1, rtmr2, rtmr3 }).unwrap();
    if state != State::Active {
        publication.restate(AT, state).unwrap();
    }
    publication.anchor.threshold = threshold;
    publication.anchor.rebuilders.push(release::samples::key(8).unwrap().public());
    for (path, bytes) in &publication.files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    fs::write(folder.join("settings.toml"), publication.anchor.to_toml()).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    ["--publication".into(), text(folder), "--anchor".into(), text(&folder.join("settings.toml"))].into()
}

#[test]
fn a_peer_is_held_against_a_publication_and_one_that_accepts_nothing_connects_to_nobody() {
    let machine = Machine::start();
    let far = serve(&machine, "127.0.0.1:1", &[]);
    let connect = |threshold, state| {
        let folder = tempfile::tempdir().unwrap();
        let files = ["policy.toml", "collateral.json"].map(|name| machine.path(name));
        let output = Command::new(env!("CARGO_BIN_EXE_chrysalis"))
            .args(["connect", &far.address, "--part", "service", "--at", &AT.to_string()])
            .args(["--policy", &files[0], "--collateral", &files[1]])
            .args(published(folder.path(), threshold, state))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(connect(2, State::Active).0, Some(0));
    let (code, said) = connect(4, State::Active);
    assert!(code == Some(2) && said.contains("3 rebuilders") && said.contains("expected 4"), "{said}");
    let (code, said) = connect(2, State::Revoked);
    assert!(code == Some(2) && said.contains("revoked: a hole in the engine"), "{said}");
}
