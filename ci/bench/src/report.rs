//! A number beside its peer and its limit; the table and the JSON of all of them.

use crate::stats::Samples;
use serde::Serialize;
use std::fmt;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// 1,000,000 bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// 1,024 bytes.
    #[serde(rename = "KiB")]
    Kibibytes,
    /// Seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Microseconds.
    #[serde(rename = "us")]
    Microseconds,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Megabytes => format!("{value:.1} MB"),
            Unit::Kibibytes => format!("{value:.1} KiB"),
            Unit::Seconds => format!("{value:.1} s"),
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::Microseconds => format!("{value:.1} us"),
        }
    }
}

/// What a number may not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limit {
    /// This value, in the number's unit.
    AtMost(f64),
    /// This many times its peer.
    TimesPeer(f64),
}

/// Something of the same kind that was measured in the same run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Peer {
    /// What it is.
    pub name: String,
    /// In the unit of the number that it stands beside.
    pub samples: Samples,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Number {
    name: &'static str,
    unit: Unit,
    samples: Samples,
    peer: Option<Peer>,
    limit: Option<Limit>,
    covers: String,
}

impl Number {
    /// A number with neither peer nor limit.
    pub fn new(name: &'static str, unit: Unit, values: &[f64]) -> Self {
        let samples = Samples::of(values);
        Number { name, unit, samples, peer: None, limit: None, covers: String::new() }
    }

    /// What a number with these values would quote.
    pub fn median(values: &[f64]) -> f64 {
        Samples::of(values).median
    }

    /// With a peer of the same unit.
    pub fn beside(mut self, name: impl Into<String>, values: &[f64]) -> Self {
        self.peer = Some(Peer { name: name.into(), samples: Samples::of(values) });
        self
    }

    /// With a limit.
    pub fn limit(mut self, limit: Limit) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Without a limit: what is measured where the limit means nothing.
    pub fn without_limit(mut self) -> Self {
        self.limit = None;
        self
    }

    /// Says what was measured, and with which settings.
    pub fn covers(mut self, what: impl Into<String>) -> Self {
        self.covers = what.into();
        self
    }

    /// How many times its peer it is, by medians.
    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| self.samples.median / peer.samples.median)
    }

    /// Whether it keeps its limit; a number that is none, or lacks the peer that its limit needs, doesn't.
    fn met(&self) -> Option<bool> {
        Some(match self.limit? {
            Limit::AtMost(limit) => self.samples.median <= limit,
            Limit::TimesPeer(limit) => self.ratio().is_some_and(|ratio| ratio <= limit),
        })
    }

    /// `name: value, limit`, for a number that is out of bounds.
    pub fn verdict(&self) -> String {
        let ratio = self.ratio().map_or(String::new(), |ratio| format!(" ({ratio:.2}x its peer)"));
        let value = self.unit.show(self.samples.median);
        format!("{}: {value}{ratio}, expected at most {}", self.name, self.shown_limit())
    }

    fn shown_limit(&self) -> String {
        match self.limit {
            None => String::new(),
            Some(Limit::AtMost(limit)) => self.unit.show(limit),
            Some(Limit::TimesPeer(times)) => format!("{times:.2}x peer"),
        }
    }

    /// Name, value, range, limit, ratio, peer.
    fn cells(&self) -> [String; 6] {
        let Samples { median, min, max, count } = self.samples;
        let range = if count > 1 { format!("{min:.1}-{max:.1} (n={count})") } else { String::new() };
        let mark = match self.met() {
            Some(true) => "ok ",
            Some(false) => "MISSED ",
            None => "",
        };
        let ratio = self.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}x"));
        let peer = self
            .peer
            .as_ref()
            .map_or(String::new(), |peer| format!("{}: {}", peer.name, self.unit.show(peer.samples.median)));
        let limit = format!("{mark}{}", self.shown_limit());
        [self.name.to_owned(), self.unit.show(median), range, limit, ratio, peer]
    }
}

/// Everything that one run found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The numbers, in the order of the table.
    pub numbers: Vec<Number>,
    /// Name and value of what they were measured on and with.
    pub facts: Vec<(&'static str, String)>,
}

impl Report {
    /// The numbers that are out of bounds.
    pub fn missed(&self) -> Vec<&Number> {
        self.numbers.iter().filter(|number| number.met() == Some(false)).collect()
    }

    /// The same as one document.
    pub fn to_json(&self) -> serde_json::Value {
        let row = |number: &Number| {
            let mut row = serde_json::json!(number);
            row["ratio"] = serde_json::json!(number.ratio());
            row["met"] = serde_json::json!(number.met());
            row
        };
        let facts = self.facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone().into()));
        serde_json::json!({
            "schema": 1,
            "numbers": self.numbers.iter().map(row).collect::<Vec<_>>(),
            "facts": facts.collect::<serde_json::Map<_, _>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head =
            ["number", "median", "range", "limit", "ratio", "peer, in the same run"].map(str::to_owned);
        let rows: Vec<_> = [head].into_iter().chain(self.numbers.iter().map(Number::cells)).collect();
        let widths: Vec<usize> = (0..6)
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        writeln!(f, "\nWhat each covers")?;
        for number in &self.numbers {
            writeln!(f, "  {}: {}", number.name, number.covers)?;
        }
        writeln!(f, "\nMeasured on and with")?;
        for (name, value) in &self.facts {
            writeln!(f, "  {name}: {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(seconds: f64) -> Number {
        Number::new("boot", Unit::Seconds, &[seconds]).beside("floor", &[10.0]).limit(Limit::TimesPeer(2.5))
    }

    #[test]
    fn a_limit_is_met_up_to_and_with_its_value() {
        let size = |mb| Number::new("UKI", Unit::Megabytes, &[mb]).limit(Limit::AtMost(20.0));
        assert_eq!((size(20.0).met(), size(20.1).met()), (Some(true), Some(false)));
        assert_eq!((boot(25.0).met(), boot(25.1).met()), (Some(true), Some(false)));
        assert_eq!(Number::new("plain", Unit::Seconds, &[1.0]).met(), None);
    }

    #[test]
    fn a_number_without_samples_or_peer_does_not_pass() {
        let empty = Number::new("none", Unit::Seconds, &[]).limit(Limit::AtMost(1.0));
        let alone = Number::new("alone", Unit::Seconds, &[1.0]).limit(Limit::TimesPeer(2.0));
        let unmeasured =
            Number::new("x", Unit::Seconds, &[1.0]).beside("none", &[]).limit(Limit::TimesPeer(2.0));
        for number in [empty, alone, unmeasured] {
            assert_eq!(number.met(), Some(false), "{number:?}");
        }
    }

    #[test]
    fn what_was_missed_is_named_with_value_ratio_and_limit() {
        let report = Report { numbers: vec![boot(20.0), boot(30.0)], facts: vec![] };
        let missed: Vec<_> = report.missed().iter().map(|number| number.verdict()).collect();
        assert_eq!(missed, ["boot: 30.0 s (3.00x its peer), expected at most 2.50x peer"]);
        assert!(report.to_string().contains("MISSED 2.50x peer"), "{report}");
    }

    #[test]
    fn json_carries_value_peer_limit_ratio_and_facts() {
        let report = Report { numbers: vec![boot(20.0)], facts: vec![("cpus", "2".into())] };
        let json = report.to_json();
        let row = &json["numbers"][0];
        assert_eq!((row["samples"]["median"].as_f64(), row["ratio"].as_f64()), (Some(20.0), Some(2.0)));
        assert_eq!((row["met"].as_bool(), row["limit"]["times-peer"].as_f64()), (Some(true), Some(2.5)));
        assert_eq!(json["facts"]["cpus"], "2");
    }
}
