//! Blocks of keys and values: which are free, which are used, and which hold a beginning that may be used again.
//!
//! ```text
//! free --allocate--> used --release--> free                        never filled, or of no use to anybody
//!                     | enter (full)
//!                     v
//!                    used, known --release--> idle, known --find--> used, known
//!                                               '-- oldest first --> free, when no other block is
//! ```
//! A known block is found by its scope, the known block before it and its own tokens: exactly, not by a hash of them.
//! Scopes are clients (or whatever the policy says), so what one client sent can't speed up another one's request.

use crate::decoder::BLOCK;
use std::collections::{BTreeMap, HashMap};

/// Who may use a beginning again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// The choices of one request.
    Request(u64),
    /// All requests of one client.
    Client(u64),
    /// All requests.
    Everyone,
}

/// A known block's unique number; 0 stands before the first block.
pub(crate) type Node = u64;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    scope: Scope,
    before: Node,
    tokens: [u32; BLOCK],
}

#[derive(Default)]
struct Slot {
    users: u32,
    known: Option<(Key, Node)>,
    /// When it became idle; 0 while it is not.
    idle: u64,
}

/// The pool.
pub(crate) struct Blocks {
    slots: Vec<Slot>,
    free: Vec<u32>,
    known: HashMap<Key, (u32, Node)>,
    /// Known blocks that nobody uses, oldest first.
    idle: BTreeMap<u64, u32>,
    clock: u64,
}

impl Blocks {
    pub fn new(count: usize) -> Self {
        Blocks {
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count as u32).rev().collect(),
            known: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
        }
    }

    /// Blocks that can be had at once.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// All blocks.
    pub fn total(&self) -> usize {
        self.slots.len()
    }

    /// A block for one user; forgets the oldest idle beginning if it must.
    pub fn allocate(&mut self) -> Option<u32> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first()?;
                if let Some((key, _)) = self.slots[block as usize].known.take() {
                    self.known.remove(&key);
                }
                block
            }
        };
        let slot = &mut self.slots[block as usize];
        (slot.users, slot.idle) = (1, 0);
        Some(block)
    }

    /// Uses the known blocks that `tokens` begin with: blocks, and the number of the last one.
    pub fn find(&mut self, scope: Scope, tokens: &[u32]) -> (Vec<u32>, Node) {
        let mut blocks = Vec::new();
        let mut before = 0;
        for tokens in tokens.as_chunks::<BLOCK>().0 {
            let Some((block, node)) = self.known.get(&Key { scope, before, tokens: *tokens }) else { break };
            let (block, node) = (*block, *node);
            let slot = &mut self.slots[block as usize];
            slot.users += 1;
            if slot.users == 1 {
                self.idle.remove(&slot.idle);
                slot.idle = 0;
            }
            blocks.push(block);
            before = node;
        }
        (blocks, before)
    }

    /// Makes a full block known, and gives its number; that of its equal if there is one already.
    pub fn enter(&mut self, scope: Scope, before: Node, tokens: [u32; BLOCK], block: u32) -> Node {
        let key = Key { scope, before, tokens };
        if let Some((_, node)) = self.known.get(&key) {
            return *node;
        }
        self.clock += 1;
        let node = self.clock;
        self.known.insert(key.clone(), (block, node));
        self.slots[block as usize].known = Some((key, node));
        node
    }

    /// One user less.
    pub fn release(&mut self, block: u32) {
        let slot = &mut self.slots[block as usize];
        slot.users = slot.users.saturating_sub(1);
        if slot.users > 0 {
            return;
        }
        if slot.known.is_none() {
            self.free.push(block);
            return;
        }
        self.clock += 1;
        slot.idle = self.clock;
        self.idle.insert(self.clock, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(blocks: &mut Blocks, scope: Scope, tokens: &[u32]) -> Vec<u32> {
        let (mut held, mut node) = blocks.find(scope, tokens);
        for tokens in &tokens.as_chunks::<BLOCK>().0[held.len()..] {
            let block = blocks.allocate().expect("a free block");
            node = blocks.enter(scope, node, *tokens, block);
            held.push(block);
        }
        held
    }

    #[test]
    fn a_beginning_is_found_again_by_its_own_client_only() {
        let mut blocks = Blocks::new(8);
        let tokens: Vec<u32> = (0..BLOCK as u32 * 2).collect();
        let held = fill(&mut blocks, Scope::Client(1), &tokens);
        assert_eq!(blocks.find(Scope::Client(2), &tokens).0, Vec::<u32>::new());
        assert_eq!(blocks.find(Scope::Request(1), &tokens).0, Vec::<u32>::new());
        assert_eq!(blocks.find(Scope::Client(1), &tokens).0, held);
        // The same tokens behind another beginning are something else.
        assert_eq!(blocks.find(Scope::Client(1), &tokens[BLOCK..]).0, Vec::<u32>::new());
    }

    #[test]
    fn the_oldest_idle_beginning_is_forgotten_first() {
        let mut blocks = Blocks::new(2);
        let (a, b) = ([1; BLOCK], [2; BLOCK]);
        for tokens in [a, b] {
            let held = fill(&mut blocks, Scope::Everyone, &tokens);
            blocks.release(held[0]);
        }
        assert_eq!(blocks.available(), 2);
        assert!(blocks.allocate().is_some());
        assert_eq!(blocks.find(Scope::Everyone, &a).0.len(), 0);
        assert_eq!(blocks.find(Scope::Everyone, &b).0.len(), 1);
        assert!(blocks.allocate().is_none());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_handed_out_twice(steps in prop::collection::vec((0u64..3, 0u32..3, 1usize..4, any::<bool>()), 1..60)) {
            let mut blocks = Blocks::new(6);
            let mut users: Vec<Vec<u32>> = vec![];
            for (client, token, count, end) in steps {
                if end && !users.is_empty() {
                    users.remove(0).into_iter().for_each(|block| blocks.release(block));
                } else if blocks.available() >= count {
                    users.push(fill(&mut blocks, Scope::Client(client), &vec![token; count * BLOCK]));
                }
                let used: std::collections::HashSet<u32> = users.iter().flatten().copied().collect();
                prop_assert_eq!(used.len() + blocks.available(), blocks.total());
            }
            users.into_iter().flatten().for_each(|block| blocks.release(block));
            prop_assert_eq!(blocks.available(), blocks.total());
        }
    }
}
