//! One quote for several challenges: the quote is over the root of a small Merkle tree, each evidence carries its path.
//!
//! ```text
//! report data = root = node(node(b0, b1), node(b2, pad))     node(l, r) = SHA-512(field tag | field l | field r)
//! b0, b1, b2: the bindings of three connections              proof of b1: index 1, path [b0, node(b2, pad)]
//! ```
//! A leaf is a SHA-512 over its own domain tag (the channel's binding) and a node one over another, so neither can pass
//! for the other (RFC 6962 section 2.1 separates them for the same reason). A leaf alone in its batch has an empty path,
//! and the report data is the leaf itself.
//!
//! Why: a platform makes a quote in milliseconds at best, and one a second through a kernel that sleeps between looks at
//! the host's answer. What waits meanwhile need not wait for a quote of its own. A path tells its reader nothing of the
//! other connections but their number's logarithm.

use measure::codec::{CodecError, Reader, put};
use sha2::{Digest, Sha512};

/// A binding: the 64 bytes that a quote would be over if it were made for one connection alone.
pub type Leaf = [u8; 64];

/// Most levels of a tree.
pub const MAX_DEPTH: usize = 6;
/// Most leaves of a tree.
pub const MAX_LEAVES: usize = 1 << MAX_DEPTH;
/// Most bytes of an encoded proof.
pub const MAX_PROOF: usize = 2 + 64 * MAX_DEPTH;

const NODE_TAG: &[u8] = b"chrysalis/batch/1";
/// Fills a tree up to a power of two. No preimage of it is known, so it is nobody's binding.
const PAD: Leaf = [0; 64];

/// Where a leaf stands in the tree whose root was quoted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proof {
    index: u8,
    path: Vec<Leaf>,
}

impl Proof {
    /// What the quote must carry if `leaf` stands here.
    pub fn report_data(&self, leaf: &Leaf) -> [u8; 64] {
        let step = |(node, index): (Leaf, u8), sibling: &Leaf| {
            let parent = if index & 1 == 0 { parent(&node, sibling) } else { parent(sibling, &node) };
            (parent, index >> 1)
        };
        self.path.iter().fold((*leaf, self.index), step).0
    }

    /// Levels between leaf and root; 0 for a quote made for one connection alone.
    pub fn depth(&self) -> usize {
        self.path.len()
    }

    /// Encodes for the wire: one byte of depth, one of index, and the siblings from the leaf up, 64 bytes each.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A path never has more than MAX_DEPTH siblings.
        let head = [self.path.len() as u8, self.index];
        [head.as_slice(), self.path.as_flattened()].concat()
    }

    /// Decodes bytes from a peer. There is one encoding of each proof.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut r = Reader::new(bytes);
        let head = r.take("batch depth and index", 2)?;
        let (depth, index) = (usize::from(head[0]), head[1]);
        let wrong = |what, offset, expected, found: u8| CodecError::Wrong {
            what,
            offset,
            expected,
            found: found.to_string(),
        };
        if depth > MAX_DEPTH {
            return Err(wrong("batch depth", 0, format!("at most {MAX_DEPTH}"), head[0]));
        }
        if usize::from(index) >> depth != 0 {
            return Err(wrong("batch index", 1, format!("less than {}", 1 << depth), index));
        }
        let mut path = Vec::with_capacity(depth);
        for _ in 0..depth {
            let mut sibling = [0; 64];
            sibling.copy_from_slice(r.take("batch path", 64)?);
            path.push(sibling);
        }
        r.finish()?;
        Ok(Proof { index, path })
    }
}

/// The root over at most [`MAX_LEAVES`] leaves, which is what to quote, and the proof of each leaf in their order; `None`
/// of no leaf, or of too many.
pub fn batch(leaves: &[Leaf]) -> Option<([u8; 64], Vec<Proof>)> {
    if leaves.is_empty() || leaves.len() > MAX_LEAVES {
        return None;
    }
    let mut proofs: Vec<_> =
        (0..leaves.len()).map(|index| Proof { index: index as u8, path: Vec::new() }).collect();
    let mut level = leaves.to_vec();
    level.resize(leaves.len().next_power_of_two(), PAD);
    while level.len() > 1 {
        for proof in &mut proofs {
            let at = usize::from(proof.index) >> proof.path.len();
            proof.path.push(level[at ^ 1]);
        }
        level = level.chunks_exact(2).map(|pair| parent(&pair[0], &pair[1])).collect();
    }
    Some((level[0], proofs))
}

fn parent(left: &Leaf, right: &Leaf) -> Leaf {
    let mut bytes = Vec::with_capacity(12 + NODE_TAG.len() + 128);
    put(&mut bytes, NODE_TAG);
    put(&mut bytes, left);
    put(&mut bytes, right);
    Sha512::digest(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Leaf> {
        (0..count).map(|n| Sha512::digest([n as u8]).into()).collect()
    }

    #[test]
    fn every_leaf_of_every_size_is_proved_and_no_other_leaf_is() {
        for count in 1..=MAX_LEAVES {
            let leaves = leaves(count);
            let (root, proofs) = batch(&leaves).unwrap();
            assert_eq!(proofs.len(), count);
            for (at, proof) in proofs.iter().enumerate() {
                let fitting: Vec<_> =
                    (0..count).filter(|other| proof.report_data(&leaves[*other]) == root).collect();
                assert_eq!(fitting, [at]);
            }
        }
    }

    #[test]
    fn a_leaf_alone_is_its_own_root() {
        let (root, proofs) = batch(&leaves(1)).unwrap();
        assert_eq!((root, proofs[0].to_bytes()), (leaves(1)[0], vec![0, 0]));
    }

    #[test]
    fn none_and_too_many_leaves_make_no_batch() {
        assert_eq!(batch(&[]), None);
        assert_eq!(batch(&leaves(MAX_LEAVES + 1)), None);
    }

    #[test]
    fn a_node_is_no_leaf() {
        // Whoever knows the children of a node can't shorten a path to it, since a leaf is made under another tag: what
        // is checked here is that the tag enters the node at all.
        let (left, right) = (leaves(2)[0], leaves(2)[1]);
        assert_ne!(parent(&left, &right), <[u8; 64]>::from(Sha512::digest([left, right].concat())));
        assert_ne!(parent(&left, &right), parent(&right, &left));
    }

    #[test]
    fn the_root_of_three_has_the_published_test_vector() {
        // docs/reference/quotes.md; computed there by another implementation.
        let leaves: Vec<Leaf> = (1..=3).map(|n| [n; 64]).collect();
        let (root, proofs) = batch(&leaves).unwrap();
        assert_eq!(hex(&root), VECTOR);
        assert_eq!(proofs[1].path[0], [1; 64]);
    }

    const VECTOR: &str = "efb6f48b959dff24c3e23454747ace153516188cf71c04110ac0d0bb948d2c4c8831d7b5bcaa7cfdd05113869eea8a7fa5db104a3a5c12c2c0e97c8b9f88c8b0";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn depth_and_index_out_of_bounds_are_refused() {
        let deep = [vec![7, 0], vec![0; 7 * 64]].concat();
        assert!(Proof::from_bytes(&deep).unwrap_err().to_string().contains("batch depth"));
        let beside = [vec![2, 4], vec![0; 128]].concat();
        assert!(Proof::from_bytes(&beside).unwrap_err().to_string().contains("batch index"));
        let trailing = [0, 0, 0];
        assert!(matches!(Proof::from_bytes(&trailing), Err(CodecError::Trailing { .. })));
    }

    proptest! {
        #[test]
        fn hostile_proofs_never_panic_and_have_one_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            if let Ok(proof) = Proof::from_bytes(&bytes) {
                prop_assert_eq!(proof.to_bytes(), bytes);
                let _ = proof.report_data(&[1; 64]);
            }
        }

        #[test]
        fn a_proof_survives_the_wire(count in 1..=MAX_LEAVES) {
            for proof in batch(&leaves(count)).unwrap().1 {
                let bytes = proof.to_bytes();
                prop_assert!(bytes.len() <= MAX_PROOF);
                prop_assert_eq!(Proof::from_bytes(&bytes).unwrap(), proof);
            }
        }
    }
}
