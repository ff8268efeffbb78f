//! What the two daemons share, so that worker and proxy differ in what they do with a connection and in nothing else.
//!
//! ```text
//! options   where things are          own      static and runtime configuration, as the gate left them
//! trust     measured: whom to believe clock    the time of appraisal, on a host's clock
//! published reference values that are renewed while the daemon runs
//! serve     connections that come in  dial     calling peers, and calling again
//! ledger    what is proven of the chain  (with [ledger] in the configuration)
//! gpu       evidence of this guest's own GPUs, for peers that demand it
//! notify    to the service manager    report   to the host, in a closed vocabulary
//! body      request bodies, bounded   fault    error answers in OpenAI's form
//! ```
//! Deliberately absent: an option, environment variable or Cargo feature that changes what is believed
//! (`docs/decisions/0023-measured-trust.md`), and logs of anything that a peer sent.

pub mod body;
pub mod clock;
pub mod dial;
pub mod fault;
pub mod gpu;
pub mod ledger;
pub mod notify;
pub mod options;
pub mod own;
pub mod published;
pub mod report;
pub mod serve;
pub mod trust;

pub use clock::Clock;
pub use options::Options;
pub use own::Own;
pub use published::Published;
pub use report::Reporter;
pub use trust::Believed;

/// A panic's message may quote what a peer sent; its place may not.
pub fn quiet_panics(name: &'static str) {
    std::panic::set_hook(Box::new(move |info| match info.location() {
        Some(place) => eprintln!("{name}: panic at {place}; please report it"),
        None => eprintln!("{name}: panic; please report it"),
    }));
}
