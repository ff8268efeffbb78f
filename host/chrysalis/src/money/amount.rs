//! Amounts as people write them: TON with up to nine decimals.

/// nanoTON of an amount such as `1.5`.
pub use crate::chain_args::coins as parse;

/// TON with nine decimals.
pub fn show(nano: i128) -> String {
    let (sign, nano) = (if nano < 0 { "-" } else { "" }, nano.unsigned_abs());
    format!("{sign}{}.{:09} TON", nano / 1_000_000_000, nano % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_exact_to_the_nanoton_or_refused() {
        for (text, nano) in [("2", 2_000_000_000), ("0.05", 50_000_000), ("1.000000001", 1_000_000_001)] {
            assert_eq!(parse(text), Ok(nano));
        }
        for bad in ["", ".", "1.", ".5", "-1", "+1", "1e9", "1,5", "1.0000000001", "99999999999"] {
            assert!(parse(bad).is_err(), "accepted {bad}");
        }
        assert_eq!(show(1_000_000_001), "1.000000001 TON");
        assert_eq!(show(-5), "-0.000000005 TON");
    }
}
