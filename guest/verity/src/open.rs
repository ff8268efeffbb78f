//! Opens the two kinds of verity device: the root (two partitions, superblock) and a model disk (one file, pinned).

use crate::dm::{self, Table};
use crate::superblock::{self, Superblock};
use crate::{BLOCK, Disk, Places, REBUILD, RootHash, VerityError, tree};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

const SECTORS_PER_BLOCK: u64 = BLOCK / 512;

/// A model disk as the configuration pins it; nothing on the disk is believed.
#[derive(Debug, Clone)]
pub struct ModelDisk {
    /// What the tree must hash to, with an empty salt.
    pub root: RootHash,
    /// Number of data blocks. A superblock of one block follows them, then the hash tree.
    pub data_blocks: u64,
}

/// Opens the root device named `name` from the partitions whose identifiers follow from `root`, and returns its node.
/// `limit` bounds the wait for the kernel to show each partition.
pub fn root(
    places: &Places,
    disk: &Disk,
    name: &str,
    root: &RootHash,
    limit: Duration,
) -> Result<PathBuf, VerityError> {
    let partitions = disk.partitions()?;
    let (data, hash) = crate::gpt::verity_pair(&disk.label, &partitions, root)?;
    let file = disk.open()?;
    let label = format!("{}, partition {}", disk.label, hash.number);
    let offset = hash.first * crate::gpt::SECTOR;
    let superblock = Superblock::parse(&label, &read_at(&file, &label, offset)?)?;
    fits(&format!("{}, partition {}", disk.label, data.number), data.sectors, superblock.data_blocks)?;
    fits(&label, hash.sectors, 1 + tree::hash_blocks(superblock.data_blocks))?;
    if superblock.data_blocks > 1 {
        check_top(&file, &label, offset + BLOCK, root, &superblock.salt)?;
    }
    let table = Table {
        data: disk.partition_device(data, limit)?,
        hash: disk.partition_device(hash, limit)?,
        data_blocks: superblock.data_blocks,
        hash_start: 1,
        root: *root,
        salt: superblock.salt,
    };
    dm::create(&places.dev, name, &table)
}

/// Checks that the disk is large enough and that its topmost hash block is the pinned one: a disk with another model is
/// told apart here, in words, before dm-verity would stop the machine at its first block.
pub fn check_model(disk: &Disk, pin: &ModelDisk) -> Result<(), VerityError> {
    if pin.data_blocks == 0 || pin.data_blocks > superblock::MAX_DATA_BLOCKS {
        return Err(VerityError::Wrong {
            input: disk.label.clone(),
            field: "pinned data blocks",
            expected: format!("1 to {}", superblock::MAX_DATA_BLOCKS),
            found: pin.data_blocks.to_string(),
            next: "pin the values that the model was packed with",
        });
    }
    fits(&disk.label, disk.sectors, pin.data_blocks + 1 + tree::hash_blocks(pin.data_blocks))?;
    let top = if pin.data_blocks == 1 { 0 } else { pin.data_blocks + 1 };
    check_top(&disk.open()?, &disk.label, top * BLOCK, &pin.root, &[])
}

/// Opens a model disk as the verity device `name`, after [`check_model`], and returns its node.
pub fn model(places: &Places, disk: &Disk, name: &str, pin: &ModelDisk) -> Result<PathBuf, VerityError> {
    check_model(disk, pin)?;
    let table = Table {
        data: disk.device,
        hash: disk.device,
        data_blocks: pin.data_blocks,
        hash_start: pin.data_blocks + 1,
        root: pin.root,
        salt: Vec::new(),
    };
    dm::create(&places.dev, name, &table)
}

fn fits(label: &str, sectors: u64, blocks: u64) -> Result<(), VerityError> {
    if blocks <= sectors / SECTORS_PER_BLOCK {
        return Ok(());
    }
    Err(VerityError::Wrong {
        input: label.into(),
        field: "size in 4096-byte blocks",
        expected: format!("at least {blocks}"),
        found: (sectors / SECTORS_PER_BLOCK).to_string(),
        next: REBUILD,
    })
}

fn check_top(file: &File, label: &str, offset: u64, root: &RootHash, salt: &[u8]) -> Result<(), VerityError> {
    let block = read_at(file, label, offset)?;
    tree::check_top_block(root, salt, &block).map_err(|found| VerityError::Wrong {
        input: label.into(),
        field: "root hash of the disk's content",
        expected: root.to_string(),
        found: found.to_string(),
        next: "attach the disk that was made with the expected root hash",
    })
}

fn read_at<const N: usize>(file: &File, label: &str, offset: u64) -> Result<[u8; N], VerityError> {
    let mut bytes = [0; N];
    let io = |source| VerityError::Io { action: "read", path: format!("{label} at byte {offset}"), source };
    file.read_exact_at(&mut bytes, offset).map_err(io)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A disk of 3 data blocks, a superblock and one hash block, as `fs` shows it.
    fn model_disk(dir: &std::path::Path) -> (Places, RootHash) {
        let places = Places { sys_block: dir.join("block"), dev: dir.join("dev") };
        let sys = places.sys_block.join("vdc");
        fs::create_dir_all(&sys).unwrap();
        fs::create_dir_all(&places.dev).unwrap();
        for (file, text) in [("serial", "m"), ("dev", "254:32"), ("size", "40")] {
            fs::write(sys.join(file), text).unwrap();
        }
        let mut bytes = vec![1u8; 5 * BLOCK as usize];
        bytes[4 * BLOCK as usize..].fill(2);
        fs::write(places.dev.join("vdc"), bytes).unwrap();
        (places, tree::check_top_block(&RootHash([0; 32]), &[], &[2; 4096]).unwrap_err())
    }

    fn check(places: &Places, root: RootHash, data_blocks: u64) -> Result<(), VerityError> {
        let disk = Disk::wait(places, "m", Duration::ZERO).unwrap();
        check_model(&disk, &ModelDisk { root, data_blocks })
    }

    #[test]
    fn the_pinned_model_passes() {
        let dir = tempfile::tempdir().unwrap();
        let (places, root) = model_disk(dir.path());
        check(&places, root, 3).unwrap();
    }

    #[test]
    fn another_model_is_named_by_both_roots() {
        let dir = tempfile::tempdir().unwrap();
        let (places, root) = model_disk(dir.path());
        let text = check(&places, RootHash([7; 32]), 3).unwrap_err().to_string();
        assert!(text.contains(&"07".repeat(32)) && text.contains(&root.to_string()), "{text}");
    }

    #[test]
    fn a_disk_smaller_than_its_pin_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (places, root) = model_disk(dir.path());
        for blocks in [4, 5, 1 << 32, (1 << 32) + 1, u64::MAX, 0] {
            assert!(matches!(check(&places, root, blocks), Err(VerityError::Wrong { .. })), "{blocks}");
        }
    }
}
