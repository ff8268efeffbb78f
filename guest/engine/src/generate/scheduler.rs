//! Many requests, one pass at a time.
//!
//! ```text
//! submit -> waiting --(room for its longest answer)--> prompt, chunk by chunk --> one token a step --> finished
//! step:  one token of every answer that runs  +  at most `prefill_chunk` tokens of prompts
//! ```
//! A request is let in when memory holds its prompt and its longest answer, so that nothing that runs is ever thrown out
//! for another one. What a request computes depends on its own tokens and seed; a request that breaks off takes nobody
//! with it, and its memory is free before the call returns.
//!
//! Deliberately absent: threads, clocks, randomness. The caller decides when to step.

use super::blocks::{Blocks, Scope};
use super::event::{ClientId, Event, FinishReason, RequestId};
use super::generator::{Generator, Prepared};
use super::queue::Queue;
use super::sequence::Sequence;
use crate::decoder::{BLOCK, Piece, Runner};
use crate::error::EngineError;
use std::sync::Arc;

/// How much a scheduler takes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes for keys and values.
    pub kv_bytes: usize,
    /// Most choices that run at a time.
    pub sequences: usize,
    /// Most choices that wait.
    pub waiting: usize,
    /// Most prompt tokens of a step.
    pub prefill_chunk: usize,
    /// Who may use a computed beginning again.
    pub sharing: Sharing,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            kv_bytes: 1 << 30,
            sequences: 16,
            waiting: 256,
            prefill_chunk: 256,
            sharing: Sharing::Client,
        }
    }
}

/// Who may use a computed beginning again. Whoever may can also find out, by the time it takes, whether it was computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The choices of one request.
    Request,
    /// All requests of one client.
    Client,
    /// All requests of all clients: for deployments where every client is the same party.
    Everyone,
}

/// How busy a scheduler is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Choices that run.
    pub running: usize,
    /// Choices that wait.
    pub waiting: usize,
    /// Blocks of keys and values that could be given out now.
    pub blocks_free: usize,
    /// All blocks.
    pub blocks_total: usize,
}

/// Runs the requests of one generator.
pub struct Scheduler {
    generator: Arc<Generator>,
    runner: Box<dyn Runner>,
    limits: Limits,
    blocks: Blocks,
    /// Blocks that running choices may come to need.
    promised: usize,
    queue: Queue<Sequence>,
    running: Vec<Sequence>,
    next: u64,
}

impl Scheduler {
    /// Makes room for keys and values.
    ///
    /// # Errors
    /// Limits that leave no room for a single token.
    pub fn new(generator: Arc<Generator>, limits: Limits) -> Result<Self, EngineError> {
        let facts = generator.facts();
        let wanted = limits.kv_bytes / (facts.cached_bytes * BLOCK);
        let useful = limits.sequences.saturating_mul(facts.context.div_ceil(BLOCK));
        let count = wanted.min(useful).min(i32::MAX as usize / BLOCK);
        if count == 0 || limits.sequences == 0 || limits.prefill_chunk == 0 {
            return Err(EngineError::Memory { found: 1, max: 0 });
        }
        let runner = generator.model.clone().runner(count);
        let (queue, running) = (Queue::new(), vec![]);
        Ok(Scheduler {
            generator,
            runner,
            limits,
            blocks: Blocks::new(count),
            promised: 0,
            queue,
            running,
            next: 1,
        })
    }

    /// Takes a request.
    ///
    /// # Errors
    /// More than memory could ever hold, or more waiting than the limits allow.
    pub fn submit(&mut self, client: ClientId, prepared: Prepared) -> Result<RequestId, EngineError> {
        let tokens = prepared.tokens.len() + prepared.max_tokens;
        if tokens.div_ceil(BLOCK) > self.blocks.total() {
            return Err(EngineError::Memory { found: tokens, max: self.blocks.total() * BLOCK });
        }
        if self.queue.waiting() + prepared.choices > self.limits.waiting {
            return Err(EngineError::Busy { waiting: self.queue.waiting() });
        }
        let id = RequestId(self.next);
        self.next += 1;
        let scope = match self.limits.sharing {
            Sharing::Request => Scope::Request(id.0),
            Sharing::Client => Scope::Client(client.0),
            Sharing::Everyone => Scope::Everyone,
        };
        for choice in 0..prepared.choices {
            self.queue.push(client, Sequence::new(id, choice, client, scope, &prepared));
        }
        Ok(id)
    }

    /// Breaks a request off; its memory is free when this returns, and no event of it follows. False: it is not here.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let waited = self.queue.remove(|sequence| sequence.id == id);
        let (gone, kept) = std::mem::take(&mut self.running).into_iter().partition(|s| s.id == id);
        self.running = kept;
        let gone: Vec<Sequence> = gone;
        let ran = gone.len();
        gone.into_iter().for_each(|sequence| self.leave(sequence));
        waited + ran > 0
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.waiting() == 0
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len(),
            waiting: self.queue.waiting(),
            blocks_free: self.blocks.available(),
            blocks_total: self.blocks.total(),
        }
    }

    /// Computes one pass and says what came of it. Nothing is computed, and nothing said, when it is idle.
    pub fn step(&mut self) -> Vec<Event> {
        let mut events = self.admit();
        let work = self.plan();
        if work.is_empty() {
            return events;
        }
        let rows = self.compute(&work);
        let (mut ended, mut failed) = (vec![], vec![]);
        for ((index, len), row) in work.iter().zip(rows) {
            let sequence = &mut self.running[*index];
            let wanted = sequence.is_last(*len);
            let row = match row {
                // Without an early exit: a vocabulary is long, and all of it is looked at as a rule.
                Ok(row) if row.iter().fold(true, |all, logit| all & logit.is_finite()) => row,
                Ok(_) => {
                    failed.push((sequence.id, EngineError::Logits));
                    continue;
                }
                Err(error) => {
                    failed.push((sequence.id, error));
                    continue;
                }
            };
            self.queue.serve(sequence.client, if sequence.is_prompt() { *len } else { 2 * len });
            sequence.computed(*len, &mut self.blocks);
            if wanted && sequence.advance(&self.generator, &row, &mut events) {
                ended.push((sequence.id, sequence.choice));
            }
        }
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|s| ended.contains(&(s.id, s.choice)));
        self.running = kept;
        gone.into_iter().for_each(|sequence| self.leave(sequence));
        for (id, error) in failed {
            // Once a request, however many of its choices failed.
            if self.cancel(id) {
                events.push(Event::Failed { id, error });
            }
        }
        events
    }

    /// One pass over all work: the logits of each piece, none where they are not asked for. If it fails, each piece is
    /// computed alone, so that what is wrong with one request ends that one only; keys are written again as they were.
    fn compute(&mut self, work: &[(usize, usize)]) -> Vec<Result<Vec<f32>, EngineError>> {
        let pieces: Vec<Piece<'_>> =
            work.iter().map(|(index, len)| self.running[*index].piece(*len)).collect();
        match self.runner.forward(&pieces) {
            Ok(logits) => {
                let mut rows = logits.chunks_exact(self.generator.facts().vocabulary);
                let row = |piece: &Piece<'_>| piece.logits.then(|| rows.next()).flatten().unwrap_or_default();
                pieces.iter().map(row).map(|row| Ok(row.to_vec())).collect()
            }
            Err(error) if pieces.len() == 1 => vec![Err(error)],
            Err(_) => pieces.iter().map(|piece| self.runner.forward(std::slice::from_ref(piece))).collect(),
        }
    }

    /// Lets in what memory has room for, and tells which requests begin.
    fn admit(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while self.running.len() < self.limits.sequences {
            let free = self.blocks.total() - self.promised;
            // A further choice waits until the first one's prompt is computed: it needs it too.
            let open: Vec<RequestId> = self.running.iter().filter(|s| s.is_prompt()).map(|s| s.id).collect();
            let fits = |s: &Sequence| s.longest_blocks() <= free && !open.contains(&s.id);
            let Some(mut sequence) = self.queue.pop(fits) else { break };
            self.promised += sequence.longest_blocks();
            sequence.enter(&mut self.blocks);
            events.extend((sequence.choice == 0).then(|| sequence.started()));
            self.running.push(sequence);
        }
        events
    }

    /// Which choices compute how many tokens: all that are answering one, prompts a chunk in order of service.
    fn plan(&mut self) -> Vec<(usize, usize)> {
        let mut order: Vec<usize> = (0..self.running.len()).collect();
        order.sort_by_key(|index| (self.queue.served(self.running[*index].client), self.running[*index].id));
        let mut budget = self.limits.prefill_chunk;
        let mut work = Vec::new();
        for index in order {
            let sequence = &mut self.running[index];
            let len = if sequence.is_prompt() { sequence.left().min(budget) } else { 1 };
            if sequence.is_prompt() {
                budget -= len;
            }
            // Never short of blocks: what may be needed was promised.
            if len > 0 && sequence.reserve(len, &mut self.blocks) {
                work.push((index, len));
            }
        }
        work
    }

    fn leave(&mut self, sequence: Sequence) {
        self.promised -= sequence.longest_blocks();
        self.queue.end(sequence.client);
        sequence.leave(&mut self.blocks);
    }
}

/// Runs one request to its end; for tools and tests.
///
/// # Errors
/// What [`Scheduler::submit`] and [`Event::Failed`] say.
pub fn complete(
    scheduler: &mut Scheduler,
    client: ClientId,
    prepared: Prepared,
) -> Result<Vec<(String, FinishReason)>, EngineError> {
    let mut choices: Vec<(String, Option<FinishReason>)> = vec![(String::new(), None); prepared.choices];
    let mine = scheduler.submit(client, prepared)?;
    while choices.iter().any(|(_, reason)| reason.is_none()) {
        for event in scheduler.step() {
            match event {
                Event::Text { id, choice, text, .. } if id == mine => choices[choice].0 += &text,
                Event::Finished { id, choice, reason, .. } if id == mine => choices[choice].1 = Some(reason),
                Event::Failed { id, error } if id == mine => return Err(error),
                _ => {}
            }
        }
    }
    Ok(choices.into_iter().map(|(text, reason)| (text, reason.unwrap_or(FinishReason::Stop))).collect())
}
