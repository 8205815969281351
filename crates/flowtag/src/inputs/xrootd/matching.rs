//! Which connection is whose. XRootD names a user's host and never the port, so it follows from what there is: of all
//! connections from that host to that server, and all who are logged in from there. No I/O and no clock.
//!
//! - A connection is older than its login. One that a user can have, and nobody else can: it is theirs.
//! - Several of each, and all those users are for the same experiment and activity: which is whose makes no difference.
//! - Some time after the last login, connections that are left (of parallel streams) get the tag that all users of that host
//!   have, if it is one.
//! - Otherwise nobody knows, and nothing is announced: that is counted.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowtag_engine::FlowId;
use flowtag_kernel::sockets::Socket;
use flowtag_wire::{Endpoint, Tag};

use super::servers::{Server, User};

/// How long logins may take. After it, a connection without a login is one of a user who has another.
pub(super) const SETTLED: Duration = Duration::from_secs(2);
/// `TCP_ESTABLISHED` of the kernel.
const ESTABLISHED: u8 = 1;

/// The host of some users, as a server calls it.
#[derive(Debug, Default)]
pub(super) struct Client {
    /// When it is to be looked at.
    due: Option<Instant>,
    /// Connections that are nobody's own, since when; and the tag that they were given, being one of several.
    free: HashMap<Connection, Free>,
}

#[derive(Debug, Clone, Copy)]
struct Free {
    seen: Instant,
    shared: Option<Tag>,
}

/// A connection in this moment: the inode tells two apart that follow one another with the same ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    pub(super) local: Endpoint,
    pub(super) remote: Endpoint,
    inode: u32,
}

/// A user's connection.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) connection: Connection,
    /// What was announced of it.
    pub(super) told: Option<Tag>,
    pub(super) flow: Option<FlowId>,
    /// The flow is in the table with the server as its source.
    pub(super) is_ours: bool,
    pub(super) is_open: bool,
}

/// What is to be announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// None: one of several.
    pub(super) user: Option<u32>,
    pub(super) connection: Connection,
    pub(super) tag: Tag,
    pub(super) application: Option<Arc<str>>,
}

/// What came of looking.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Matched {
    pub(super) found: Vec<Found>,
    /// Users who have a tag, and nobody knows which of several connections.
    pub(super) ambiguous: u64,
    /// Users who have a tag and no connection.
    pub(super) unmatched: u64,
}

impl Client {
    /// Somebody logged in, it became known for whom, or connections may have closed.
    pub(super) fn look(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.min(now)));
    }

    /// Its address is not known yet.
    pub(super) fn postpone(&mut self, when: Instant) {
        self.due = Some(when);
    }

    pub(super) fn forget_shared(&mut self) {
        self.free.values_mut().for_each(|free| free.shared = None);
    }

    /// When it is to be looked at, if it is.
    pub(super) const fn next(&self) -> Option<Instant> {
        self.due
    }
}

impl From<&Socket> for Connection {
    fn from(socket: &Socket) -> Self {
        Self { local: socket.local, remote: socket.remote, inode: socket.inode }
    }
}

impl Server {
    /// Looks at one host with these addresses, of all `sockets` at the port of the server.
    pub(super) fn match_client(
        &mut self,
        host: &str,
        addresses: &[IpAddr],
        sockets: &[Socket],
        now: Instant,
    ) -> Matched {
        let Some(client) = self.clients.get_mut(host) else { return Matched::default() };
        client.due = None;
        let known = std::mem::take(&mut client.free);
        let claimed = self.close(&sockets.iter().map(Connection::from).collect());
        // Not accepted yet without an inode: nobody can have logged in.
        let is_theirs =
            |s: &&Socket| s.state == ESTABLISHED && s.inode != 0 && addresses.contains(&s.remote.addr());
        let free = sockets.iter().filter(is_theirs).map(Connection::from).filter(|c| !claimed.contains(c));
        let free = free.map(|c| (c, known.get(&c).copied().unwrap_or(Free { seen: now, shared: None })));
        let mut group = Group { free: free.collect(), users: self.users_of(host), now };
        let mut matched = Matched::default();
        group.pair();
        group.share(&mut matched);
        group.tell(&mut matched);
        let again = group.is_unsettled().then(|| now + SETTLED);
        let free = group.free;
        if let Some(client) = self.clients.get_mut(host) {
            client.free = free;
            client.due = again;
        }
        matched
    }

    /// Notes which connections are gone, and gives those that are somebody's.
    fn close(&mut self, open: &HashSet<Connection>) -> HashSet<Connection> {
        let mut claimed = HashSet::new();
        for claim in self.users.values_mut().filter_map(|user| user.connection.as_mut()) {
            claim.is_open = open.contains(&claim.connection);
            claimed.extend(claim.is_open.then_some(claim.connection));
        }
        claimed
    }

    fn users_of(&mut self, host: &str) -> Vec<(u32, &mut User)> {
        let users = self.users.iter_mut().filter(|(_, user)| *user.host == *host);
        let mut users: Vec<_> = users.map(|(dictid, user)| (*dictid, user)).collect();
        users.sort_unstable_by_key(|(dictid, _)| *dictid);
        users
    }
}

/// A host while it is looked at.
struct Group<'a> {
    free: HashMap<Connection, Free>,
    users: Vec<(u32, &'a mut User)>,
    now: Instant,
}

/// Has no connection, of their own or with others.
fn is_waiting(user: &User) -> bool {
    user.connection.is_none() && !user.is_shared && !user.is_lost
}

impl Group<'_> {
    /// Free connections of which nothing was announced, in a fixed order.
    fn fresh(&self) -> Vec<Connection> {
        let mut fresh: Vec<_> =
            self.free.iter().filter(|(_, f)| f.shared.is_none()).map(|(c, _)| *c).collect();
        fresh.sort_unstable_by_key(|c| (c.remote, c.local));
        fresh
    }

    fn is_settled(&self, since: Instant) -> bool {
        self.now.duration_since(since) >= SETTLED
    }

    /// Time alone may change what is known.
    fn is_unsettled(&self) -> bool {
        let users = self.users.iter().filter(|(_, u)| is_waiting(u) && u.tag.is_some()).map(|(_, u)| u.since);
        let free = self.free.values().filter(|free| free.shared.is_none()).map(|free| free.seen);
        users.chain(free).any(|since| !self.is_settled(since))
    }

    /// Gives users the one connection that they can have, if nobody else can have it.
    fn pair(&mut self) {
        for (_, user) in &mut self.users {
            user.looked.get_or_insert(self.now);
        }
        while let Some((index, connection)) = self.only_pair() {
            self.free.remove(&connection);
            if let Some((_, user)) = self.users.get_mut(index) {
                let claim = Claim { connection, told: None, flow: None, is_ours: false, is_open: true };
                user.connection = Some(claim);
            }
        }
        for index in 0..self.users.len() {
            let is_lost = self.users.get(index).is_some_and(|(_, user)| is_waiting(user))
                && self.possible(index).next().is_none();
            if let Some((_, user)) = self.users.get_mut(index).filter(|_| is_lost) {
                user.is_lost = true;
            }
        }
    }

    fn only_pair(&self) -> Option<(usize, Connection)> {
        let waiting =
            || (0..self.users.len()).filter(|at| self.users.get(*at).is_some_and(|(_, u)| is_waiting(u)));
        let (at, connection) = waiting().find_map(|at| {
            let mut possible = self.possible(at);
            let (connection, None) = (possible.next()?, possible.next()) else { return None };
            let mut takers = waiting().filter(|other| self.possible(*other).any(|c| c == connection));
            (takers.next(), takers.next()).eq(&(Some(at), None)).then_some((at, connection))
        })?;
        Some((at, connection))
    }

    /// Fresh connections that were there when the user logged in.
    fn possible(&self, user: usize) -> impl Iterator<Item = Connection> {
        let looked = self.users.get(user).and_then(|(_, user)| user.looked);
        let fresh = self.free.iter().filter(|(_, free)| free.shared.is_none());
        fresh.filter(move |(_, free)| looked.is_some_and(|looked| free.seen <= looked)).map(|(c, _)| *c)
    }

    /// Gives what is left the tag that all have, if they do.
    fn share(&mut self, matched: &mut Matched) {
        let mut fresh = self.fresh();
        let waiting = self.users.iter().filter(|(_, user)| is_waiting(user)).count();
        let is_even = waiting > 0 && fresh.len() <= waiting;
        let tag = if is_even {
            self.common_tag(is_waiting)
        } else {
            // Logins of these are over: they are of users who have another, or are waiting.
            fresh.retain(|c| self.free.get(c).is_some_and(|free| self.is_settled(free.seen)));
            self.common_tag(|user| user.connection.as_ref().map_or(!user.is_lost, |claim| claim.is_open))
        };
        let Some(tag) = tag.filter(|_| !fresh.is_empty()) else { return self.count(matched) };
        let of = |waits: bool| self.users.iter().filter(move |(_, user)| is_waiting(user) == waits);
        let application = of(true).chain(of(false)).find_map(|(_, user)| user.application.clone());
        for connection in fresh {
            if let Some(free) = self.free.get_mut(&connection) {
                free.shared = Some(tag);
            }
            matched.found.push(Found { user: None, connection, tag, application: application.clone() });
        }
        for (_, user) in self.users.iter_mut().filter(|(_, user)| is_waiting(user)) {
            user.is_shared = true;
        }
    }

    fn common_tag(&self, of: impl Fn(&User) -> bool) -> Option<Tag> {
        let mut tags = self.users.iter().filter(|(_, user)| of(user)).map(|(_, user)| user.tag);
        let first = tags.next()??;
        tags.all(|tag| tag == Some(first)).then_some(first)
    }

    /// Those who will not be told apart any more, each once.
    fn count(&mut self, matched: &mut Matched) {
        // Who has no tag yet may still turn out to be like the others.
        if self.users.iter().any(|(_, user)| is_waiting(user) && user.tag.is_none()) {
            return;
        }
        let now = self.now;
        let is_unclear = |user: &User| is_waiting(user) && now.duration_since(user.since) >= SETTLED;
        for (_, user) in self.users.iter_mut().filter(|(_, user)| is_unclear(user)) {
            matched.ambiguous += u64::from(!std::mem::replace(&mut user.is_counted, true));
        }
    }

    /// What is to be announced of those who have a connection of their own, and who have none.
    fn tell(&mut self, matched: &mut Matched) {
        for (dictid, user) in &mut self.users {
            if user.is_lost && user.tag.is_some() {
                matched.unmatched += u64::from(!std::mem::replace(&mut user.is_counted, true));
            }
            let (Some(claim), Some(tag)) = (&mut user.connection, user.tag) else { continue };
            if claim.is_open && claim.told != Some(tag) {
                claim.told = Some(tag);
                let application = user.application.clone();
                matched.found.push(Found {
                    user: Some(*dictid),
                    connection: claim.connection,
                    tag,
                    application,
                });
            }
        }
    }
}
