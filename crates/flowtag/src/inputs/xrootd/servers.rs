//! What XRootD's servers said: who is logged in, from where, for whom, and what they moved. No I/O and no clock.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtag_engine::{FlowId, Registry, Usage};
use flowtag_wire::xrootd::{
    Datagram, FileRecord, Info, Message, Moved, Records, Server as Said, UserId, XrootdError,
};
use flowtag_wire::{Tag, TagError};

use super::matching::Client;

/// Bounds of what is remembered, over all servers.
const MAX_SERVERS: usize = 64;
const MAX_USERS: usize = 65_536;
const MAX_FILES: usize = 262_144;
/// Longest name of a host (RFC 1035 §2.3.4).
const MAX_HOST: usize = 255;
/// A server that has said nothing for so long makes room for another.
const SILENT: Duration = Duration::from_secs(2 * 3600);
/// A user whose connection is gone is forgotten after so long: their disconnect was lost.
pub(super) const GONE: Duration = Duration::from_secs(15 * 60);

/// Which server: where its datagrams come from, and its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ServerKey {
    pub(super) from: IpAddr,
    pub(super) id: u64,
}

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Servers {
    pub(super) servers: HashMap<ServerKey, Server>,
    users: usize,
    files: usize,
}

/// A server since it started.
#[derive(Debug)]
pub(super) struct Server {
    started: u32,
    /// Unknown until it says so, at its start and every `ident` seconds (`xrootd.monitor`).
    pub(super) port: Option<u16>,
    pub(super) users: HashMap<u32, User>,
    /// Numbers by hashed user id: messages that have no number.
    names: HashMap<u64, u32>,
    files: HashMap<u32, File>,
    pub(super) clients: HashMap<Box<str>, Client>,
    /// It tells for whom, by itself: no need to go by the users' organisation.
    tells_codes: bool,
    sequence: Option<u8>,
    heard: Instant,
}

/// Somebody who is logged in.
#[derive(Debug)]
pub(super) struct User {
    pub(super) host: Box<str>,
    pub(super) application: Option<Arc<str>>,
    pub(super) tag: Option<Tag>,
    pub(super) since: Instant,
    pub(super) connection: Option<super::matching::Claim>,
    /// When their host was first looked at after they logged in: their connection was there then.
    pub(super) looked: Option<Instant>,
    /// One of several that cannot be told apart, and need not be.
    pub(super) is_shared: bool,
    /// Their connection is gone or never was of this host.
    pub(super) is_lost: bool,
    /// Told to be without a connection.
    pub(super) is_counted: bool,
    moved: Moved,
    name: u64,
}

#[derive(Debug)]
struct File {
    user: u32,
    moved: Moved,
}

/// What follows from a datagram for flows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Flows whose user is gone, and what files they moved.
    pub(super) ended: Vec<(FlowId, Option<Usage>)>,
    pub(super) logins: u64,
    /// Datagrams of the f-stream that never came.
    pub(super) lost: u64,
    /// What was not remembered because a bound is reached.
    pub(super) dropped: u64,
    pub(super) malformed: Option<XrootdError>,
    pub(super) out_of_range: Option<TagError>,
}

impl Servers {
    /// Learns from a datagram.
    pub(super) fn hear(&mut self, bytes: &[u8], from: IpAddr, registry: &Registry, now: Instant) -> News {
        let mut news = News::default();
        match Datagram::decode(bytes) {
            Ok(datagram) => self.take(&datagram, from, registry, now, &mut news),
            Err(error) => news.malformed = Some(error),
        }
        news
    }

    fn take(
        &mut self,
        datagram: &Datagram<'_>,
        from: IpAddr,
        registry: &Registry,
        now: Instant,
        news: &mut News,
    ) {
        let started = datagram.started;
        match datagram.message {
            Message::Server(said) => self.server_said(from, started, &said, now, news),
            Message::User { dictid, user, info } => {
                self.login(
                    ServerKey { from, id: user.server },
                    started,
                    (dictid, user, info),
                    registry,
                    now,
                    news,
                );
            }
            Message::Codes { dictid, user, experiment, activity } => {
                let Some(server) = self.server(ServerKey { from, id: user.server }, started, now, news)
                else {
                    return;
                };
                server.tells_codes = true;
                match Tag::new(experiment.into(), activity.into()) {
                    Ok(tag) => server.set_tag(dictid, tag, now),
                    Err(error) => news.out_of_range = Some(error),
                }
            }
            Message::Path { dictid, user } => {
                let key = ServerKey { from, id: user.server };
                let server = self.server(key, started, now, news);
                if let Some(user) = server.and_then(|s| s.names.get(&hash(user.text)).copied()) {
                    self.open(key, dictid, user, news);
                }
            }
            Message::Files(records) => self.files(from, datagram, records, now, news),
            Message::Other(_) => {}
        }
    }

    fn server_said(&mut self, from: IpAddr, started: u32, said: &Said<'_>, now: Instant, news: &mut News) {
        let Some(server) = self.server(ServerKey { from, id: said.id }, started, now, news) else { return };
        if server.port != Some(said.port) {
            server.port = Some(said.port);
            server.clients.values_mut().for_each(|client| client.look(now));
        }
    }

    /// The server, made if it is new; none where there are too many.
    fn server(&mut self, key: ServerKey, started: u32, now: Instant, news: &mut News) -> Option<&mut Server> {
        match self.servers.get(&key).map(|server| server.started) {
            Some(known) if known == started => {}
            // A straggler of an earlier run.
            Some(known) if started < known => return None,
            Some(_) => self.forget(key),
            None if self.servers.len() >= MAX_SERVERS => {
                let silent = self.servers.iter().find(|(_, s)| now.duration_since(s.heard) > SILENT);
                let Some(silent) = silent.map(|(key, _)| *key) else {
                    news.dropped += 1;
                    return None;
                };
                self.forget(silent);
            }
            None => {}
        }
        let server = self.servers.entry(key).or_insert_with(|| Server::new(started, now));
        server.heard = now;
        Some(server)
    }

    fn forget(&mut self, key: ServerKey) {
        if let Some(server) = self.servers.remove(&key) {
            self.users -= server.users.len();
            self.files -= server.files.len();
        }
    }

    fn login(
        &mut self,
        key: ServerKey,
        started: u32,
        (dictid, id, info): (u32, UserId<'_>, Info<'_>),
        registry: &Registry,
        now: Instant,
        news: &mut News,
    ) {
        news.logins += 1;
        let is_full = self.users >= MAX_USERS || id.host.len() > MAX_HOST;
        let Some(server) = self.server(key, started, now, news) else { return };
        let known = server.users.contains_key(&dictid);
        if is_full && !known {
            news.dropped += 1;
            return;
        }
        let organisation = || organisation(&info, registry);
        let tag = if server.tells_codes { None } else { organisation() };
        let name = hash(id.text);
        let user = User {
            host: id.host.into(),
            application: info.get("x").map(Arc::from),
            tag,
            since: now,
            connection: None,
            looked: None,
            is_shared: false,
            is_lost: false,
            is_counted: false,
            moved: Moved::default(),
            name,
        };
        server.client(id.host).look(now);
        match server.users.insert(dictid, user) {
            Some(old) => server.forget_name(old.name, dictid),
            None => self.users += 1,
        }
        if let Some(server) = self.servers.get_mut(&key) {
            server.names.insert(name, dictid);
        }
    }

    fn files(
        &mut self,
        from: IpAddr,
        datagram: &Datagram<'_>,
        mut records: Records<'_>,
        now: Instant,
        news: &mut News,
    ) {
        let Some(Ok(FileRecord::Time { server })) = records.next() else { return };
        let candidates = self.servers.iter().filter(|(key, s)| {
            key.from == from && s.started == datagram.started && server.is_none_or(|id| id == key.id)
        });
        // Of old versions that do not say which server they are, the one that it has to be.
        let mut keys = candidates.map(|(key, _)| *key);
        let (Some(key), None) = (keys.next(), keys.next()) else { return };
        drop(keys);
        if let Some(server) = self.servers.get_mut(&key) {
            server.heard = now;
            let expected = server.sequence.map(|s| s.wrapping_add(1));
            news.lost += u64::from(expected.map_or(0, |e| datagram.sequence.wrapping_sub(e)));
            server.sequence = Some(datagram.sequence);
        }
        for record in records {
            match record {
                Ok(record) => self.record(key, record, news),
                Err(error) => news.malformed = Some(error),
            }
        }
    }

    fn record(&mut self, key: ServerKey, record: FileRecord, news: &mut News) {
        match record {
            FileRecord::Open { file, user: Some(user) } if user != 0 => self.open(key, file, user, news),
            FileRecord::Transfer { file, moved } => {
                if let Some(file) = self.servers.get_mut(&key).and_then(|s| s.files.get_mut(&file)) {
                    file.moved = moved;
                }
            }
            FileRecord::Close { file, moved } => {
                let Some(server) = self.servers.get_mut(&key) else { return };
                let Some(file) = server.files.remove(&file) else { return };
                self.files -= 1;
                if let Some(user) = server.users.get_mut(&file.user) {
                    user.add(moved);
                }
            }
            FileRecord::Disconnect { user } => news.ended.extend(self.gone(key, user)),
            _ => {}
        }
    }

    fn open(&mut self, key: ServerKey, file: u32, user: u32, news: &mut News) {
        let is_full = self.files >= MAX_FILES;
        let Some(server) = self.servers.get_mut(&key) else { return };
        if !server.users.contains_key(&user) {
            return;
        }
        if is_full {
            news.dropped += 1;
        } else if server.files.insert(file, File { user, moved: Moved::default() }).is_none() {
            self.files += 1;
        }
    }

    /// A user is gone: their flow, if it is known which, and what files moved on it.
    fn gone(&mut self, key: ServerKey, dictid: u32) -> Option<(FlowId, Option<Usage>)> {
        let server = self.servers.get_mut(&key)?;
        let mut user = server.users.remove(&dictid)?;
        self.users -= 1;
        let open = server.files.extract_if(|_, file| file.user == dictid);
        self.files -= open.map(|(_, file)| user.add(file.moved)).count();
        server.forget_name(user.name, dictid);
        if !server.users.values().any(|other| other.host == user.host) {
            server.clients.remove(&user.host);
        }
        let claim = user.connection?;
        // Of one that somebody else announced the direction may be another; then the kernel's numbers are better.
        let usage = Usage { sent: user.moved.read, received: user.moved.written };
        let usage = (claim.is_ours && usage != Usage::default()).then_some(usage);
        Some((claim.flow?, usage))
    }

    /// Forgets users who must be gone: their disconnect was lost.
    pub(super) fn purge(&mut self, now: Instant) {
        let gone = |user: &User| {
            let is_open = user.connection.as_ref().is_some_and(|claim| claim.is_open);
            !is_open && now.duration_since(user.since) > GONE
        };
        let of = |(key, server): (&ServerKey, &Server)| {
            let users = server.users.iter().filter(|(_, user)| gone(user));
            users.map(|(dictid, _)| (*key, *dictid)).collect::<Vec<_>>()
        };
        let gone: Vec<_> = self.servers.iter().flat_map(of).collect();
        for (key, dictid) in gone {
            self.gone(key, dictid);
        }
    }
}

impl Server {
    fn new(started: u32, now: Instant) -> Self {
        Self {
            started,
            port: None,
            users: HashMap::new(),
            names: HashMap::new(),
            files: HashMap::new(),
            clients: HashMap::new(),
            tells_codes: false,
            sequence: None,
            heard: now,
        }
    }

    fn client(&mut self, host: &str) -> &mut Client {
        if !self.clients.contains_key(host) {
            self.clients.insert(host.into(), Client::default());
        }
        self.clients.entry(host.into()).or_default()
    }

    pub(super) fn postpone(&mut self, host: &str, when: Instant) {
        if let Some(client) = self.clients.get_mut(host) {
            client.postpone(when);
        }
    }

    /// The name may be another user's by now.
    fn forget_name(&mut self, name: u64, dictid: u32) {
        if self.names.get(&name) == Some(&dictid) {
            self.names.remove(&name);
        }
    }

    fn set_tag(&mut self, dictid: u32, tag: Tag, now: Instant) {
        let Some(user) = self.users.get_mut(&dictid) else { return };
        let (host, was_shared) = (user.host.clone(), user.is_shared && user.tag != Some(tag));
        user.tag = Some(tag);
        self.client(&host).look(now);
        if was_shared {
            // They were alike, and may be no more.
            self.client(&host).forget_shared();
            self.users.values_mut().filter(|u| u.host == host).for_each(|u| u.is_shared = false);
        }
    }
}

impl User {
    fn add(&mut self, moved: Moved) {
        self.moved.read = self.moved.read.saturating_add(moved.read);
        self.moved.written = self.moved.written.saturating_add(moved.written);
    }
}

/// The tag of an authenticated user's organisation (`o`), where the protocol (`p`) is one that vouches for it, and there
/// is an experiment of that name. XRootD writes several organisations with blanks between them.
fn organisation(info: &Info<'_>, registry: &Registry) -> Option<Tag> {
    const VOUCHING: [&str; 4] = ["gsi", "ztn", "https", "http"];
    info.get("p").filter(|p| VOUCHING.contains(p))?;
    let mut names = info.get("o")?.split(' ').filter(|name| !name.is_empty());
    let first = names.next().filter(|name| !name.starts_with(|c: char| c.is_ascii_digit()))?;
    names.all(|name| name == first).then_some(())?;
    let experiment = registry.resolve_experiment(first).ok()?;
    let activity = registry.resolve_activity(experiment, "default").ok()?;
    Some(Tag { experiment, activity })
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
