//! Get-methods, run here on a proven state: nobody is asked what a contract says.
//!
//! Bounds: 1,000,000 gas, which also bounds memory (each cell and stack entry costs gas). Code and data come from the chain
//! and may be anybody's: an internal failure of the TVM is an error of the call, not the end of the process.

use crate::{Address, Cell};
use num_bigint::BigInt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tycho_types::cell::{CellBuilder, HashBytes};
use tycho_types::dict::Dict;
use tycho_types::models::{Account, BlockchainConfigParams, IntAddr};
use tycho_vm::{GasParams, OwnedCellSlice, RcStackValue, SafeRc, VmCaller, VmGetterArgs};

/// Deepest nesting of tuples that is read from a result.
const TUPLE_DEPTH: usize = 16;
/// Most values that are read from a result: a tuple may hold one inner tuple many times, at the price of once.
const VALUES_LIMIT: usize = 65_536;

/// An argument of a get-method.
#[derive(Debug, Clone)]
pub enum Arg {
    /// An integer; 257 bits at most.
    Int(BigInt),
    /// A cell.
    Cell(Cell),
    /// A whole cell, as a slice.
    Slice(Cell),
}

/// What a get-method left on the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing.
    Null,
    /// An integer.
    Int(BigInt),
    /// A cell.
    Cell(Cell),
    /// A slice, as a cell of its own.
    Slice(Cell),
    /// Several values.
    Tuple(Vec<Value>),
}

/// Why a get-method gave no result.
#[derive(Debug, thiserror::Error)]
pub enum GetError {
    /// There is no code to run.
    #[error("the account is not deployed; expected an active contract")]
    NoCode,
    /// The contract threw. 11: it has no such method.
    #[error(
        "get-method `{method}` ended with exit code {code}; expected 0 (11 means that the contract has no such method)"
    )]
    Exit {
        /// The method.
        method: String,
        /// The exit code.
        code: i32,
    },
    /// The TVM itself failed.
    #[error("get-method `{method}` could not be run: {what}")]
    Vm {
        /// The method.
        method: String,
        /// What failed.
        what: String,
    },
    /// The result has another shape.
    #[error(
        "result {index}: found {found}, expected {expected}; this is another contract or another version of it"
    )]
    Shape {
        /// Which value, from 0.
        index: usize,
        /// What is there.
        found: String,
        /// What should be.
        expected: &'static str,
    },
    /// A number is out of range.
    #[error("{what} is {found}, which is out of its range")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: String,
    },
}

/// The results of a get-method, read in order.
#[derive(Debug, Clone)]
pub struct Values {
    items: std::vec::IntoIter<Value>,
    index: usize,
}

impl Values {
    /// Reads values from a list, for instance a tuple's.
    pub fn of(items: Vec<Value>) -> Self {
        Values { items: items.into_iter(), index: 0 }
    }

    /// The next value, whatever it is.
    ///
    /// # Errors
    /// If there is none.
    pub fn next_value(&mut self, expected: &'static str) -> Result<Value, GetError> {
        let value = self.items.next();
        self.index += 1;
        value.ok_or(GetError::Shape { index: self.index - 1, found: "the end".into(), expected })
    }

    fn other<T>(&self, found: &Value, expected: &'static str) -> Result<T, GetError> {
        let found = match found {
            Value::Int(number) => format!("the number {number}"),
            Value::Null => "null".into(),
            Value::Cell(_) => "a cell".into(),
            Value::Slice(_) => "a slice".into(),
            Value::Tuple(items) => format!("a tuple of {}", items.len()),
        };
        Err(GetError::Shape { index: self.index - 1, found, expected })
    }

    /// An integer.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_int(&mut self) -> Result<BigInt, GetError> {
        match self.next_value("an integer")? {
            Value::Int(number) => Ok(number),
            value => self.other(&value, "an integer"),
        }
    }

    /// A boolean: TVM's -1 or 0.
    ///
    /// # Errors
    /// If the next value is no integer.
    pub fn next_bool(&mut self) -> Result<bool, GetError> {
        Ok(self.next_int()? != BigInt::ZERO)
    }

    /// The next integer, if it fits.
    fn narrow<T: TryFrom<BigInt>>(&mut self, expected: &'static str) -> Result<T, GetError> {
        let number = self.next_int()?;
        T::try_from(number.clone()).or_else(|_| self.other(&Value::Int(number), expected))
    }

    /// An integer that fits into 8 bits without sign.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_u8(&mut self) -> Result<u8, GetError> {
        self.narrow("a number of 8 bits without sign")
    }

    /// An integer that fits into 16 bits without sign.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_u16(&mut self) -> Result<u16, GetError> {
        self.narrow("a number of 16 bits without sign")
    }

    /// An integer that fits into 32 bits without sign: a time, a number of something.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_u32(&mut self) -> Result<u32, GetError> {
        self.narrow("a number of 32 bits without sign")
    }

    /// An integer that fits into 64 bits without sign: nanoTON in a voucher.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_u64(&mut self) -> Result<u64, GetError> {
        self.narrow("a number of 64 bits without sign")
    }

    /// An integer that fits into 128 bits without sign: an amount, a salt.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_u128(&mut self) -> Result<u128, GetError> {
        self.narrow("a number of 128 bits without sign")
    }

    /// An integer that fits into 128 bits with sign: an amount that may be short.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_i128(&mut self) -> Result<i128, GetError> {
        self.narrow("a number of 128 bits with sign")
    }

    /// An integer of 256 bits without sign, big-endian: a key or a hash.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_u256(&mut self) -> Result<HashBytes, GetError> {
        let number = self.next_int()?;
        let bytes = number.to_biguint().map(|number| number.to_bytes_be()).filter(|bytes| bytes.len() <= 32);
        let Some(bytes) = bytes else {
            return self.other(&Value::Int(number), "a number of 256 bits without sign");
        };
        let mut out = [0; 32];
        out[32 - bytes.len()..].copy_from_slice(&bytes);
        Ok(HashBytes(out))
    }

    /// A cell or a slice, as a cell.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_cell(&mut self) -> Result<Cell, GetError> {
        match self.next_value("a cell")? {
            Value::Cell(cell) | Value::Slice(cell) => Ok(cell),
            value => self.other(&value, "a cell"),
        }
    }

    /// A cell, or none where the contract says null: a dictionary.
    ///
    /// # Errors
    /// If the next value is something else.
    pub fn next_cell_or_null(&mut self) -> Result<Option<Cell>, GetError> {
        match self.next_value("a cell or null")? {
            Value::Null => Ok(None),
            Value::Cell(cell) | Value::Slice(cell) => Ok(Some(cell)),
            value => self.other(&value, "a cell or null"),
        }
    }

    /// An address.
    ///
    /// # Errors
    /// If the next value is none.
    pub fn next_address(&mut self) -> Result<Address, GetError> {
        let cell = self.next_cell()?;
        match cell.parse::<IntAddr>() {
            Ok(IntAddr::Std(address)) => Ok(address),
            Ok(IntAddr::Var(_)) | Err(_) => self.other(&Value::Slice(cell), "a standard address"),
        }
    }

    /// Says that nothing more is expected.
    ///
    /// # Errors
    /// If there is more.
    pub fn end(mut self) -> Result<(), GetError> {
        match self.items.next() {
            None => Ok(()),
            Some(value) => {
                self.index += 1;
                self.other(&value, "the end")
            }
        }
    }
}

/// Runs `method` on an account's state.
pub(crate) fn run(
    account: &Account,
    config: &BlockchainConfigParams,
    now: u32,
    method: &str,
    args: &[Arg],
) -> Result<Values, GetError> {
    let failed = |what: String| GetError::Vm { method: method.into(), what };
    let call = || -> Result<(i32, Result<Vec<Value>, String>), String> {
        let caller = VmCaller {
            libraries: Dict::new(),
            behaviour_modifiers: Default::default(),
            config: config.clone(),
        };
        let mut settings = VmGetterArgs::default();
        settings.now = now;
        settings.gas_params = GasParams::getter();
        let stack = args.iter().map(as_stack_value).collect();
        let output =
            caller.call_getter_ext(account, method, stack, &settings, None).map_err(|e| e.to_string())?;
        let mut left = VALUES_LIMIT;
        Ok((output.exit_code, output.stack.iter().map(|value| read(value, TUPLE_DEPTH, &mut left)).collect()))
    };
    let caught = catch_unwind(AssertUnwindSafe(call));
    let (code, values) = match caught {
        Ok(result) => result.map_err(failed)?,
        Err(_) => {
            return Err(failed("the TVM failed inside; the contract's code or data is malformed".into()));
        }
    };
    // 1 is TVM's alternative success.
    if code != 0 && code != 1 {
        return Err(GetError::Exit { method: method.into(), code });
    }
    values.map(Values::of).map_err(failed)
}

fn as_stack_value(arg: &Arg) -> RcStackValue {
    match arg {
        Arg::Int(number) => SafeRc::new_dyn_value(number.clone()),
        Arg::Cell(cell) => SafeRc::new_dyn_value(cell.clone()),
        Arg::Slice(cell) => SafeRc::new_dyn_value(OwnedCellSlice::new_allow_exotic(cell.clone())),
    }
}

/// One value of the stack; `left` counts down the values that may still be read.
fn read(value: &RcStackValue, depth: usize, left: &mut usize) -> Result<Value, String> {
    *left = left.checked_sub(1).ok_or_else(|| format!("a result holds more than {VALUES_LIMIT} values"))?;
    if value.is_null() {
        return Ok(Value::Null);
    }
    if let Some(number) = value.as_int() {
        return Ok(Value::Int(number.clone()));
    }
    if let Some(cell) = value.as_cell() {
        return Ok(Value::Cell(cell.clone()));
    }
    if let Some(slice) = value.as_cell_slice() {
        let cell = CellBuilder::build_from(slice.apply()).map_err(|e| e.to_string())?;
        return Ok(Value::Slice(cell));
    }
    match (value.as_tuple(), depth) {
        (Some(_), 0) => Err(format!("a result is nested deeper than {TUPLE_DEPTH} tuples")),
        (Some(items), depth) => {
            items.iter().map(|item| read(item, depth - 1, left)).collect::<Result<_, _>>().map(Value::Tuple)
        }
        (None, _) => Err("a result is neither number, cell, slice nor tuple".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tycho_types::models::{AccountState, CurrencyCollection, StateInit, StorageInfo};

    /// Runs code, given as TVM's bytes, as if it was an account's. There is no configuration, as a hostile one might be.
    fn run_code(code: &[u8]) -> Result<Values, GetError> {
        let mut cell = CellBuilder::new();
        cell.store_raw(code, u16::try_from(code.len() * 8).unwrap()).unwrap();
        let account = Account {
            address: IntAddr::Std(Address::new(0, HashBytes::ZERO)),
            storage_stat: StorageInfo::default(),
            last_trans_lt: 0,
            balance: CurrencyCollection::ZERO,
            state: AccountState::Active(StateInit {
                code: Some(cell.build().unwrap()),
                ..StateInit::default()
            }),
        };
        let prices = tycho_types::models::StoragePrices {
            utime_since: 0,
            bit_price_ps: 1,
            cell_price_ps: 1,
            mc_bit_price_ps: 1,
            mc_cell_price_ps: 1,
        };
        let mut parameters = Dict::<u32, Cell>::new();
        parameters.set(0, Cell::default()).unwrap();
        let mut config = BlockchainConfigParams::from_raw(parameters.into_root().unwrap());
        config.set_storage_prices(&[prices]).unwrap();
        run(&account, &config, 0, "anything", &[])
    }

    #[test]
    fn results_are_read_in_order_and_to_the_end() {
        // DROP the method's number; PUSHINT 7; PUSHINT -1; PUSHNULL
        let mut values = run_code(&[0x30, 0x77, 0x7f, 0x6d]).unwrap();
        assert_eq!(values.next_u64().unwrap(), 7);
        assert!(values.next_bool().unwrap());
        assert_eq!(values.next_cell_or_null().unwrap(), None);
        values.end().unwrap();
    }

    #[test]
    fn a_result_of_another_shape_is_refused_with_its_place() {
        let mut values = run_code(&[0x30, 0x77, 0x7f]).unwrap();
        values.next_u64().unwrap();
        let error = values.next_u64().unwrap_err();
        assert!(matches!(error, GetError::Shape { index: 1, .. }), "{error}");
        assert!(values.next_cell().is_err(), "the end is no cell");
        assert!(run_code(&[0x30, 0x77]).unwrap().end().is_err(), "more than expected");
    }

    #[test]
    fn a_method_that_throws_or_never_ends_is_an_error() {
        // THROW 11
        assert!(matches!(run_code(&[0xf2, 0x0b]), Err(GetError::Exit { code: 11, .. })));
        // PUSHCONT {}; AGAIN
        assert!(matches!(run_code(&[0x90, 0xea]), Err(GetError::Exit { .. })));
    }

    #[test]
    fn a_small_result_that_unfolds_to_a_huge_one_is_refused() {
        // PUSHNULL; six times: fourteen DUPs, TUPLE 15
        let fold = [[0x20; 14].as_slice(), &[0x6f, 0x0f]].concat();
        let code = [[0x6d].as_slice(), &fold.repeat(6)].concat();
        let error = run_code(&code).unwrap_err();
        assert!(error.to_string().contains("more than 65536 values"), "{error}");
        // PUSHNULL; twenty times: TUPLE 1
        let deep = [[0x6d].as_slice(), &[0x6f, 0x01].repeat(20)].concat();
        assert!(run_code(&deep).unwrap_err().to_string().contains("nested deeper"));
    }

    proptest::proptest! {
        #[test]
        fn no_code_stops_the_process(code in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..120)) {
            let _ = run_code(&code);
        }
    }
}
