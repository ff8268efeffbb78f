//! What clients ask a worker for, from the body's bytes to the tokens of a prompt, with the toy model of `ci/toy`.

use crate::{MEMORY, Target};
use engine::{Generator, Time};
use std::path::PathBuf;
use std::sync::LazyLock;
use worker::{Ask, AskVectors, MAX_INPUTS};

/// Bodies of `/v1/chat/completions`, through the toy's template and tokenizer.
pub const CHAT: Target = Target { name: "worker_chat", run: run_chat, seeds: seeds_chat, memory: MEMORY };
/// Bodies of `/v1/completions`, through the toy's tokenizer.
pub const TEXT: Target = Target { name: "worker_text", run: run_text, seeds: seeds_text, memory: MEMORY };
/// Bodies of `/v1/embeddings`.
pub const VECTORS: Target =
    Target { name: "worker_vectors", run: run_vectors, seeds: seeds_vectors, memory: MEMORY };

/// The toy, loaded once: by the seeds, so that no input is charged for it.
static TOY: LazyLock<Generator> = LazyLock::new(|| {
    let checkout = std::env::var_os("CHRYSALIS_CHECKOUT").map(PathBuf::from);
    let checkout = checkout.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../..").into());
    Generator::open(&checkout.join("ci/toy/data/model")).unwrap_or_else(|error| panic!("the toy: {error}"))
});
/// A day of November 2026, for templates that ask.
const NOW: Time = Time(1_795_000_000);

fn run_chat(bytes: &[u8]) -> bool {
    Ask::chat(bytes, 7).is_ok_and(prepared)
}

fn run_text(bytes: &[u8]) -> bool {
    Ask::text(bytes, 7).is_ok_and(prepared)
}

/// What is accepted fits the model, and what is refused is the request's fault.
fn prepared(ask: Ask) -> bool {
    match TOY.prepare(ask.request, Some(NOW)) {
        Ok(prepared) => {
            let (prompt, answer) = (prepared.prompt_tokens(), prepared.max_tokens());
            assert!(prompt > 0 && answer > 0, "{prompt} and {answer} tokens");
            assert!(prompt + answer <= TOY.facts().context, "{prompt} and {answer} tokens");
            true
        }
        Err(error) => {
            assert!(error.is_request_fault(), "{error}");
            false
        }
    }
}

fn run_vectors(bytes: &[u8]) -> bool {
    let ask = AskVectors::parse(bytes);
    if let Ok(ask) = &ask {
        assert!((1..=MAX_INPUTS).contains(&ask.texts.len()) && ask.texts.iter().all(|text| !text.is_empty()));
    }
    ask.is_ok()
}

fn seeds_chat() -> Vec<Vec<u8>> {
    LazyLock::force(&TOY);
    let one = r#"{"model":"toy","messages":[{"role":"user","content":"Who are you?"}]"#;
    let settings = r#","temperature":0.5,"top_p":0.9,"top_k":7,"min_p":0.1,"frequency_penalty":1,"presence_penalty":-1,
        "repetition_penalty":1.1,"logit_bias":{"5":-100,"2047":1e1},"seed":-1,"n":3,"stop":["a","\u00e4"],
        "max_completion_tokens":5,"logprobs":true,"top_logprobs":2,"stream":true,"stream_options":{"include_usage":true},
        "prompt_cache_key":"0123456789abcdef","response_format":{"type":"text"}}"#;
    let tools = r#","tools":[{"type":"function","function":{"name":"get_weather","description":"The weather of a city",
        "parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}],"tool_choice":"auto",
        "chat_template_kwargs":{"enable_thinking":false}}"#;
    let turns = r#"{"model":"toy","messages":[
        {"role":"developer","content":[{"type":"text","text":"Be "},{"type":"text","text":"short."}]},
        {"role":"user","content":"a\tb \ud83e\udd8b 1234 <|im_end|>"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function",
            "function":{"name":"f","arguments":"{\"z\":1,\"a\":[2,null]}"}}]},
        {"role":"tool","tool_call_id":"1","content":"3"},{"role":"user","content":"?"}],"stop":"x"}"#;
    let texts = [format!("{one}}}"), format!("{one}{settings}"), format!("{one}{tools}"), turns.into()];
    texts.map(String::into_bytes).into()
}

fn seeds_text() -> Vec<Vec<u8>> {
    LazyLock::force(&TOY);
    [
        r#"{"model":"toy","prompt":"The worker's 3 models, na\u00efve \u4e16\u754c","max_tokens":8}"#,
        r#"{"model":"toy","prompt":[261,138,5,2047],"logprobs":5,"n":2,"best_of":2,"seed":-9223372036854775808}"#,
        r#"{"model":"toy","prompt":["  \r\n\n  don't"],"suffix":"","echo":false,"stop":["\n"],"stream":true}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

fn seeds_vectors() -> Vec<Vec<u8>> {
    [
        r#"{"model":"m","input":"one text","encoding_format":"float"}"#,
        r#"{"model":"m","input":["one","\u0000 two"],"encoding_format":"base64","user":"u"}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}
