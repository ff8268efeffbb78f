//! Where things are. There is nothing here that relaxes anything.

use attest::TsmAttester;
use std::path::PathBuf;

/// What every daemon can be told; the defaults are the guest's own places.
#[derive(Debug)]
pub struct Options {
    /// Static configuration.
    pub config: PathBuf,
    /// Runtime configuration.
    pub runtime_config: PathBuf,
    /// Files that the host handed over.
    pub trust: PathBuf,
    /// Address and port to listen on.
    pub listen: String,
    /// Socket of the progress relay.
    pub progress: PathBuf,
    /// Quotes and logs.
    pub attester: TsmAttester,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            config: "/run/chrysalis/static.toml".into(),
            runtime_config: "/run/chrysalis/runtime.toml".into(),
            trust: "/run/chrysalis/trust".into(),
            listen: format!("0.0.0.0:{}", protocol::names::WORKER_PORT),
            progress: protocol::names::PROGRESS_SOCKET.into(),
            attester: TsmAttester::default(),
        }
    }
}

/// What [`Options::parse`] understands, for a usage text.
pub const USAGE: &str = "\
  --config FILE          static configuration (default /run/chrysalis/static.toml)
  --runtime-config FILE  runtime configuration (default /run/chrysalis/runtime.toml)
  --trust DIR            files that the host handed over (default /run/chrysalis/trust)
  --listen ADDR          address and port (default 0.0.0.0:8443)
  --progress SOCKET      where lines of progress go (default /run/chrysalis/progress)
  --tsm DIR              configfs-tsm reports (default /sys/kernel/config/tsm/report)
  --ccel FILE            CC event log (default /sys/firmware/acpi/tables/data/CCEL)
  --tpm-log FILE         TPM event log, where there is no CC event log
                         (default /sys/kernel/security/tpm0/binary_bios_measurements)
  --runtime FILE         record of the guest's own events (default /run/chrysalis/runtime-events)";

/// A word that no option explains, or an option without its value.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The value is missing.
    #[error("{option}: a value must follow")]
    NoValue {
        /// Which option.
        option: String,
    },
    /// Nobody knows it.
    #[error("{option}: no such option")]
    Unknown {
        /// Which word.
        option: String,
    },
}

impl Options {
    /// Reads `--option value` pairs; `own` takes those that only one daemon has and says whether it knew them.
    pub fn parse(
        mut words: impl Iterator<Item = String>,
        mut own: impl FnMut(&str, &str) -> bool,
    ) -> Result<Self, OptionsError> {
        let mut options = Options::default();
        while let Some(option) = words.next() {
            let Some(value) = words.next() else { return Err(OptionsError::NoValue { option }) };
            match option.as_str() {
                "--config" => options.config = value.into(),
                "--runtime-config" => options.runtime_config = value.into(),
                "--trust" => options.trust = value.into(),
                "--listen" => options.listen = value,
                "--progress" => options.progress = value.into(),
                "--tsm" => options.attester.base = value.into(),
                "--ccel" => options.attester.ccel = value.into(),
                "--tpm-log" => options.attester.tpm_log = value.into(),
                "--runtime" => options.attester.runtime = value.into(),
                other if own(other, &value) => {}
                _ => return Err(OptionsError::Unknown { option }),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<(Options, Vec<String>), OptionsError> {
        let mut own = Vec::new();
        let options = Options::parse(words.split_whitespace().map(str::to_owned), |option, value| {
            own.push(format!("{option} {value}"));
            option == "--models"
        })?;
        Ok((options, own))
    }

    #[test]
    fn shared_options_and_a_daemons_own_are_told_apart() {
        let (options, own) = parse("--listen 127.0.0.1:1 --models /m --trust /t").unwrap();
        assert_eq!((options.listen.as_str(), options.trust.to_str()), ("127.0.0.1:1", Some("/t")));
        assert_eq!(own, ["--models /m"]);
    }

    #[test]
    fn an_unknown_option_and_one_without_a_value_are_refused() {
        assert!(matches!(parse("--insecure yes"), Err(OptionsError::Unknown { .. })));
        assert!(matches!(parse("--listen"), Err(OptionsError::NoValue { .. })));
    }
}
