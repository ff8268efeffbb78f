//! The variable store: which variables a fresh copy already holds.
//!
//! Layout (EDK2 `MdeModulePkg/Include/Guid/VariableFormat.h`): a firmware volume header, then a variable store of
//! authenticated variables, each 60 bytes of header, name, data, aligned to four bytes.

use super::Guid;
use super::volume::Volume;
use crate::error::{Input, MeasureError, View};

/// AAF32C78-947B-439A-A180-2E144EC37792: authenticated variables.
const STORE: Guid = *b"\x78\x2c\xf3\xaa\x7b\x94\x9a\x43\xa1\x80\x2e\x14\x4e\xc3\x77\x92";
const STORE_HEADER: usize = 28;
const START: u16 = 0x55aa;
/// A variable that was written and not deleted since.
const ADDED: u8 = 0x3f;
const HEADER: usize = 60;

/// A variable that is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Vendor GUID, as stored.
    pub vendor: Guid,
    /// Name.
    pub name: String,
    /// Value.
    pub data: Vec<u8>,
}

/// All variables that are set in a store, in stored order.
pub fn parse(store: &[u8]) -> Result<Vec<Variable>, MeasureError> {
    let whole = View::new(Input::Variables, store);
    let volume = Volume::parse(whole)?;
    let at = volume.header_length;
    if whole.array::<16>(at, "store signature")? != STORE {
        return Err(whole.fault(at, "no store of authenticated variables"));
    }
    let size = whole.u32(at + 16, "store size")? as usize;
    let view = whole.sub(at, size, "variable store")?;
    let mut variables = Vec::new();
    let mut at = STORE_HEADER;
    while at + HEADER <= view.len() && view.u16(at, "variable start")? == START {
        let state = view.u8(at + 2, "variable state")?;
        let name_size = view.u32(at + 36, "variable name size")? as usize;
        let data_size = view.u32(at + 40, "variable data size")? as usize;
        let name = view.slice(at + HEADER, name_size, "variable name")?;
        let data = view.slice(at + HEADER + name_size, data_size, "variable data")?;
        if state == ADDED {
            let units: Vec<u16> = name.as_chunks::<2>().0.iter().map(|c| u16::from_le_bytes(*c)).collect();
            let name = String::from_utf16_lossy(&units).trim_end_matches('\0').to_owned();
            variables.push(Variable { vendor: view.array(at + 44, "vendor")?, name, data: data.to_vec() });
        }
        at = (at + HEADER + name_size + data_size).next_multiple_of(4);
    }
    Ok(variables)
}

#[cfg(any(test, feature = "samples"))]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use super::samples::store as sample_store;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn set_variables_come_out_and_deleted_ones_do_not() {
        let mut store = sample_store(&[("PK", b"key"), ("db", b"")]);
        let names = |s: &[u8]| parse(s).unwrap().iter().map(|v| v.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&store), ["PK", "db"]);
        store[72 + STORE_HEADER + 2] = 0x3d;
        assert_eq!(names(&store), ["db"]);
        assert!(parse(&sample_store(&[])).unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn a_mutated_store_never_panics(at in 0usize..300, value: u32, cut in 0usize..4000) {
            let mut store = sample_store(&[("PK", b"key"), ("db", b"")]);
            store[at..at + 4].copy_from_slice(&value.to_le_bytes());
            let _ = parse(&store);
            let _ = parse(&store[..cut]);
        }
    }
}
