//! HTTP and HTTPS servers that answer as a test wants, and certificates of a CA of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use flowtag_testbed::Host;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::hosts::listen;

type Answer = dyn Fn(&str) -> Vec<u8> + Send + Sync;

/// A server, for as long as the test's process lives.
pub struct Web {
    pub at: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Arc<Answer>>>,
}

impl Web {
    /// `answer` gets the head of each request and gives all of the answer, see [`ok`].
    pub fn start(
        host: &Host,
        at: SocketAddr,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let listener = host.run(|| listen(at)).expect("the host");
        Self::serve(listener, tls, answer)
    }

    /// On a port of this host's loopback.
    pub fn local(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        Self::serve(TcpListener::bind(("127.0.0.1", 0)).expect("a port"), tls, answer)
    }

    fn serve(
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let at = listener.local_addr().expect("an address");
        let answer: Arc<Answer> = Arc::new(answer);
        let web = Self { at, requests: Arc::default(), answer: Arc::new(Mutex::new(answer)) };
        let (requests, answer) = (Arc::clone(&web.requests), Arc::clone(&web.answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (requests, answer, tls) = (Arc::clone(&requests), Arc::clone(&answer), tls.clone());
                std::thread::spawn(move || {
                    let _ = match tls {
                        None => converse(stream, &requests, &answer),
                        Some(tls) => ServerConnection::new(tls)
                            .map_err(std::io::Error::other)
                            .and_then(|c| converse(StreamOwned::new(c, stream), &requests, &answer)),
                    };
                });
            }
        });
        web
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) {
        *self.answer.lock().expect("the answer") = Arc::new(answer);
    }

    /// Heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("requests").clone()
    }

    pub fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.at)
    }
}

fn converse(
    mut stream: impl Read + Write,
    requests: &Mutex<Vec<String>>,
    answer: &Mutex<Arc<Answer>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    requests.lock().expect("requests").push(head.clone());
    let answer = Arc::clone(&answer.lock().expect("the answer"));
    stream.write_all(&answer(&head))?;
    stream.flush()
}

/// 200 with this body.
pub fn ok(body: &str) -> Vec<u8> {
    with("200 OK", "", body)
}

/// `headers` are whole lines, each with its end.
pub fn with(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
        .into_bytes()
}

/// A server that takes connections and never says anything.
pub fn silent(host: &Host, at: SocketAddr) {
    let listener = host.run(|| listen(at)).expect("the host");
    std::thread::spawn(move || listener.incoming().flatten().collect::<Vec<TcpStream>>());
}

/// A certificate authority of the test's own.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    /// TLS for a server with this name or address.
    pub fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            );
        Arc::new(config.expect("a server"))
    }

    /// Writes its own certificate to a file.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, &self.pem).expect("the certificate is written");
        path
    }
}
