//! The device mapper's ioctls, as much as a verity device needs.
//!
//! ```text
//! DM_VERSION -> DM_DEV_CREATE -> DM_TABLE_LOAD (one verity target) -> DM_DEV_SUSPEND without the flag (= resume)
//! ```
//! A request is `struct dm_ioctl` (312 bytes) followed by its payload, built here as plain bytes; the layout is that
//! of `include/uapi/linux/dm-ioctl.h`, interface version 4, on little-endian 64-bit machines.

use crate::{BLOCK, Device, RootHash, VerityError};
use rustix::ioctl::Opcode;
use std::fs::File;
use std::path::{Path, PathBuf};

const HEADER: usize = 312;
const TARGET_SPEC: usize = 40;
const NAME: std::ops::Range<usize> = 48..48 + 127;
const READONLY: u32 = 1;
const VERSION: Opcode = ioctl::opcode(0);
const DEV_CREATE: Opcode = ioctl::opcode(3);
const DEV_SUSPEND: Opcode = ioctl::opcode(6);
const TABLE_LOAD: Opcode = ioctl::opcode(9);

/// Header and payload in a buffer that is larger than any request made here.
type Request = [u8; 4096];

/// What a verity device is made of.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Where the data blocks are, from block 0.
    pub data: Device,
    /// Where the hash tree is.
    pub hash: Device,
    /// Number of data blocks.
    pub data_blocks: u64,
    /// First hash block (the topmost), in blocks from the start of `hash`.
    pub hash_start: u64,
    /// What the tree must hash to.
    pub root: RootHash,
    /// Hashed before each block.
    pub salt: Vec<u8>,
}

impl Table {
    /// Target parameters as `verity.rst` gives them. Corruption stops the machine: a program must never run on after it
    /// was handed an error instead of its own next page. Zero blocks are read and checked like all others.
    fn parameters(&self) -> String {
        let salt = match self.salt.as_slice() {
            [] => "-".to_owned(),
            salt => salt.iter().map(|b| format!("{b:02x}")).collect(),
        };
        format!(
            "1 {} {} {BLOCK} {BLOCK} {} {} sha256 {} {salt} 1 panic_on_corruption",
            self.data, self.hash, self.data_blocks, self.hash_start, self.root
        )
    }
}

/// Makes the mapped device `name` and returns its node, `/dev/dm-N` under `dev`.
pub(crate) fn create(dev: &Path, name: &str, table: &Table) -> Result<PathBuf, VerityError> {
    let control_path = dev.join("mapper/control");
    let control = File::options()
        .read(true)
        .write(true)
        .open(&control_path)
        .map_err(crate::io("open the device mapper's control node", &control_path))?;
    let parameters = table.parameters();
    let refused = |step| {
        let (device, table) = (name.to_owned(), parameters.clone());
        move |e: rustix::io::Errno| VerityError::Mapper { step, device, table, source: e.into() }
    };
    ioctl::call::<VERSION>(&control, &mut request("", 0, &[])).map_err(refused("tell its version"))?;
    let mut create = request(name, READONLY, &[]);
    ioctl::call::<DEV_CREATE>(&control, &mut create).map_err(refused("create"))?;
    let mut load = request(name, READONLY, &target(table, &parameters));
    ioctl::call::<TABLE_LOAD>(&control, &mut load).map_err(refused("load the verity table of"))?;
    ioctl::call::<DEV_SUSPEND>(&control, &mut request(name, 0, &[])).map_err(refused("start"))?;
    Ok(dev.join(format!("dm-{}", minor(&create))))
}

/// A request about the device `name` with an optional payload of one target (at most about 800 bytes: the salt has no
/// more than 256 bytes).
fn request(name: &str, flags: u32, payload: &[u8]) -> Request {
    let mut out = [0u8; size_of::<Request>()];
    out[..4].copy_from_slice(&4u32.to_le_bytes()); // interface version 4.0.0
    out[16..20].copy_from_slice(&(HEADER as u32).to_le_bytes());
    out[20..24].copy_from_slice(&u32::from(!payload.is_empty()).to_le_bytes());
    out[28..32].copy_from_slice(&flags.to_le_bytes());
    let kept = name.len().min(NAME.len());
    out[NAME][..kept].copy_from_slice(&name.as_bytes()[..kept]);
    out[HEADER..HEADER + payload.len()].copy_from_slice(payload);
    out
}

/// `struct dm_target_spec` of a verity target with its parameters, padded to 8 bytes.
fn target(table: &Table, parameters: &str) -> Vec<u8> {
    let mut out = vec![0u8; TARGET_SPEC];
    out[8..16].copy_from_slice(&(table.data_blocks * (BLOCK / 512)).to_le_bytes());
    out[24..30].copy_from_slice(b"verity");
    out.extend_from_slice(parameters.as_bytes());
    out.resize((out.len() + 1).next_multiple_of(8), 0);
    let next = out.len() as u32;
    out[20..24].copy_from_slice(&next.to_le_bytes());
    out
}

/// Minor number of the device in an answer (`dev`, in the kernel's `new_encode_dev` form).
fn minor(answer: &[u8]) -> u64 {
    let dev = u64::from_le_bytes(answer[40..48].try_into().unwrap_or_default());
    dev & 0xff | dev >> 12 & 0xf_ff00
}

#[allow(
    unsafe_code,
    reason = "ioctl(2) takes a raw pointer; rustix has no safe form of the device mapper's calls"
)]
mod ioctl {
    //! The one unsafe call of this crate.

    use super::{HEADER, Request};
    use rustix::ioctl::{Opcode, Updater, opcode};
    use std::fs::File;

    /// `_IOWR(0xfd, number, struct dm_ioctl)`.
    pub(super) const fn opcode(number: u8) -> Opcode {
        opcode::read_write::<[u8; HEADER]>(0xfd, number)
    }

    /// Sends a request; the kernel's answer is left in it.
    pub(super) fn call<const OPCODE: Opcode>(
        control: &File,
        request: &mut Request,
    ) -> rustix::io::Result<()> {
        let size = size_of::<Request>() as u32;
        request[12..16].copy_from_slice(&size.to_le_bytes());
        // SAFETY: the kernel reads and writes at most the `data_size` bytes that the header states, which the line
        // above makes the size of the whole buffer; the request holds no pointers, and any bytes are a valid `Request`.
        unsafe { rustix::ioctl::ioctl(control, Updater::<OPCODE, Request>::new(request)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            data: Device { major: 254, minor: 2 },
            hash: Device { major: 254, minor: 3 },
            data_blocks: 10,
            hash_start: 1,
            root: RootHash([0xab; 32]),
            salt: vec![],
        }
    }

    #[test]
    fn the_table_panics_on_corruption_and_trusts_no_zero_block() {
        let text = table().parameters();
        let root = "ab".repeat(32);
        assert_eq!(text, format!("1 254:2 254:3 4096 4096 10 1 sha256 {root} - 1 panic_on_corruption"));
        let salted = Table { salt: vec![1, 0xff], ..table() }.parameters();
        assert!(salted.contains(" 01ff 1 panic"), "{salted}");
    }

    #[test]
    fn a_request_has_the_layout_of_the_kernel_header() {
        let payload = target(&table(), "abc");
        assert_eq!(payload.len(), 48);
        assert_eq!((payload[8], payload[20]), (80, 48)); // sectors, offset of the next target
        let bytes = request("root", READONLY, &payload);
        assert_eq!(bytes[16..20], 312u32.to_le_bytes());
        assert_eq!((bytes[20], bytes[28]), (1, 1));
        assert_eq!(&bytes[48..53], b"root\0");
        assert_eq!(bytes[312..360], payload);
    }

    #[test]
    fn large_minor_numbers_are_decoded() {
        let mut answer = request("", 0, &[]);
        answer[40..48].copy_from_slice(&0x0010_fd34u64.to_le_bytes()); // 253:308
        assert_eq!(minor(&answer), 0x134);
    }

    #[test]
    fn opcodes_are_those_of_the_kernel_header() {
        assert_eq!((VERSION, DEV_CREATE), (0xc138_fd00, 0xc138_fd03));
        assert_eq!((DEV_SUSPEND, TABLE_LOAD), (0xc138_fd06, 0xc138_fd09));
    }

    #[test]
    fn another_file_than_the_control_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mapper")).unwrap();
        std::fs::write(dir.path().join("mapper/control"), "").unwrap();
        let error = create(dir.path(), "x", &table()).unwrap_err();
        assert!(matches!(error, VerityError::Mapper { step: "tell its version", .. }), "{error}");
    }
}
