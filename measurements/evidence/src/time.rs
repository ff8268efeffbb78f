//! Instants as Unix seconds, shown and read as RFC 3339 in UTC. No clock: every instant is passed in.

use x509_cert::der::DateTime;

/// `2026-03-16T22:06:09Z`, or the plain number where the calendar ends.
pub fn show(at: u64) -> String {
    let duration = std::time::Duration::from_secs(at);
    DateTime::from_unix_duration(duration).map_or_else(|_| at.to_string(), |date| date.to_string())
}

/// Reads the only form that Intel's collateral and TUF's metadata use, `YYYY-MM-DDTHH:MM:SSZ`.
pub fn read(text: &str) -> Option<u64> {
    text.parse::<DateTime>().ok().map(|date| date.unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    #[test]
    fn instants_survive_their_text() {
        for at in [0, 1_773_790_000, 4_102_444_799] {
            assert_eq!(super::read(&super::show(at)), Some(at));
        }
        assert_eq!(super::read("yesterday"), None);
        assert_eq!(super::show(u64::MAX), u64::MAX.to_string());
    }
}
