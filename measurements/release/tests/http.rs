//! A web server that is slow, endless or strange costs a bounded time and memory.

use release::{Http, Limits, Mirror, MirrorError};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Serves every connection with `answer`; gives its address.
fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/releases/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            answer(stream);
        }
    });
    address
}

fn fetch(address: &str, limits: Limits, max: usize) -> Result<Option<Vec<u8>>, MirrorError> {
    let mut http = Http::new(address, limits).unwrap();
    http.begin();
    http.fetch("metadata/timestamp.json", max)
}

fn short() -> Limits {
    Limits { file: Duration::from_millis(400), refresh: Duration::from_millis(800), bytes: 1 << 20 }
}

fn says(head: &'static str) -> String {
    serve(move |mut stream| {
        let _ = stream.write_all(head.as_bytes());
    })
}

#[test]
fn a_file_and_its_absence_are_told_apart() {
    let right = says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
    assert_eq!(fetch(&right, short(), 100).unwrap().unwrap(), b"{}");
    assert_eq!(fetch(&right, short(), 2).unwrap().unwrap(), b"{}");
    let absent = says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    assert_eq!(fetch(&absent, short(), 100).unwrap(), None);
}

#[test]
fn an_endless_or_too_long_answer_is_cut_off() {
    let endless = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        while stream.write_all(&[b'x'; 8192]).is_ok() {}
    });
    let error = fetch(&endless, short(), 1000).unwrap_err();
    assert!(matches!(error, MirrorError::Endless { max: 1000, .. }), "{error}");
    assert!(error.is_peer_fault());
    let long = says("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    assert!(matches!(fetch(&long, short(), 2), Err(MirrorError::Endless { max: 2, .. })));
}

#[test]
fn a_mirror_that_trickles_is_left_after_its_time() {
    let trickle = serve(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
        while stream.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut http = Http::new(&trickle, short()).unwrap();
    http.begin();
    let mut errors = Vec::new();
    // The third has no time of the refresh left and does not even ask.
    for _ in 0..3 {
        errors.push(http.fetch("metadata/timestamp.json", 200_000).unwrap_err());
    }
    assert!(errors[0].to_string().contains("timeout"), "{}", errors[0]);
    assert!(
        matches!(&errors[2], MirrorError::Budget { what, .. } if what.contains("seconds")),
        "{}",
        errors[2]
    );
    http.begin();
    let again = http.fetch("x", 200_000);
    assert!(matches!(again, Err(MirrorError::Unreachable { .. })), "a new refresh has time again");
}

#[test]
fn the_bytes_of_a_refresh_are_bounded() {
    let right = says("HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nabcdef");
    let mut http = Http::new(&right, Limits { bytes: 10, ..short() }).unwrap();
    http.begin();
    assert!(http.fetch("a", 100).unwrap().is_some());
    let error = http.fetch("b", 100).unwrap_err();
    assert!(matches!(&error, MirrorError::Budget { what, .. } if what == "10 bytes"), "{error}");
}

#[test]
fn redirects_errors_and_other_schemes_are_refused() {
    let elsewhere = says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(fetch(&elsewhere, short(), 9), Err(MirrorError::Status { status: 302, .. })));
    let broken = says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(fetch(&broken, short(), 9), Err(MirrorError::Status { status: 500, .. })));
    assert!(Http::new("file:///etc", short()).is_err());
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fetch(&format!("http://{gone}"), short(), 9).unwrap_err();
    assert!(matches!(error, MirrorError::Unreachable { .. }) && !error.is_peer_fault(), "{error}");
}
