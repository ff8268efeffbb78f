//! A PCCS with a TLS certificate of its own: taken where that is named, refused where it is not.

mod support;

use collateral::{FetchError, PlatformId, Service, Settings, SettingsError};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use simulator::fault::Fault;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use support::{Mode, Pccs};

/// A door with TLS in front of a service without; returns its URL and its certificate (PEM).
fn door(pccs: &Pccs) -> (String, String) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let chain = vec![CertificateDer::from(own.cert.der().to_vec())];
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let inner = pccs.url.strip_prefix("http://").unwrap().to_owned();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let tls = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), tcp);
            // A peer that does not trust the certificate hangs up.
            let _ = pass(tls, &inner);
        }
    });
    (url, own.cert.pem())
}

/// One question in, one answer out.
fn pass(tls: StreamOwned<ServerConnection, TcpStream>, inner: &str) -> std::io::Result<()> {
    let mut tls = BufReader::new(tls);
    let mut question = String::new();
    while !question.ends_with("\r\n\r\n") {
        if tls.read_line(&mut question)? == 0 {
            return Ok(());
        }
    }
    let (mut service, mut answer) = (TcpStream::connect(inner)?, Vec::new());
    service.write_all(question.as_bytes())?;
    service.read_to_end(&mut answer)?;
    let tls = tls.get_mut();
    tls.write_all(&answer)?;
    tls.conn.send_close_notify();
    tls.flush()
}

#[test]
fn a_service_with_a_certificate_of_its_own_is_taken_only_where_that_is_named() {
    let case = Fault::None.case().unwrap();
    let platform = PlatformId::of_quote(&case.evidence.quote).unwrap();
    let pccs = Pccs::start(Mode::Good(Box::new(case.collateral.clone())));
    let (url, own) = door(&pccs);
    let once = Settings { attempts: 1, ..Settings::of(&url) };
    let with = |roots: Option<String>| Service::new(Settings { tls_roots: roots, ..once.clone() });

    let fetched = with(Some(own.clone())).unwrap().fetch(&platform).unwrap();
    assert_eq!(fetched.digest(), case.collateral.digest());
    let asked = pccs.asked();
    let stranger = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap().cert.pem();
    for roots in [None, Some(stranger)] {
        let error = with(roots).unwrap().fetch(&platform).unwrap_err();
        assert!(
            matches!(&error, FetchError::Transport { why, .. } if why.contains("certificate")),
            "{error}"
        );
    }
    assert_eq!(pccs.asked(), asked, "a question reached a service that is not trusted");
    let error = with(Some("no PEM".into())).unwrap_err();
    assert!(matches!(error, SettingsError::TlsRoots(_)), "{error}");
}
