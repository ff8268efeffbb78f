//! OpenAI's own clients, unmodified, as apps: the Python one and the JavaScript one, locked by hash in `ci/clients`.
//!
//! `CHRYSALIS_OPENAI_PYTHON` names the folder of the pinned wheels, `CHRYSALIS_OPENAI_NODE` the one that holds the pinned
//! `node_modules`, `CHRYSALIS_NODE` the program; `cargo xtask test` sets them.

use crate::fake::{Fake, MODEL, MODEL_ROOT, PRICE, TON, pool};
use crate::rig::{Rig, limits, settings, until, vault};
use client::gateway::{Outcome, Settings, receipt_of};
use payment::client::Limits;
use payment::price::Tokens;
use payment::receipt::End;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One of the two, with what it needs.
enum App {
    Python(String),
    Node { program: String, modules: String },
}

impl App {
    /// Where a variable doesn't say where it is: `None`, and loudly so.
    fn python() -> Option<Self> {
        named("CHRYSALIS_OPENAI_PYTHON").map(Self::Python)
    }

    fn node() -> Option<Self> {
        let modules = named("CHRYSALIS_OPENAI_NODE")?;
        Some(Self::Node { program: named("CHRYSALIS_NODE")?, modules })
    }

    fn script(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/clients").join(name)
    }

    /// Runs commands, each against a URL with a key, in one process.
    async fn run(&self, commands: &[(&str, &Rig, &str)]) -> Vec<Value> {
        let mut command = match self {
            App::Python(site) => {
                let mut python = Command::new("python3");
                // No bytecode in the folder of wheels.
                python.arg("-B").arg(Self::script("ask.py")).env("PYTHONPATH", site);
                python
            }
            App::Node { program, modules } => {
                let mut node = Command::new(program);
                node.arg(Self::script("ask.mjs")).arg(modules);
                node
            }
        };
        for (name, rig, key) in commands {
            command.arg(name).arg(format!("http://{}/v1", rig.address)).arg(key);
        }
        for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("it starts");
        let said = serde_json::from_slice(&output.stdout);
        said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn named(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        eprintln!("SKIPPED: {variable} is not set; `cargo xtask test` sets it");
    }
    value
}

/// Everything an app does with the gateway.
async fn asks_for_everything(app: &App) {
    let fake = Fake::start(pool(1)).await;
    let rig = Rig::over(&[&fake]).await;
    until(|| !rig.gateway.models().is_empty()).await;
    let key = "any";
    let commands = ["models", "embed", "chat", "complete", "stream", "not_found", "bad_request", "cancel"];
    let said = app.run(&commands.map(|command| (command, &rig, key))).await;
    let vector = json!([1.5, -0.25, 0.5]);
    let pinned = format!("{MODEL}@{}", hex::encode(MODEL_ROOT));
    assert!(said[0].as_array().unwrap().contains(&json!(pinned)), "{said:?}");
    assert_eq!(said[1], json!([vector, vector, 7]));
    let charged = PRICE.charge(&Tokens { prompt: 9, completion: 4, ..Tokens::default() }).unwrap();
    assert_eq!(said[2], json!(["Hello from a fake", 13, charged.to_string(), true]));
    assert_eq!(said[3], json!("Hello from a fake"));
    assert_eq!(said[4], json!(["Hello from a fake", 13]));
    assert_eq!(said[5], json!({ "error": "NotFoundError", "status": 404, "code": "model_not_found" }));
    assert_eq!(said[6], json!({ "error": "BadRequestError", "status": 400, "code": "invalid_n" }));
    assert_eq!(said[7], json!(["Hello", " from", " a"]));
    // The stream that was left is charged for what was delivered.
    until(|| rig.log().len() == 6).await;
    let log = rig.log();
    assert!(log.iter().all(|entry| entry.outcome == Outcome::Settled), "{log:?}");
    let last = receipt_of(log[5].receipt.as_ref().unwrap()).unwrap().voucher;
    assert_eq!(last.end, End::Cancelled);
    assert_eq!(log.iter().map(|entry| entry.charged).sum::<u64>(), fake.used(&vault(0)));
}

/// How refusals look to an app.
async fn is_told_in_its_own_classes(app: &App) {
    let fake = Fake::start(pool(1)).await;
    let guarded = Settings { token: Some(Sha256::digest("right").into()), ..settings() };
    let guarded = Rig::with(&[&fake], guarded, 1000 * TON).await;
    let (second, third) = (Fake::start(pool(2)).await, Fake::start(pool(3)).await);
    let spent = Settings { limits: Limits { per_day: 1, ..limits() }, ..settings() };
    let spent = Rig::with(&[&second], spent, 1000 * TON).await;
    let empty = Rig::with(&[&third], settings(), 1000).await;
    let commands = [
        ("chat", &guarded, "wrong"),
        ("chat", &guarded, "right"),
        ("chat", &spent, "any"),
        ("chat", &empty, "any"),
    ];
    let said = app.run(&commands).await;
    assert_eq!(said[0], json!({ "error": "AuthenticationError", "status": 401, "code": "invalid_api_key" }));
    assert_eq!(said[1][0], "Hello from a fake");
    assert_eq!(said[2], json!({ "error": "RateLimitError", "status": 429, "code": "day_limit" }));
    assert_eq!((&said[3]["status"], &said[3]["code"]), (&json!(402), &json!("vault_empty")));
}

#[tokio::test]
async fn the_python_client_works_unmodified() {
    let Some(app) = App::python() else { return };
    asks_for_everything(&app).await;
    is_told_in_its_own_classes(&app).await;
}

#[tokio::test]
async fn the_javascript_client_works_unmodified() {
    let Some(app) = App::node() else { return };
    asks_for_everything(&app).await;
    is_told_in_its_own_classes(&app).await;
}
