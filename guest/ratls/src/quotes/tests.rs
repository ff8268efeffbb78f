//! A platform that answers when told to: what waits, what is shared, what is refused.

use super::*;
use protocol::evidence::LogFormat;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Gives the report data as quote once a word comes; `false` means that it refuses.
struct Told {
    words: Mutex<mpsc::Receiver<bool>>,
    asked: AtomicUsize,
    logs: AtomicUsize,
}

impl Attester for Told {
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, AttestError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.words.lock().unwrap().recv() {
            Ok(true) => Ok(report_data.to_vec()),
            Ok(false) => Err(AttestError::Refused { step: "outblob", reason: "as told".into() }),
            Err(_) => panic!("the test has ended"),
        }
    }

    fn event_log(&self) -> Result<EventLog, AttestError> {
        self.logs.fetch_add(1, Ordering::SeqCst);
        Ok(EventLog { format: LogFormat::Ccel, bytes: vec![7] })
    }

    fn runtime(&self) -> Result<Vec<u8>, AttestError> {
        Ok(vec![8])
    }
}

fn told(limits: QuoteLimits) -> (QuoteQueue, Arc<Told>, mpsc::Sender<bool>) {
    let (word, words) = mpsc::channel();
    let (asked, logs) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let platform = Arc::new(Told { words: Mutex::new(words), asked, logs });
    (QuoteQueue::new(platform.clone(), limits), platform, word)
}

fn one_at_a_time() -> QuoteLimits {
    QuoteLimits { at_once: 1, ..QuoteLimits::default() }
}

/// Asks for a quote over `[n; 64]` in a task of its own.
fn ask(queue: &QuoteQueue, n: u8) -> tokio::task::JoinHandle<Result<Quoted, QuoteError>> {
    let queue = queue.clone();
    tokio::spawn(async move { queue.quote([n; 64]).await })
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// `count` asked one after the other, the first of them at the platform.
async fn crowd(
    queue: &QuoteQueue,
    platform: &Told,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<Quoted, QuoteError>>> {
    let first = ask(queue, 0);
    until(|| platform.asked.load(Ordering::SeqCst) == 1).await;
    let mut crowd = vec![first];
    for n in 1..count {
        crowd.push(ask(queue, n as u8));
        until(|| queue.depth() == n + 1).await;
    }
    crowd
}

#[tokio::test]
async fn one_alone_gets_a_quote_over_its_own_leaf() {
    let (queue, platform, word) = told(QuoteLimits::default());
    word.send(true).unwrap();
    let quoted = queue.quote([5; 64]).await.unwrap();
    assert_eq!((quoted.quote, quoted.proof.depth()), (vec![5; 64], 0));
    assert_eq!((quoted.event_log.bytes, quoted.runtime), (vec![7], vec![8]));
    until(|| queue.depth() == 0).await;
    assert_eq!(queue.state(), QuoteState::Ready);
    assert_eq!(platform.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn those_who_wait_share_the_next_quote_each_with_a_proof() {
    let (queue, platform, word) = told(one_at_a_time());
    let crowd = crowd(&queue, &platform, 40).await;
    word.send(true).unwrap();
    word.send(true).unwrap();
    for (n, asked) in crowd.into_iter().enumerate() {
        let quoted = asked.await.unwrap().unwrap();
        assert_eq!(quoted.proof.report_data(&[n as u8; 64]).to_vec(), quoted.quote, "{n}");
    }
    let stats = queue.stats();
    assert_eq!((stats.quotes, stats.answered), (2, 40));
    assert_eq!(platform.logs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_batch_of_one_gives_each_its_own_quote() {
    let (queue, platform, word) = told(QuoteLimits { batch: 1, ..one_at_a_time() });
    let crowd = crowd(&queue, &platform, 5).await;
    (0..5).for_each(|_| word.send(true).unwrap());
    for (n, asked) in crowd.into_iter().enumerate() {
        assert_eq!(asked.await.unwrap().unwrap().quote, [n as u8; 64]);
    }
    assert_eq!(queue.stats().quotes, 5);
}

#[tokio::test]
async fn one_too_many_is_turned_away_at_once() {
    let (queue, platform, word) = told(QuoteLimits { waiting: 3, ..one_at_a_time() });
    let crowd = crowd(&queue, &platform, 4).await;
    assert!(matches!(queue.quote([9; 64]).await, Err(QuoteError::Busy { waiting: 3 })));
    assert_eq!(queue.stats().busy, 1);
    word.send(true).unwrap();
    word.send(true).unwrap();
    for asked in crowd {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn no_more_quotes_are_in_the_making_than_allowed() {
    let (queue, platform, word) = told(QuoteLimits { batch: 1, at_once: 2, ..QuoteLimits::default() });
    let crowd: Vec<_> = (0..6).map(|n| ask(&queue, n)).collect();
    until(|| queue.depth() == 6).await;
    // The platform holds one of the two at its lock, and nobody else asks.
    assert!(platform.asked.load(Ordering::SeqCst) <= 2);
    assert_eq!(queue.shared.lock().making, 2);
    (0..6).for_each(|_| word.send(true).unwrap());
    for asked in crowd {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_platform_that_refuses_is_left_alone_and_everybody_is_told_at_once() {
    let (queue, platform, word) =
        told(QuoteLimits { first_pause: Duration::from_secs(600), ..one_at_a_time() });
    let mut crowd = crowd(&queue, &platform, 3).await;
    word.send(false).unwrap();
    let first = crowd.remove(0).await.unwrap().unwrap_err();
    assert!(matches!(first, QuoteError::Platform(_)), "{first}");
    for asked in crowd {
        let error = asked.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, QuoteError::Refusing { reason, .. } if reason.contains("as told")),
            "{error}"
        );
    }
    assert!(matches!(queue.quote([1; 64]).await, Err(QuoteError::Refusing { .. })));
    assert_eq!(platform.asked.load(Ordering::SeqCst), 1, "it was asked again during the pause");
    let QuoteState::Refusing { times: 1, reason, .. } = queue.state() else { panic!("{:?}", queue.state()) };
    assert!(reason.contains("as told"));
    assert_eq!(queue.depth(), 0);
}

#[tokio::test]
async fn pauses_grow_and_the_first_quote_ends_them() {
    let pause = Duration::from_millis(1);
    let (queue, _platform, word) = told(QuoteLimits { first_pause: pause, ..one_at_a_time() });
    for times in 1..=4 {
        word.send(false).unwrap();
        // Told to wait until the pause is over.
        while !matches!(queue.quote([1; 64]).await, Err(QuoteError::Platform(_))) {
            tokio::time::sleep(pause).await;
        }
        assert!(matches!(queue.state(), QuoteState::Refusing { times: n, .. } if n == times));
    }
    let until = queue.shared.lock().refused.as_ref().map(|refused| refused.until).unwrap();
    tokio::time::sleep_until(until).await;
    word.send(true).unwrap();
    queue.quote([1; 64]).await.unwrap();
    assert_eq!((queue.state(), queue.stats().refusals), (QuoteState::Ready, 4));
}

#[tokio::test]
async fn who_left_the_queue_gets_no_quote_made() {
    let (queue, platform, word) = told(QuoteLimits { batch: 1, ..one_at_a_time() });
    let crowd = crowd(&queue, &platform, 3).await;
    crowd[1].abort();
    until(|| crowd[1].is_finished()).await;
    word.send(true).unwrap();
    word.send(true).unwrap();
    for asked in crowd {
        let _ = asked.await.map(Result::unwrap);
    }
    assert_eq!(queue.stats().quotes, 2);
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let (queue, _platform, word) =
        told(QuoteLimits { deadline: Duration::from_millis(20), ..QuoteLimits::default() });
    assert!(matches!(queue.quote([1; 64]).await, Err(QuoteError::Deadline { .. })));
    word.send(true).unwrap();
}

#[tokio::test]
async fn a_panic_of_the_attester_stops_its_batch_and_no_other() {
    let (queue, platform, word) = told(one_at_a_time());
    let asked = ask(&queue, 1);
    until(|| platform.asked.load(Ordering::SeqCst) == 1).await;
    drop(word);
    assert!(matches!(asked.await.unwrap(), Err(QuoteError::Stopped)));
    until(|| queue.shared.lock().making == 0).await;
    assert_eq!(queue.depth(), 0);
}
