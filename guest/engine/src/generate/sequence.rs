//! One continuation: its tokens, its blocks, and how far it is.

use super::blocks::{Blocks, Node, Scope};
use super::event::{ClientId, Event, FinishReason, RequestId, TokenLogprob, Usage};
use super::generator::{Generator, Prepared};
use super::sampler::{Sampler, logprobs};
use super::text::Stream;
use crate::decoder::{BLOCK, Piece};

pub(super) struct Sequence {
    pub id: RequestId,
    pub choice: usize,
    pub client: ClientId,
    scope: Scope,
    /// Prompt, and the answer so far.
    tokens: Vec<u32>,
    prompt: usize,
    /// Most tokens of all.
    most: usize,
    /// Tokens whose keys and values are there.
    done: usize,
    blocks: Vec<u32>,
    /// Blocks that are known, and the number of the last of them.
    known: usize,
    node: Node,
    sampler: Sampler,
    stream: Option<Stream>,
    logprobs: Option<usize>,
    thinking: bool,
    usage: Usage,
}

impl Sequence {
    pub fn new(id: RequestId, choice: usize, client: ClientId, scope: Scope, prepared: &Prepared) -> Self {
        let prompt = prepared.tokens.len();
        Sequence {
            id,
            choice,
            client,
            scope,
            tokens: prepared.tokens.clone(),
            prompt,
            most: prompt + prepared.max_tokens,
            done: 0,
            blocks: vec![],
            known: 0,
            node: 0,
            sampler: Sampler::new(&prepared.settings, &prepared.tokens, choice),
            stream: Some(Stream::new(prepared.stop.clone())),
            logprobs: prepared.logprobs,
            thinking: prepared.thinking,
            usage: Usage { prompt_tokens: prompt, ..Usage::default() },
        }
    }

    /// Blocks that it may come to need.
    pub fn longest_blocks(&self) -> usize {
        self.most.div_ceil(BLOCK)
    }

    /// Whether its prompt is not computed yet.
    pub fn is_prompt(&self) -> bool {
        self.done < self.prompt
    }

    /// Tokens that are there and not computed.
    pub fn left(&self) -> usize {
        self.tokens.len() - self.done
    }

    /// Whether computing `len` more tokens gives the logits of the next one.
    pub fn is_last(&self, len: usize) -> bool {
        self.done + len == self.tokens.len()
    }

    /// Begins with what is known of its prompt; the last token is always computed, for its logits.
    pub fn enter(&mut self, blocks: &mut Blocks) {
        (self.blocks, self.node) = blocks.find(self.scope, &self.tokens[..self.prompt - 1]);
        self.known = self.blocks.len();
        self.done = self.known * BLOCK;
        self.usage.cached_tokens = self.done;
    }

    /// What is told when it begins.
    pub fn started(&self) -> Event {
        let Usage { prompt_tokens, cached_tokens, .. } = self.usage;
        Event::Started { id: self.id, prompt_tokens, cached_tokens }
    }

    /// Gets blocks for `len` more tokens. False: there are none.
    pub fn reserve(&mut self, len: usize, blocks: &mut Blocks) -> bool {
        while self.blocks.len() * BLOCK < self.done + len {
            match blocks.allocate() {
                Some(block) => self.blocks.push(block),
                None => return false,
            }
        }
        true
    }

    /// The next `len` tokens for a pass.
    pub fn piece(&self, len: usize) -> Piece<'_> {
        let ids = &self.tokens[self.done..self.done + len];
        let (logits, answer) = (self.is_last(len), !self.is_prompt());
        Piece { ids, start: self.done, blocks: &self.blocks, logits, answer }
    }

    /// Notes that `len` tokens were computed; full blocks become known.
    pub fn computed(&mut self, len: usize, blocks: &mut Blocks) {
        self.done += len;
        let full = self.tokens[..self.done].as_chunks::<BLOCK>().0;
        for (tokens, block) in full.iter().zip(&self.blocks).skip(self.known) {
            self.node = blocks.enter(self.scope, self.node, *tokens, *block);
        }
        self.known = full.len();
    }

    /// Chooses the next token and tells what it brought. True: the answer has ended.
    pub fn advance(&mut self, generator: &Generator, logits: &[f32], events: &mut Vec<Event>) -> bool {
        let mut adjusted = logits.to_vec();
        let token = self.sampler.choose(&mut adjusted);
        self.tokens.push(token);
        generator.count(token, &mut self.thinking, &mut self.usage);
        let (id, choice) = (self.id, self.choice);
        let ends = generator.ends.contains(&token);
        let hidden = ends || generator.tokenizer.is_special(token);
        let shown: &[u8] = if hidden { &[] } else { generator.tokenizer.bytes(token) };
        let told = self.logprobs.filter(|_| !ends).map(|count| tell(generator, logits, token, count));
        let (mut text, stopped) =
            self.stream.as_mut().map_or_else(Default::default, |stream| stream.push(shown));
        let reason = match (ends || stopped, self.tokens.len() >= self.most) {
            (true, _) => Some(FinishReason::Stop),
            (_, true) => Some(FinishReason::Length),
            _ => None,
        };
        if reason.is_some() && !stopped {
            text += &self.stream.take().map(Stream::finish).unwrap_or_default();
        }
        if !text.is_empty() || told.is_some() {
            let Usage { completion_tokens, reasoning_tokens, .. } = self.usage;
            let tokens = told.into_iter().collect();
            events.push(Event::Text { id, choice, text, completion_tokens, reasoning_tokens, tokens });
        }
        let Some(reason) = reason else { return false };
        events.push(Event::Finished { id, choice, reason, usage: self.usage });
        true
    }

    /// Gives its blocks back.
    pub fn leave(self, blocks: &mut Blocks) {
        // Last first: what is needed to find the others is forgotten last.
        self.blocks.into_iter().rev().for_each(|block| blocks.release(block));
    }
}

fn tell(generator: &Generator, logits: &[f32], token: u32, count: usize) -> TokenLogprob {
    let (logprob, top) = logprobs(logits, token, count);
    let bytes = |id: u32| generator.tokenizer.bytes(id).to_vec();
    let top = top.into_iter().map(|(id, logprob)| (id, bytes(id), logprob)).collect();
    TokenLogprob { id: token, bytes: bytes(token), logprob, top }
}
