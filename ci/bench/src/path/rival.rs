//! HAProxy and nginx as their packages have them, each with one thread, set up to do what the proxy does: TLS in, TLS out,
//! connections kept, nothing buffered of a stream.

use super::cpu::Threads;
use super::load::Line;
use crate::channel::plain::Anyone;
use anyhow::{Context, Result, bail};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the packages have their libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// How long one may take to listen.
const STARTS: Duration = Duration::from_secs(20);
/// What a session of ours has as windows, so that no side is told more often that it may go on.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// A peer that runs.
pub struct Rival {
    /// Whose CPU counts.
    pub threads: Threads,
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The peers' packages, unpacked.
pub struct Packages<'a> {
    /// Their root.
    pub root: &'a Path,
    /// Where settings, keys and logs go.
    pub scratch: &'a Path,
}

impl Packages<'_> {
    /// HAProxy before these servers, which it asks by HTTP/2 or by HTTP/1.1 (`alpn`).
    pub async fn haproxy(&self, origins: &[SocketAddr], alpn: &str) -> Result<Rival> {
        let (address, both) = (free()?, self.keys()?.2);
        let servers: Vec<String> = origins
            .iter()
            .enumerate()
            .map(|(n, at)| format!("    server s{n} {at} ssl verify none alpn {alpn}\n"))
            .collect();
        let text = format!(
            "global\n    nbthread 1\n    maxconn 4096\ndefaults\n    mode http\n    timeout connect 10s\n    timeout client 60s\n    \
             timeout server 60s\n    option http-no-delay\n    http-reuse always\nfrontend f\n    \
             bind {address} ssl crt {} alpn h2 ssl-min-ver TLSv1.3\n    default_backend b\nbackend b\n    balance roundrobin\n{}",
            both.display(),
            servers.concat()
        );
        let settings = self.write(&format!("haproxy-{}.cfg", alpn.replace('/', "-")), &text)?;
        let mut command = self.program("usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(settings);
        self.start(command, address, "haproxy").await
    }

    /// nginx before these servers, which it asks by HTTP/1.1, since it can't by HTTP/2.
    pub async fn nginx(&self, origins: &[SocketAddr]) -> Result<Rival> {
        let (address, (certificate, key, _)) = (free()?, self.keys()?);
        let servers: String = origins.iter().map(|at| format!("server {at};")).collect();
        let at = self.scratch.display();
        let text = format!(
            "daemon off; master_process off; worker_processes 1; user root; pid {at}/nginx.pid; error_log {at}/nginx.log warn;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n    access_log off; tcp_nodelay on; keepalive_requests 100000000;\n    \
             client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; fastcgi_temp_path {at}/fastcgi;\n    \
             uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n    \
             upstream b {{ {servers} keepalive 128; keepalive_requests 100000000; }}\n    \
             server {{\n        listen {address} ssl; http2 on; ssl_protocols TLSv1.3;\n        \
             ssl_certificate {}; ssl_certificate_key {};\n        \
             location / {{ proxy_pass https://b; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
             proxy_buffering off; proxy_request_buffering on; }}\n    }}\n}}\n",
            certificate.display(),
            key.display()
        );
        let settings = self.write("nginx.conf", &text)?;
        let mut command = self.program("usr/sbin/nginx");
        command.arg("-e").arg(self.scratch.join("nginx.log")).arg("-c").arg(settings);
        self.start(command, address, "nginx").await
    }

    /// A program of the packages with their own libraries, so that it needs no root file system of its own.
    fn program(&self, path: &str) -> Command {
        let libraries = self.root.join(LIBRARIES);
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(&libraries).arg(self.root.join(path));
        command.env("OPENSSL_CONF", "/dev/null");
        command
    }

    async fn start(&self, mut command: Command, address: SocketAddr, name: &'static str) -> Result<Rival> {
        let log = self.scratch.join(format!("{name}.out"));
        let out = std::fs::File::create(&log).with_context(|| format!("{}: can't write", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child =
            command.spawn().with_context(|| format!("{name} does not start; is its package there?"))?;
        let mut rival = Rival { threads: Threads::Of(child.id()), address, child };
        let began = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = rival.child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("{name} ended at once ({status}): {}", said.trim());
            }
            if began.elapsed() > STARTS {
                bail!("{name} does not listen after {} s; see {}", STARTS.as_secs(), log.display());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(rival)
    }

    /// Certificate, key, and both in one file.
    fn keys(&self) -> Result<(PathBuf, PathBuf, PathBuf)> {
        let made = rcgen::generate_simple_self_signed(["proxy.invalid".to_owned()])?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Ok((
            self.write("certificate.pem", &certificate)?,
            self.write("key.pem", &key)?,
            self.write("both.pem", &format!("{certificate}{key}"))?,
        ))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        std::fs::write(&path, text).with_context(|| format!("{}: can't write", path.display()))?;
        Ok(path)
    }
}

/// A port that nobody listens on at the moment.
fn free() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The cipher that our own ends agree on; one for all, so that no side has the cheaper one.
fn provider() -> rustls::crypto::CryptoProvider {
    let cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384];
    rustls::crypto::CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() }
}

/// Settings of the servers behind the peers.
pub fn origin_tls() -> Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(["origin.invalid".to_owned()])?;
    let key: PrivateKeyDer<'static> = made.signing_key.into();
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A connection by HTTP/2 on plain TLS.
pub async fn dial(address: SocketAddr) -> Result<Line> {
    let provider = Arc::new(provider());
    let anyone = Arc::new(Anyone(provider.clone()));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(anyone)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await.with_context(|| format!("{address}: nobody listens"))?;
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("proxy.invalid")?;
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.context("TLS with a peer")?;
    let mut client = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    client.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    let (sender, connection) = client.handshake(TokioIo::new(tls)).await?;
    tokio::spawn(connection);
    Ok(Line::Plain(sender))
}
