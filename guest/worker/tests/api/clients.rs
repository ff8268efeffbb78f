//! OpenAI's own clients, unmodified, against the worker's routes: the Python one and the JavaScript one, locked by hash in
//! `ci/clients`. The same scripts ask the gateway in `host/client/tests/gateway`, which says what the variables name.

use crate::embeddings::Letters;
use crate::script::desk;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use worker::{Entry, Models, router};

fn named(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok();
    if value.is_none() {
        eprintln!("SKIPPED: {variable} is not set; `cargo xtask test` sets it");
    }
    value
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/clients").join(name)
}

fn python() -> Option<Command> {
    let mut python = Command::new("python3");
    // No bytecode in the folder of wheels.
    python.arg("-B").arg(script("ask.py")).env("PYTHONPATH", named("CHRYSALIS_OPENAI_PYTHON")?);
    Some(python)
}

fn javascript() -> Option<Command> {
    let modules = named("CHRYSALIS_OPENAI_NODE")?;
    let mut node = Command::new(named("CHRYSALIS_NODE")?);
    node.arg(script("ask.mjs")).arg(modules);
    Some(node)
}

/// Runs commands against an address in one process.
async fn run(mut app: Command, address: SocketAddr, commands: &[&str]) -> Vec<Value> {
    for name in commands {
        app.arg(name).arg(format!("http://{address}/v1")).arg("any");
    }
    for proxy in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
        app.env_remove(proxy);
    }
    let output = tokio::task::spawn_blocking(move || app.output()).await.unwrap().expect("it starts");
    let said = serde_json::from_slice(&output.stdout);
    said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

async fn serve(models: Arc<Models>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(models)).await });
    address
}

/// Everything an app does with a worker.
async fn asks_for_everything(app: Command) {
    let (desk, seen) = desk();
    let entries = vec![Entry::writer("little", desk), Entry::embedder("vectors", Letters)];
    let address = serve(Arc::new(Models::new(entries, 1))).await;
    let commands = ["models", "embed", "chat", "complete", "stream", "not_found", "bad_request", "cancel"];
    let said = run(app, address, &commands).await;
    assert_eq!(said[0], json!(["little", "vectors"]));
    // JavaScript has one kind of number.
    assert_eq!(said[1].to_string().replace(".0", ""), "[[1,0.5],[1,0.5],6]");
    assert_eq!(said[2], json!(["a secret question", 9, null, false]));
    assert_eq!(said[3], json!("x"));
    assert_eq!(said[4], json!(["a secret question", 9]));
    assert_eq!(said[5], json!({ "error": "NotFoundError", "status": 404, "code": "model_not_found" }));
    assert_eq!(said[6], json!({ "error": "BadRequestError", "status": 400, "code": "unsupported_value" }));
    assert_eq!(said[7], json!(["nev", "er ", "sto"]));
    // The stream that was left is forgotten.
    while seen.cancelled.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_python_client_works_unmodified() {
    let Some(app) = python() else { return };
    asks_for_everything(app).await;
}

#[tokio::test]
async fn the_javascript_client_works_unmodified() {
    let Some(app) = javascript() else { return };
    asks_for_everything(app).await;
}
