//! Addresses as the world sees them: what reports say in place of an address behind NAT or in a pod.
//!
//! A table of the configuration goes first, for both ends of a flow. For private addresses of this host that it does not
//! have, servers are asked (STUN, HTTP), each in turn until one answers. That happens in the background: whoever reports
//! gets at once what is known, and what a flow is inside the daemon never changes.
//!
//! Bounds: [`MAX_KNOWN`] addresses are remembered, [`MAX_WAITING`] wait to be asked about, [`AT_ONCE`] are asked about at a
//! time.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::sync::{Semaphore, mpsc};

use super::counters::{Board, Entry, Target, counters};
use super::stun;
use super::throttle::{Throttle, chain};
use crate::config::{self, HostPort};
use crate::https;
use crate::outputs::resolve;

/// Name on the board.
const NAME: &str = "addresses";
const MAX_KNOWN: usize = 4096;
const MAX_WAITING: usize = 256;
const AT_ONCE: usize = 16;
/// How soon after a failure servers are asked again, unless `refresh` is sooner.
const AGAIN: Duration = Duration::from_secs(30);
/// Bytes of an HTTP answer: an address and some blanks.
const MAX_TEXT: usize = 1024;

counters! {
    /// What became of addresses in reports.
    pub(crate) struct Counters {
        /// Ends of flows whose address was replaced by the table.
        mapped,
        /// Ends of flows whose address was replaced by what a server answered.
        translated,
        /// Ends of flows that were reported with a private address because no answer is known.
        unknown,
        /// Answers of servers that were used.
        answers,
        /// Addresses for which no server had an answer.
        failures,
        /// Addresses that were not asked about because too many are known or wait.
        refused,
    }
}

/// Translates addresses. Clones share what is known.
#[derive(Clone)]
pub(crate) struct Addresses(Arc<Shared>);

struct Shared {
    settings: RwLock<Arc<Settings>>,
    known: Mutex<HashMap<IpAddr, Known>>,
    questions: mpsc::Sender<IpAddr>,
    counters: Arc<Counters>,
    /// Last error of each server that has one.
    errors: Mutex<BTreeMap<String, String>>,
    throttle: Mutex<Throttle>,
}

struct Settings {
    table: Table,
    config: config::Addresses,
}

/// What is known of an address of this host.
struct Known {
    /// An answer stays in use until there is another.
    public: Option<IpAddr>,
    /// When to ask again.
    until: Instant,
    is_asked: bool,
}

/// The table of the configuration, by length of prefix.
#[derive(Debug, Default)]
struct Table(Vec<(u8, HashMap<IpNet, IpNet>)>);

impl Table {
    fn new(map: &[(IpNet, IpNet)]) -> Self {
        let mut lengths = BTreeMap::<u8, HashMap<IpNet, IpNet>>::new();
        for (from, to) in map {
            lengths.entry(from.prefix_len()).or_default().insert(from.trunc(), to.trunc());
        }
        Self(lengths.into_iter().rev().collect())
    }

    /// The entry with the longest prefix that has the address.
    fn find(&self, ip: IpAddr) -> Option<(IpNet, IpNet)> {
        self.0.iter().find_map(|(length, entries)| {
            let from = IpNet::new(ip, *length).ok()?.trunc();
            entries.get(&from).map(|to| (from, *to))
        })
    }
}

/// `ip` with the bits of the prefix replaced by those of `to`, the others kept.
fn move_into(ip: IpAddr, to: IpNet) -> IpAddr {
    match (ip, to) {
        (IpAddr::V4(ip), IpNet::V4(to)) => (ip & to.hostmask() | to.network()).into(),
        (IpAddr::V6(ip), IpNet::V6(to)) => (ip & to.hostmask() | to.network()).into(),
        _ => ip, // the configuration has no such entry
    }
}

/// Whether the address means something else elsewhere: RFC 1918, RFC 6598 (shared behind carriers' NAT), RFC 4193.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    const SHARED: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(100, 64, 0, 0), 10);
    const LOCAL: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
    match ip {
        IpAddr::V4(ip) => ip.is_private() || SHARED.contains(&ip),
        IpAddr::V6(ip) => LOCAL.contains(&ip),
    }
}

impl Addresses {
    /// To be called within the runtime.
    pub(crate) fn start(config: &config::Addresses, board: &Board) -> Self {
        let (questions, waiting) = mpsc::channel(MAX_WAITING);
        let shared = Arc::new(Shared {
            settings: RwLock::new(Arc::new(Settings::new(config))),
            known: Mutex::default(),
            questions,
            counters: Arc::default(),
            errors: Mutex::default(),
            throttle: Mutex::default(),
        });
        tokio::spawn(answer(Arc::downgrade(&shared), waiting));
        let addresses = Self(shared);
        addresses.show(board);
        addresses
    }

    /// Puts a changed configuration into force. What is known stays; with other servers it is asked for anew.
    pub(crate) fn configure(&self, config: &config::Addresses, board: &Board) {
        let old = self.0.settings();
        if old.config == *config {
            return;
        }
        *self.0.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Settings::new(config));
        if (&old.config.stun, &old.config.http) != (&config.stun, &config.http) {
            let now = Instant::now();
            lock(&self.0.known).values_mut().for_each(|known| known.until = now);
            lock(&self.0.errors).clear();
        }
        self.show(board);
    }

    fn show(&self, board: &Board) {
        let Settings { config, .. } = &*self.0.settings();
        if config.map.is_empty() && config.stun.is_empty() && config.http.is_empty() {
            board.remove(NAME);
            return;
        }
        let counters: Arc<Counters> = Arc::clone(&self.0.counters);
        let shared = Arc::downgrade(&self.0);
        let targets = move || shared.upgrade().map(|shared| shared.targets()).unwrap_or_default();
        board.put(NAME, Entry { targets: Arc::new(targets), ..Entry::new(vec![counters]) });
    }

    /// The address to report in place of `ip`, which is that of the other end of a flow: only the table knows it.
    pub(crate) fn mapped(&self, ip: IpAddr) -> IpAddr {
        let settings = self.0.settings.read().unwrap_or_else(PoisonError::into_inner);
        self.0.in_table(&settings, ip).unwrap_or(ip)
    }

    /// The address to report in place of `ip`, which is this end of a flow, as far as is known now; `ip` itself where
    /// nothing is to be done. If nobody asked about it yet, or too long ago, that is begun. Never waits.
    pub(crate) fn public(&self, ip: IpAddr) -> IpAddr {
        let shared = &*self.0;
        let settings = shared.settings.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(public) = shared.in_table(&settings, ip) {
            return public;
        }
        if !settings.has_servers() || !is_private(ip) {
            return ip;
        }
        let known = shared.known(ip);
        let counter = if known.is_some() { &shared.counters.translated } else { &shared.counters.unknown };
        counter.add(1);
        known.unwrap_or(ip)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Settings {
    fn new(config: &config::Addresses) -> Self {
        Self { table: Table::new(&config.map), config: config.clone() }
    }

    fn has_servers(&self) -> bool {
        !(self.config.stun.is_empty() && self.config.http.is_empty())
    }
}

impl Shared {
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn in_table(&self, settings: &Settings, ip: IpAddr) -> Option<IpAddr> {
        let (_, to) = settings.table.find(ip)?;
        self.counters.mapped.add(1);
        Some(move_into(ip, to))
    }

    /// What is known of a private address; has it asked about when that is due.
    fn known(&self, ip: IpAddr) -> Option<IpAddr> {
        let now = Instant::now();
        let mut all = lock(&self.known);
        if all.len() >= MAX_KNOWN && !all.contains_key(&ip) && !make_room(&mut all, now) {
            self.counters.refused.add(1);
            return None;
        }
        let known = all.entry(ip).or_insert(Known { public: None, until: now, is_asked: false });
        if !known.is_asked && known.until <= now {
            match self.questions.try_send(ip) {
                Ok(()) => known.is_asked = true,
                Err(_) => self.counters.refused.add(1),
            }
        }
        known.public
    }

    /// Asks, and remembers what came of it.
    async fn ask(&self, ip: IpAddr) {
        let settings = self.settings();
        let Asked { answer, failures } = ask(&settings.config, ip).await;
        self.remember_errors(&settings.config, answer.as_ref(), &failures);
        let refresh = settings.config.refresh;
        let (public, wait) = match &answer {
            Ok(answer) => (Some(answer.public), refresh),
            Err(Silence::NotOurs) => (None, refresh),
            Err(Silence::NoAnswer) => (None, refresh.min(AGAIN)),
        };
        match &answer {
            Ok(_) => self.counters.answers.add(1),
            Err(_) => self.counters.failures.add(1),
        }
        let before = {
            let mut all = lock(&self.known);
            let Some(known) = all.get_mut(&ip) else { return };
            let before = known.public;
            let servers = |s: &Settings| (s.config.stun.clone(), s.config.http.clone());
            let is_current = servers(&settings) == servers(&self.settings());
            known.until = Instant::now() + if is_current { wait } else { Duration::ZERO };
            known.is_asked = false;
            known.public = public.or(before);
            before
        };
        match answer {
            Ok(answer) if before != Some(answer.public) => {
                tracing::info!(address = %ip, public = %answer.public, server = answer.server, "public address");
            }
            Err(Silence::NoAnswer) => self.complain(ip, failures),
            _ => {}
        }
    }

    fn complain(&self, ip: IpAddr, failures: Vec<Failure>) {
        let errors = failures.iter().map(|f| f.error.as_str()).collect::<Vec<_>>().join("; ");
        let error = NoAnswer { ip, errors };
        lock(&self.throttle).warn("a public address is not known: the private one is reported", &error);
    }

    fn remember_errors(
        &self,
        config: &config::Addresses,
        answer: Result<&Answer, &Silence>,
        failures: &[Failure],
    ) {
        let mut errors = lock(&self.errors);
        if let Ok(answer) = answer {
            errors.remove(&answer.server);
        }
        errors.extend(failures.iter().map(|f| (f.server.clone(), f.error.clone())));
        let servers: Vec<_> = servers(config).map(|s| s.to_string()).collect();
        errors.retain(|server, _| servers.contains(server)); // they may have changed meanwhile
    }

    fn targets(&self) -> Vec<Target> {
        let errors = lock(&self.errors).clone();
        let target = |server: Server<'_>| {
            let name = server.to_string();
            Target { error: errors.get(&name).cloned(), name, address: None }
        };
        servers(&self.settings().config).map(target).collect()
    }
}

/// Forgets what nobody asked for lately. False: there is nothing of that kind.
fn make_room(all: &mut HashMap<IpAddr, Known>, now: Instant) -> bool {
    all.retain(|_, known| known.is_asked || known.until > now);
    all.len() < MAX_KNOWN
}

#[derive(Debug, thiserror::Error)]
#[error("no server answered for {ip}: {errors}")]
struct NoAnswer {
    ip: IpAddr,
    errors: String,
}

/// Takes what waits to be asked about until nobody can ask any more.
async fn answer(shared: Weak<Shared>, mut waiting: mpsc::Receiver<IpAddr>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(ip) = waiting.recv().await {
        let (Some(shared), Ok(place)) = (shared.upgrade(), Arc::clone(&places).acquire_owned().await) else {
            return;
        };
        tokio::spawn(async move {
            shared.ask(ip).await;
            drop(place);
        });
    }
}

/// Whoever can be asked for an address.
#[derive(Debug, Clone, Copy)]
enum Server<'a> {
    Stun(&'a HostPort),
    Http(&'a str),
}

impl std::fmt::Display for Server<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stun(server) => write!(f, "stun {server}"),
            Self::Http(url) => write!(f, "{url}"),
        }
    }
}

/// All, in the order in which they are asked.
fn servers(config: &config::Addresses) -> impl Iterator<Item = Server<'_>> {
    let http = config.http.iter().map(|url| Server::Http(url));
    config.stun.iter().map(Server::Stun).chain(http)
}

/// A server's answer.
#[derive(Debug)]
struct Answer {
    public: IpAddr,
    server: String,
    took: Duration,
}

/// Why there is none.
#[derive(Debug)]
enum Silence {
    NotOurs,
    NoAnswer,
}

/// A server that had no answer, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Failure {
    pub(crate) server: String,
    pub(crate) error: String,
}

struct Asked {
    answer: Result<Answer, Silence>,
    failures: Vec<Failure>,
}

/// Asks one server after the other.
async fn ask(config: &config::Addresses, ip: IpAddr) -> Asked {
    let mut failures = Vec::new();
    if stun::bind(ip).await.is_err() {
        return Asked { answer: Err(Silence::NotOurs), failures };
    }
    for server in servers(config) {
        let began = Instant::now();
        let asked = match server {
            Server::Stun(host) => by_stun(host, ip, config.timeout).await,
            Server::Http(url) => by_http(url, ip, config.timeout).await,
        };
        let server = server.to_string();
        match asked.and_then(|public| same_family(ip, public)) {
            Ok(public) => {
                return Asked { answer: Ok(Answer { public, server, took: began.elapsed() }), failures };
            }
            Err(error) => failures.push(Failure { server, error }),
        }
    }
    Asked { answer: Err(Silence::NoAnswer), failures }
}

/// Both ends of a report have one family (NAT64 would tell another).
fn same_family(ip: IpAddr, public: IpAddr) -> Result<IpAddr, String> {
    if ip.is_ipv4() == public.is_ipv4() {
        return Ok(public);
    }
    Err(format!("it answered {public} for {ip}, which is of another family"))
}

async fn by_stun(server: &HostPort, ip: IpAddr, timeout: Duration) -> Result<IpAddr, String> {
    let asked = tokio::time::timeout(timeout, async {
        let found = resolve::addresses(&server.host).await.map_err(|e| chain(&e))?;
        let Some(address) = found.into_iter().find(|a| a.is_ipv4() == ip.is_ipv4()) else {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(format!("{server} has no {family} address"));
        };
        let socket = stun::bind(ip).await.map_err(|e| chain(&e))?;
        stun::ask(&socket, SocketAddr::new(address, server.port)).await.map_err(|e| chain(&e))
    });
    let silent = |_| format!("no answer from {server} within {}", humantime::format_duration(timeout));
    asked.await.map_err(silent)?
}

async fn by_http(url: &str, ip: IpAddr, timeout: Duration) -> Result<IpAddr, String> {
    let request =
        https::Request { timeout, max_body: MAX_TEXT, source: Some(ip), ..https::Request::get(url) };
    let answer = https::request(request).await.map_err(|e| chain(&e))?;
    if !answer.status.is_success() {
        return Err(format!("{url} answered {}", answer.status));
    }
    let text = String::from_utf8_lossy(&answer.body);
    let address = text.trim().parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    address.filter(|ip| stun::is_usable(*ip)).ok_or_else(|| {
        let begin: String = text.trim().chars().filter(|c| !c.is_control()).take(40).collect();
        format!("{url} answered {begin:?}, which is not an address: use a URL that answers with nothing else")
    })
}

/// Why an address is reported as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// The table has it.
    Mapped { from: IpNet, to: IpNet },
    /// A server answered.
    Answered { server: String, took: Duration },
    /// It means the same everywhere.
    NotPrivate,
    /// Private, and nobody to ask.
    NoServers,
    /// Private, and nobody can be asked from it.
    NotOurs,
    /// Private, and no server answered.
    NoAnswer,
}

/// What would be reported in place of an address.
#[derive(Debug)]
pub(crate) struct Explanation {
    pub(crate) public: IpAddr,
    pub(crate) why: Why,
    pub(crate) failures: Vec<Failure>,
}

/// Finds out by itself, without what a daemon knows.
pub(crate) async fn explain(config: &config::Addresses, ip: IpAddr) -> Explanation {
    let as_is = |why| Explanation { public: ip, why, failures: Vec::new() };
    let settings = Settings::new(config);
    if let Some((from, to)) = settings.table.find(ip) {
        return Explanation { public: move_into(ip, to), ..as_is(Why::Mapped { from, to }) };
    }
    if !is_private(ip) {
        return as_is(Why::NotPrivate);
    }
    if !settings.has_servers() {
        return as_is(Why::NoServers);
    }
    let Asked { answer, failures } = ask(config, ip).await;
    match answer {
        Ok(Answer { public, server, took }) => {
            Explanation { public, why: Why::Answered { server, took }, failures }
        }
        Err(Silence::NotOurs) => Explanation { failures, ..as_is(Why::NotOurs) },
        Err(Silence::NoAnswer) => Explanation { failures, ..as_is(Why::NoAnswer) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> config::Addresses {
        config::Config::parse(toml, "test").expect("a configuration").addresses
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_longest_prefix_decides_and_host_bits_stay() {
        let config = config(
            "[addresses.map]\n\"10.0.0.0/8\" = \"198.0.0.0/8\"\n\"10.1.0.0/16\" = \"203.0.0.0/16\"\n\
             \"10.1.2.3\" = \"192.0.2.9\"\n\"fd00:5::/48\" = \"2001:db8:5::/48\"\n\"0.0.0.0/0\" = \"0.0.0.0/0\"",
        );
        let table = Table::new(&config.map);
        for (from, to) in [
            ("10.1.2.3", "192.0.2.9"),
            ("10.1.2.4", "203.0.2.4"),
            ("10.2.3.4", "198.2.3.4"),
            ("192.168.0.1", "192.168.0.1"),
            ("fd00:5:0:1::7", "2001:db8:5:1::7"),
        ] {
            let (_, into) = table.find(ip(from)).expect("an entry");
            assert_eq!(move_into(ip(from), into), ip(to), "{from}");
        }
        assert_eq!(table.find(ip("fd00:6::1")), None);
    }

    #[test]
    fn private_is_what_means_something_else_elsewhere() {
        for private in
            ["10.0.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "100.127.255.255", "fd00::1"]
        {
            assert!(is_private(ip(private)), "{private}");
        }
        for public in ["172.32.0.1", "100.128.0.1", "192.0.2.1", "2001:db8::1", "fe80::1", "127.0.0.1", "::1"]
        {
            assert!(!is_private(ip(public)), "{public}");
        }
    }

    #[tokio::test]
    async fn without_configuration_nothing_is_asked_or_changed() {
        let board = Board::default();
        let addresses = Addresses::start(&config(""), &board);
        assert_eq!(addresses.public(ip("10.0.0.1")), ip("10.0.0.1"));
        assert!(board.status().is_empty() && lock(&addresses.0.known).is_empty());
    }

    #[tokio::test]
    async fn what_is_remembered_and_what_waits_is_bounded() {
        let board = Board::default();
        let addresses = Addresses::start(&config("addresses.stun = [\"127.0.0.1:9\"]"), &board);
        for n in 0..20_000_u32 {
            let private = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            assert_eq!(addresses.public(private), private);
        }
        assert!(lock(&addresses.0.known).len() <= MAX_KNOWN);
        assert!(addresses.0.counters.refused.get() >= 20_000 - (MAX_WAITING + AT_ONCE) as u64 * 2);
        assert_eq!(board.status()[NAME].targets[0].name, "stun 127.0.0.1:9");
    }
}
