//! A question to the gateway with everything that its receipt is held against afterwards.

use crate::guest::{PATIENCE, until};
use crate::stage::Stage;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;

/// What came of a question.
pub struct Asked {
    /// HTTP status.
    pub status: u16,
    /// The gateway's number of it.
    pub number: u64,
    /// The body that was sent, byte for byte.
    pub request: Vec<u8>,
    /// The body that came back, byte for byte.
    pub answer: Vec<u8>,
}

/// Asks and waits for the whole answer.
pub fn ask(gateway: SocketAddr, path: &str, body: &Value) -> Asked {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    let (agent, request): (ureq::Agent, _) = (config.build().into(), body.to_string().into_bytes());
    let sent = agent.post(format!("http://{gateway}{path}")).content_type("application/json").send(&request);
    let mut came = sent.expect("the gateway answers");
    let number = came.headers().get("chrysalis-request").and_then(|value| value.to_str().ok()?.parse().ok());
    let answer = came.body_mut().read_to_vec().expect("a whole answer");
    Asked { status: came.status().as_u16(), number: number.unwrap_or_default(), request, answer }
}

impl Asked {
    /// The receipt, verified by `chrysalis receipt verify` against request, answer and weights.
    pub fn receipt(&self, stage: &Stage, root: &str) -> Value {
        let said = String::from_utf8_lossy(&self.answer);
        assert_eq!(self.status, 200, "request {} was not answered: {said}", self.number);
        let log = stage.path("gateway/receipts.jsonl");
        let line = until(&format!("the receipt of request {}", self.number), || {
            let lines = fs::read_to_string(&log).ok()?;
            let is_it = |line: &&str| {
                serde_json::from_str::<Value>(line).is_ok_and(|entry| entry["request"] == self.number)
            };
            lines.lines().find(is_it).map(str::to_owned)
        });
        let file = |what: &str, bytes: &[u8]| {
            let name = format!("{}.{what}", self.number);
            fs::write(stage.path(&name), bytes).unwrap();
            name
        };
        let (kept, asked) = (file("receipt", line.as_bytes()), file("request", &self.request));
        let answered = file("answer", &self.answer);
        let against = ["--request", &asked, "--response", &answered, "--model-root", root];
        let verdict = stage.facts(&[&["receipt", "verify", &kept][..], &against].concat());
        assert_eq!(verdict["accepted"], true, "{verdict}");
        verdict["receipt"].clone()
    }

    /// What a chat model said, streamed or not.
    pub fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.answer);
        let content = |text: &str, place: &str| {
            let value = serde_json::from_str::<Value>(text).ok()?;
            Some(value["choices"][0][place]["content"].as_str()?.to_owned())
        };
        let streamed = text.lines().filter_map(|line| content(line.strip_prefix("data: ")?, "delta"));
        content(&text, "message").unwrap_or_else(|| streamed.collect())
    }
}
