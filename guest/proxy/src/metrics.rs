//! Metrics: a closed schema, as Prometheus text (exposition format 0.0.4).
//!
//! Every family and every label value is a variant here, so that nothing a peer sends can become a name or a label: no vault,
//! worker, model, or text. Sums are over all clients. What each means is in `docs/reference/proxy.md`; a test holds the two
//! lists together.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Declares an enum of label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$each])* $variant),* }
        impl $name {
            const ALL: &'static [&'static str] = &[$($text),*];
        }
    };
}

labels! {
    /// How a request that was sent to a worker ended for the client.
    Ended {
        /// Answered whole, and charged where requests are.
        Complete = "complete",
        /// The client went away; what was delivered is charged.
        Cancelled = "cancelled",
        /// It broke off after the first byte; nothing is charged.
        Broken = "broken",
        /// Finished, but the books could not be written or not charged.
        Uncharged = "uncharged",
        /// A worker's own refusal of the request was passed on.
        Refused = "refused",
    }
}

labels! {
    /// Why a request was sent to nobody, or answered by nobody.
    Turned {
        /// Not a request, or one that nobody here can serve.
        Request = "request",
        /// Its payment is missing, too low or wrong.
        Payment = "payment",
        /// The client has its share already, or everybody is busy.
        Busy = "busy",
        /// No worker has the model, or none of them answered.
        NoWorker = "no_worker",
        /// The log can't be written.
        NoLogSpace = "no_log_space",
        /// No session, or no fresh view of the chain.
        NoSession = "no_session",
    }
}

labels! {
    /// What a worker did with a job.
    Worked {
        /// Answered it whole.
        Done = "done",
        /// Had no room, or was owed too much.
        Refused = "refused",
        /// Its connection broke, or nothing came in time.
        Broke = "broke",
        /// Did what no right worker does.
        Fault = "fault",
        /// The client went away first.
        Cancelled = "cancelled",
    }
}

labels! {
    /// Kinds of tokens.
    Kind {
        /// Read, not cached.
        Prompt = "prompt",
        /// Read from a cache.
        Cached = "cached",
        /// Written for clients.
        Completion = "completion",
        /// Written for the model itself.
        Reasoning = "reasoning",
    }
}

/// Upper bounds of histograms, in seconds.
const BOUNDS: [f64; 10] = [0.001, 0.002, 0.004, 0.008, 0.016, 0.064, 0.25, 1.0, 4.0, 16.0];

/// Durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// One more.
    pub fn took(&self, time: std::time::Duration) {
        let seconds = time.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Relaxed);
    }
}

/// What is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    ended: [AtomicU64; 5],
    turned: [AtomicU64; 6],
    worked: [AtomicU64; 5],
    tokens: [AtomicU64; 4],
    charged: AtomicU64,
    fees: AtomicU64,
    bytes: AtomicU64,
    /// From the request for a hold until it is on disk.
    pub held: Histogram,
    /// From the choice of a worker to its first byte.
    pub first: Histogram,
}

/// What is looked at when somebody asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    /// Attested workers that are here.
    pub workers: u64,
    /// Requests under way.
    pub in_flight: u64,
    /// 0 unpaid, 1 waiting, 2 active, 3 over.
    pub session: u64,
    /// Whether the log could be written last; always where there is none.
    pub log_writes: bool,
    /// Unix seconds of the newest proven block; 0 without a chain.
    pub chain_seen: u64,
}

impl Metrics {
    /// A request ended.
    pub fn ended(&self, how: Ended) {
        self.ended[how as usize].fetch_add(1, Relaxed);
    }

    /// A request was turned away.
    pub fn turned(&self, why: Turned) {
        self.turned[why as usize].fetch_add(1, Relaxed);
    }

    /// A worker was done with a job.
    pub fn worked(&self, how: Worked) {
        self.worked[how as usize].fetch_add(1, Relaxed);
    }

    /// Bytes went to a client.
    pub fn sent(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Tokens were charged.
    pub fn charged(&self, tokens: &payment::price::Tokens, charged: u64, fee: u64) {
        let counts = [tokens.prompt, tokens.cached, tokens.completion, tokens.reasoning];
        for (sum, count) in self.tokens.iter().zip(counts) {
            sum.fetch_add(u64::from(count), Relaxed);
        }
        self.charged.fetch_add(charged, Relaxed);
        self.fees.fetch_add(fee, Relaxed);
    }

    /// The page.
    pub fn page(&self, gauges: &Gauges) -> String {
        let mut page = Page(String::with_capacity(4096));
        page.labelled("chrysalis_proxy_requests_total", "result", Ended::ALL, &self.ended);
        page.labelled("chrysalis_proxy_turned_away_total", "reason", Turned::ALL, &self.turned);
        page.labelled("chrysalis_proxy_jobs_total", "outcome", Worked::ALL, &self.worked);
        page.labelled("chrysalis_proxy_tokens_total", "kind", Kind::ALL, &self.tokens);
        page.plain("chrysalis_proxy_charged_nanoton_total", "counter", self.charged.load(Relaxed));
        page.plain("chrysalis_proxy_fees_nanoton_total", "counter", self.fees.load(Relaxed));
        page.plain("chrysalis_proxy_sent_bytes_total", "counter", self.bytes.load(Relaxed));
        page.plain("chrysalis_proxy_workers", "gauge", gauges.workers);
        page.plain("chrysalis_proxy_in_flight", "gauge", gauges.in_flight);
        page.plain("chrysalis_proxy_session_phase", "gauge", gauges.session);
        page.plain("chrysalis_proxy_log_writes", "gauge", u64::from(gauges.log_writes));
        page.plain("chrysalis_proxy_chain_seen_seconds", "gauge", gauges.chain_seen);
        page.histogram("chrysalis_proxy_hold_seconds", &self.held);
        page.histogram("chrysalis_proxy_first_byte_seconds", &self.first);
        page.0
    }
}

struct Page(String);

impl Page {
    fn head(&mut self, name: &str, kind: &str) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
    }

    fn plain(&mut self, name: &str, kind: &str, value: u64) {
        self.head(name, kind);
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn labelled(&mut self, name: &str, label: &str, values: &[&str], counts: &[AtomicU64]) {
        self.head(name, "counter");
        for (value, count) in values.iter().zip(counts) {
            let _ = writeln!(self.0, "{name}{{{label}=\"{value}\"}} {}", count.load(Relaxed));
        }
    }

    fn histogram(&mut self, name: &str, histogram: &Histogram) {
        self.head(name, "histogram");
        let mut sum = 0;
        for (bound, bucket) in BOUNDS.iter().map(Some).chain([None]).zip(&histogram.buckets) {
            sum += bucket.load(Relaxed);
            let bound = bound.map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(self.0, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let seconds = histogram.micros.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(self.0, "{name}_sum {seconds}\n{name}_count {sum}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const DOCUMENTED: &str = include_str!("../../../docs/reference/proxy.md");

    #[test]
    fn the_page_has_exactly_the_documented_families() {
        let page = Metrics::default().page(&Gauges::default());
        let on_page: BTreeSet<&str> =
            page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let rows = DOCUMENTED.lines().filter_map(|line| line.strip_prefix("| `chrysalis_proxy_"));
        let documented: BTreeSet<String> =
            rows.map(|row| format!("chrysalis_proxy_{}", row.split('`').next().unwrap())).collect();
        assert_eq!(on_page.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), documented);
    }

    #[test]
    fn every_label_value_is_documented_and_has_a_place() {
        let metrics = Metrics::default();
        let places = [
            (Ended::ALL, metrics.ended.len()),
            (Turned::ALL, metrics.turned.len()),
            (Worked::ALL, metrics.worked.len()),
            (Kind::ALL, metrics.tokens.len()),
        ];
        for (values, places) in places {
            assert_eq!(values.len(), places);
            assert!(values.iter().all(|value| DOCUMENTED.contains(&format!("`{value}`"))), "{values:?}");
        }
    }

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for ms in [1, 3, 3, 100_000] {
            metrics.held.took(std::time::Duration::from_millis(ms));
        }
        let page = metrics.page(&Gauges::default());
        for line in [
            "hold_seconds_bucket{le=\"0.001\"} 1",
            "hold_seconds_bucket{le=\"0.004\"} 3",
            "hold_seconds_bucket{le=\"16\"} 3",
            "hold_seconds_bucket{le=\"+Inf\"} 4",
            "hold_seconds_count 4",
        ] {
            assert!(page.contains(line), "{line} is not in {page}");
        }
    }
}
