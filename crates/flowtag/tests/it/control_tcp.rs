//! The control API on TCP, asked by curl and by flowtag's own commands: with a token, with TLS, and what is refused.

use std::fs::{self, Permissions};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::api::Answer;
use crate::common::daemon::{Daemon, binary};
use crate::common::{api, cli};
use flowtag_testbed::wait_until;
use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const QUIET: &str = "[mark]\nenabled = false\n[outputs.firefly]\nenabled = false\n[inputs.control]\n";

/// Files beside the daemon's own.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, mode: u32, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        path
    }
}

/// An authority that a test trusts.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Writes `tls.pem` and `tls.key` for localhost.
    fn certify(&self, files: &Files) {
        let key = KeyPair::generate().expect("a key");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).expect("names");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        files.write("tls.pem", 0o644, &certificate.pem());
        files.write("tls.key", 0o600, &key.serialize_pem());
        files.write("ca.pem", 0o644, &self.certificate);
    }
}

fn secured(files: &Files) -> String {
    files.write("token", 0o600, &format!("{TOKEN}\n"));
    let path = |name| files.path(name).display().to_string();
    format!(
        "{QUIET}listen = \"127.0.0.1:0\"\ntoken_file = {:?}\ntls_certificate = {:?}\ntls_key = {:?}\n",
        path("token"),
        path("tls.pem"),
        path("tls.key")
    )
}

/// `https://127.0.0.1:40123`
fn url(daemon: &Daemon) -> String {
    let status = cli::json(daemon, &["status"]);
    status["services"]["inputs.control_tcp"]["at"].as_str().unwrap_or_else(|| panic!("{status:#}")).to_owned()
}

fn counts(daemon: &Daemon) -> Value {
    cli::json(daemon, &["status"])["services"]["inputs.control_tcp"]["counts"].clone()
}

/// Status and body as curl sees them.
fn curl(ca: &Path, args: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "30", "--write-out", "\n%{http_code}", "--cacert"]);
    let output = curl.arg(ca).args(args).output().expect("curl runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let (body, status) = text.rsplit_once('\n').expect("a status");
    (status.to_owned(), format!("{body}{}", String::from_utf8_lossy(&output.stderr)))
}

fn remote(url: &str, files: &Files, args: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.env("FLOWTAG_URL", url).env("FLOWTAG_TOKEN_FILE", files.path("token"));
    command.env("FLOWTAG_CA_FILE", files.path("ca.pem")).args(args);
    command.output().expect("the command line runs")
}

#[test]
fn whoever_has_the_token_uses_all_of_the_api_by_tls() {
    let files = Files::new();
    let authority = Authority::new();
    authority.certify(&files);
    let daemon = Daemon::start(&secured(&files));
    let (url, ca) = (url(&daemon), files.path("ca.pem"));
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");
    let flows = format!("{url}/v1/flows");
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let start = api::start(1, 2).to_string();
    let (status, body) = curl(&ca, &["--header", &bearer, "--data", &start, &flows]);
    assert_eq!(status, "201", "{body}");
    let lower = format!("authorization: bEARER {TOKEN}");
    assert_eq!(curl(&ca, &["--header", &lower, &flows]).0, "200");
    for wrong in ["Authorization: Bearer 0123", "Authorization: Basic Zm9vOmJhcg==", "X-Token: x"] {
        let (status, body) = curl(&ca, &["--header", wrong, "--data", &start, &flows]);
        assert_eq!(status, "401", "{wrong}: {body}");
        assert!(body.contains("the token is missing or wrong"), "{body}");
    }
    let counts = counts(&daemon);
    assert_eq!(
        (&counts["requests"], &counts["events"], &counts["denied"]),
        (&json!(5), &json!(1), &json!(3))
    );
    let log = daemon.log();
    let line = log.lines().find(|l| l.contains("started: tcp [2001:db8::1]:1 ")).expect("a line");
    assert!(line.contains("peer=127.0.0.1:"), "{line}");
    daemon.stop();
}

#[test]
fn commands_work_from_elsewhere() {
    let files = Files::new();
    Authority::new().certify(&files);
    let daemon = Daemon::start(&secured(&files));
    let by_name = url(&daemon).replace("127.0.0.1", "localhost");
    let start = ["flow", "start", "--tag", "cms/Analysis Input", "tcp", "[2001:db8::1]:1", "[2001:db8::2]:2"];
    for url in [url(&daemon), by_name] {
        for args in [&start[..], &["flow", "list"], &["status"], &["rule", "list"], &["coverage"]] {
            let output = remote(&url, &files, args);
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let list = String::from_utf8(remote(&url(&daemon), &files, &["flow", "list"]).stdout).expect("text");
    assert!(list.contains("cms/Analysis Input"), "{list}");
    daemon.stop();
}

#[test]
fn commands_say_what_is_wrong_with_the_way_to_a_daemon() {
    let files = Files::new();
    Authority::new().certify(&files);
    let daemon = Daemon::start(&secured(&files));
    let url = url(&daemon);
    let refusal = |url: &str| {
        let output = remote(url, &files, &["flow", "list"]);
        assert!(!output.status.success());
        String::from_utf8(output.stderr).expect("text")
    };
    files.write("token", 0o600, "another token that is long enough");
    assert!(refusal(&url).contains("the token is missing or wrong"), "{}", refusal(&url));
    files.write("ca.pem", 0o644, &Authority::new().certificate);
    assert!(refusal(&url).contains("no TLS with the daemon at https://127.0.0.1:"), "{}", refusal(&url));
    let plain = url.replace("https", "http");
    assert!(refusal(&plain).starts_with("flowtag: "), "{}", refusal(&plain));
    for wrong in ["localhost:80", "https://localhost", "ftp://localhost:1", "https://localhost:1/path"] {
        assert!(refusal(wrong).contains("is not where a daemon could be"), "{wrong}: {}", refusal(wrong));
    }
    assert!(refusal("http://127.0.0.1:1").contains("inputs.control.listen"));
    daemon.stop();
}

#[test]
fn token_and_certificate_are_read_again_on_sighup() {
    let files = Files::new();
    Authority::new().certify(&files);
    let config = secured(&files);
    let daemon = Daemon::start(&config);
    let url = url(&daemon);
    assert!(remote(&url, &files, &["status"]).status.success());
    let new = Authority::new();
    new.certify(&files);
    files.write("token", 0o600, "a new token, of twenty_eight".replace([' ', ','], "-").as_str());
    daemon.signal(Signal::SIGHUP);
    wait_until("the new token and certificate", LIMIT, || {
        Ok(remote(&url, &files, &["status"]).status.success().then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
    // One that cannot be used leaves the old one.
    let (token, key) = (fs::read(files.path("token")).expect("a token"), files.path("tls.key"));
    fs::write(&key, "no key").expect("written");
    files.write("token", 0o600, "a token that would be long enough".replace(' ', "-").as_str());
    daemon.signal(Signal::SIGHUP);
    wait_until("the error", LIMIT, || {
        Ok(daemon.log().contains("the old token and certificate go on being used").then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e:#}\n{}", daemon.log()));
    fs::write(files.path("token"), token).expect("written");
    assert!(remote(&url, &files, &["status"]).status.success(), "{}", daemon.log());
    daemon.stop();
}

fn plain(daemon: &Daemon) -> TcpStream {
    let url = url(daemon);
    let stream = TcpStream::connect(url.strip_prefix("http://").expect("not TLS")).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    stream
}

#[test]
fn loopback_needs_no_token_and_takes_nothing_from_web_pages() {
    let daemon = Daemon::start(&format!("{QUIET}listen = \"[::1]:0\"\n"));
    let ask = |head: &str| {
        let mut stream = plain(&daemon);
        let body = api::start(1, 2).to_string();
        let length = body.len();
        write!(stream, "POST /v1/flows HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{head}\r\n{body}")
            .expect("sent");
        Answer::read(&mut BufReader::new(stream))
    };
    let refused = ask("Origin: https://example.org\r\nContent-Type: text/plain\r\n");
    assert_eq!((refused.status, refused.error()), (403, "requests of web pages are not taken".to_owned()));
    assert_eq!(ask("").status, 201);
    daemon.stop();
}

#[test]
fn access_rules_see_control_tcp_and_nobody_in_particular() {
    let daemon = Daemon::start(&format!(
        "{QUIET}listen = \"[::1]:0\"\n[[access]]\ninput = \"control\"\ntags = \"cms\"\n\
         [[access]]\nuser = 0\ntags = \"cms\"\n[[access]]\ninput = \"control-tcp\"\ntags = \"atlas\"\n"
    ));
    let ask = |method: &str, path: &str, body: &Value| {
        let mut stream = plain(&daemon);
        stream.write_all(&api::request(method, path, body.to_string().as_bytes())).expect("sent");
        Answer::read(&mut BufReader::new(stream))
    };
    let mut start = api::start(1, 2);
    let denied = ask("POST", "/v1/flows", &start);
    assert_eq!(denied.status, 403);
    assert!(denied.error().starts_with("input control-tcp may not tag as "), "{}", denied.error());
    start["experiment"] = json!("atlas");
    assert_eq!(ask("POST", "/v1/flows", &start).status, 201);
    assert_eq!(ask("POST", "/v1/rules", &json!({ "name": "a", "tag": "cms/perfSONAR" })).status, 403);
    assert_eq!(ask("POST", "/v1/rules", &json!({ "name": "a", "tag": "atlas/perfSONAR" })).status, 201);
    assert_eq!(counts(&daemon)["denied"], 2);
    daemon.stop();
}

/// What a daemon says that must not start.
fn refused_start(files: &Files, keys: &str) -> String {
    let dir = files.0.path().display();
    let config = files.write(
        "flowtag.toml",
        0o644,
        &format!("runtime_dir = \"{dir}/run\"\n{QUIET}path = \"{dir}/control.sock\"\n{keys}"),
    );
    let output = Command::new(binary()).arg("run").arg("--config").arg(config).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{keys}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn secrets_that_keep_nobody_out_are_refused() {
    let files = Files::new();
    Authority::new().certify(&files);
    files.write("open", 0o644, TOKEN);
    files.write("short", 0o600, "secret\n");
    files.write("token", 0o600, TOKEN);
    files.write("open.key", 0o644, &fs::read_to_string(files.path("tls.key")).expect("a key"));
    let other = KeyPair::generate().expect("a key").serialize_pem();
    files.write("other.key", 0o600, &other);
    let path = |name: &str| files.path(name).display().to_string();
    let tls = |key: &str| format!("tls_certificate = {:?}\ntls_key = {:?}\n", path("tls.pem"), path(key));
    let token = |name: &str| format!("token_file = {:?}\n", path(name));
    let cases = [
        (token("open"), "open has mode 0644, so others can read it (inputs.control.token_file): chmod 0600"),
        (token("short"), "short has no token (inputs.control.token_file)"),
        (token("absent"), "absent (inputs.control.token_file)"),
        (tls("open.key"), "open.key has mode 0644, so others can read it (inputs.control.tls_key)"),
        (tls("other.key"), "do not belong together"),
        (tls("tls.pem"), "tls.pem has mode 0644"),
    ];
    for (keys, expected) in cases {
        let said = refused_start(&files, &format!("listen = \"127.0.0.1:0\"\n{keys}"));
        assert!(said.contains(expected), "{said} is not\n{expected}");
    }
    let said = refused_start(&files, "listen = \"[::]:8443\"\n");
    assert!(said.contains("set inputs.control.token_file, or listen on 127.0.0.1"), "{said}");
}

#[test]
fn those_without_a_handshake_keep_nobody_waiting() {
    let files = Files::new();
    Authority::new().certify(&files);
    let daemon = Daemon::start(&secured(&files));
    let url = url(&daemon);
    let address = url.strip_prefix("https://").expect("TLS");
    // More than there is room for: each holds its place for ten seconds at most, and the control socket is another door.
    let mut idle: Vec<_> = (0..300).map(|_| TcpStream::connect(address).expect("the backlog")).collect();
    idle[0].write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    cli::ok(&daemon, &["status"]);
    assert!(remote(&url, &files, &["status"]).status.success());
    let mut rest = Vec::new();
    idle[1].set_read_timeout(Some(LIMIT)).expect("a time limit");
    let _ = idle[1].read_to_end(&mut rest);
    daemon.stop();
}
