//! The books of the whole network in the end: who holds what. They balance to the nanoTON, or coins were made or lost.

use crate::stage::Stage;
use std::fmt::Write as _;
use ton::forms::Control;

/// Everybody who holds coins.
#[derive(Default)]
pub struct Books {
    rows: Vec<(String, u128)>,
}

impl Books {
    /// Adds what an account holds.
    pub fn of(mut self, stage: &Stage, name: &str, address: &str) -> Self {
        let held = stage.balance(&ton::parse_address(address).unwrap());
        self.rows.push((name.to_owned(), held));
        self
    }

    /// The table, after checking it: all rows, the faucet and the fees that the chain took are what the faucet began with.
    pub fn balanced(mut self, stage: &Stage) -> String {
        let facts = stage.order(Control::Facts);
        let number = |field: &str| facts[field].as_str().unwrap().parse::<u128>().unwrap();
        let faucet = stage.balance(&ton::parse_address(facts["faucet"].as_str().unwrap()).unwrap());
        self.rows.push(("faucet".into(), faucet));
        self.rows.push(("fees taken by the chain".into(), number("fees")));
        let sum: u128 = self.rows.iter().map(|(_, held)| held).sum();
        let table = self.table(sum);
        assert_eq!(sum, devnet::FAUCET_BALANCE, "{table}");
        assert_eq!(number("coins") + number("fees"), devnet::FAUCET_BALANCE, "{facts}");
        table
    }

    fn table(&self, sum: u128) -> String {
        let mut text = String::from("LOCAL TEST CHAIN, SIMULATED platforms\n");
        let ton = |nano: u128| format!("{:>13}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
        for (name, held) in &self.rows {
            let _ = writeln!(text, "  {name:<26}{}", ton(*held));
        }
        let _ = writeln!(text, "  {:<26}{}", "together", ton(sum));
        text
    }
}
