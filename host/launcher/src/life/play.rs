//! Scripts that play QEMU and the TPM emulator in tests.

use std::time::Duration;

pub(crate) const LONG: Duration = Duration::from_secs(30);
/// Finds the files that QEMU was told to write: `$con`, `$prog`; `$$` goes to a file, to see whether it is alive.
pub(crate) const PRELUDE: &str = r#"for a; do case $a in
    file,id=console,path=*) con=${a#*path=};; file,id=progress,path=*) prog=${a#*path=};;
    esac; done; echo $$ > "${con%/*}/pid"; "#;
pub(crate) const SERVE: &str = r#"echo '{"uptime_ms":5,"stage":"started"}' >> "$prog"
    echo '{"uptime_ms":9,"stage":"serving","port":8443}' >> "$prog"; exec sleep 60"#;
pub(crate) const TPM: &str =
    r#"for a; do case $a in type=unixio,path=*) : > "${a#*path=}";; esac; done; exec sleep 60"#;
