//! A model whose prompts say what happens: an answer is the rest of the last message, a few characters a step.

use engine::{
    ClientId, EngineError, Event, FinishReason, Json, Prompt, Request, RequestId, TokenLogprob, Usage,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use worker::{Desk, Prompted, Turns, Writer};

/// Requests that the script takes at one time.
pub const PLACES: usize = 4;

/// What was seen of requests.
#[derive(Default)]
pub struct Seen {
    pub cancelled: AtomicUsize,
    pub clients: Mutex<Vec<ClientId>>,
    /// While it is true nothing is computed.
    pub held: AtomicBool,
}

pub struct Script(pub Arc<Seen>);

struct Job {
    text: String,
    request: Request,
    tokens: usize,
}

struct Running {
    id: RequestId,
    job: Job,
    /// Characters told; `None` before the start.
    at: Option<usize>,
}

struct Play {
    seen: Arc<Seen>,
    next: u64,
    running: Vec<Running>,
}

pub fn desk() -> (Desk, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    (Desk::open(Arc::new(Script(seen.clone()))).unwrap(), seen)
}

fn last_text(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(tokens) => format!("{} tokens", tokens.len()),
        Prompt::Chat(chat) => {
            let last = chat.messages.last().and_then(|message| message.get("content"));
            last.and_then(Json::as_str).unwrap_or_default().to_string()
        }
    }
}

impl Writer for Script {
    fn context(&self) -> usize {
        64
    }

    fn slots(&self) -> usize {
        PLACES
    }

    fn prepare(&self, request: Request) -> Result<Prompted, EngineError> {
        let text = last_text(&request.prompt);
        let tokens = text.split_whitespace().count().max(1);
        match text.as_str() {
            "refuse" => {
                Err(EngineError::Request { field: "stop".into(), found: "1".into(), expected: "2".into() })
            }
            "long" => Err(EngineError::Context { found: 99, max: 64 }),
            "panic early" => panic!("a text that must not be seen: {text}"),
            _ => Ok(Prompted { tokens, inner: Box::new(Job { text, request, tokens }) }),
        }
    }

    fn turns(&self) -> Result<Box<dyn Turns>, EngineError> {
        Ok(Box::new(Play { seen: self.0.clone(), next: 0, running: Vec::new() }))
    }
}

impl Turns for Play {
    fn submit(&mut self, client: ClientId, prompted: Prompted) -> Result<RequestId, EngineError> {
        if self.running.len() == PLACES {
            return Err(EngineError::Busy { waiting: PLACES });
        }
        let job = *prompted.inner.downcast::<Job>().unwrap();
        self.seen.clients.lock().unwrap().push(client);
        let id = RequestId(self.next);
        self.next += 1;
        self.running.push(Running { id, job, at: None });
        Ok(id)
    }

    fn step(&mut self) -> Vec<Event> {
        std::thread::yield_now();
        if self.seen.held.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut events = Vec::new();
        self.running.retain_mut(|running| running.step(&mut events));
        events
    }

    fn cancel(&mut self, id: RequestId) {
        let before = self.running.len();
        self.running.retain(|running| running.id != id);
        self.seen.cancelled.fetch_add(before - self.running.len(), Ordering::SeqCst);
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    fn load(&self) -> (usize, usize) {
        (self.running.len(), 0)
    }
}

impl Running {
    /// `false` at the end.
    fn step(&mut self, events: &mut Vec<Event>) -> bool {
        let (id, job) = (self.id, &self.job);
        let Some(at) = self.at else {
            self.at = Some(0);
            events.push(Event::Started { id, prompt_tokens: job.tokens, cached_tokens: job.tokens / 2 });
            return true;
        };
        match job.text.as_str() {
            "panic" => panic!("a text that must not be seen: {}", job.text),
            "fail" => events.push(Event::Failed { id, error: EngineError::Logits }),
            "fail later" if at > 0 => events.push(Event::Failed { id, error: EngineError::Logits }),
            // As if it would go on: its words come again and again.
            "never stop" => {
                let piece: String = job.text.chars().cycle().skip(at).take(3).collect();
                events.push(text(id, 0, &piece, at, job));
                self.at = Some(at + 3);
                return true;
            }
            "forever" => {
                (0..job.request.choices).for_each(|choice| events.push(text(id, choice, "tick ", at, job)));
                self.at = Some(at + 5);
                return true;
            }
            _ => return self.tell(at, events),
        }
        false
    }

    fn tell(&mut self, at: usize, events: &mut Vec<Event>) -> bool {
        let (id, job) = (self.id, &self.job);
        let most = job.request.max_tokens.unwrap_or(usize::MAX);
        let piece: String = job.text.chars().skip(at).take(3).collect();
        for choice in 0..job.request.choices {
            if !piece.is_empty() && at / 3 < most {
                events.push(text(id, choice, &piece, at, job));
                continue;
            }
            let completion_tokens = at.div_ceil(3);
            let (prompt_tokens, reasoning_tokens) = (job.tokens, usize::from(job.text.starts_with('<')));
            let usage =
                Usage { prompt_tokens, cached_tokens: job.tokens / 2, completion_tokens, reasoning_tokens };
            let reason = if piece.is_empty() { FinishReason::Stop } else { FinishReason::Length };
            events.push(Event::Finished { id, choice, reason, usage });
        }
        let goes_on = matches!(events.last(), Some(Event::Text { .. }));
        self.at = Some(at + piece.chars().count());
        goes_on
    }
}

fn text(id: RequestId, choice: usize, piece: &str, at: usize, job: &Job) -> Event {
    let token = |alternatives: usize| TokenLogprob {
        id: 7,
        bytes: piece.into(),
        logprob: -0.5,
        top: vec![(8, vec![0xff], f32::NEG_INFINITY); alternatives],
    };
    Event::Text {
        id,
        choice,
        text: piece.into(),
        completion_tokens: at / 3 + 1,
        reasoning_tokens: usize::from(job.text.starts_with('<')),
        tokens: job.request.logprobs.map(token).into_iter().collect(),
    }
}
