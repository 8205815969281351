//! Reads expressions: words, then conditions from left to right.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use super::{End, Expression, ExpressionError, Whose};
use crate::{Experiment, Tag};

type Result<T> = std::result::Result<T, ExpressionError>;
type Resolve<'a> = &'a dyn Fn(&str) -> std::result::Result<Whose, String>;

/// Protocols that have a word of their own, as pcap-filter(7) has them; the first four are also conditions by themselves.
const PROTOCOLS: [(&str, u8); 12] = [
    ("tcp", 6),
    ("udp", 17),
    ("icmp", 1),
    ("icmp6", 58),
    ("igmp", 2),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("pim", 103),
    ("sctp", 132),
    ("udplite", 136),
    ("dccp", 33),
];
const ALONE: usize = 4;

pub(super) fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().take(ALONE).find(|(_, n)| *n == number).map(|(name, _)| *name)
}

/// What kind of value follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Host or prefix, as it is written.
    Address,
    Host,
    Net,
    Port,
    PortRange,
    Protocol,
    Tag,
    Experiment,
    Pid,
    User,
    Process,
    Cgroup,
    Interface,
}

const KINDS: [(&str, Kind); 12] = [
    ("host", Kind::Host),
    ("net", Kind::Net),
    ("port", Kind::Port),
    ("portrange", Kind::PortRange),
    ("proto", Kind::Protocol),
    ("tag", Kind::Tag),
    ("experiment", Kind::Experiment),
    ("pid", Kind::Pid),
    ("user", Kind::User),
    ("process", Kind::Process),
    ("cgroup", Kind::Cgroup),
    ("interface", Kind::Interface),
];
const ENDS: [(&str, End); 4] =
    [("src", End::Local), ("local", End::Local), ("dst", End::Remote), ("remote", End::Remote)];
const FAMILIES: [(&str, Expression); 2] = [("ip", Expression::Ipv4), ("ip6", Expression::Ipv6)];

fn find<T: Clone>(table: &[(&str, T)], word: &str) -> Option<T> {
    table.iter().find(|(name, _)| *name == word).map(|(_, value)| value.clone())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// Never a keyword.
    Quoted(String),
    Open,
    Close,
    Not,
    And,
    Or,
}

/// Words with where they begin, counted from 1.
fn tokens(text: &str) -> Result<Vec<(usize, Token)>> {
    let mut found = Vec::new();
    let mut chars = text.chars().enumerate().map(|(at, c)| (at + 1, c)).peekable();
    while let Some((at, c)) = chars.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            '!' => Token::Not,
            '"' | '\'' => Token::Quoted(quoted(&mut chars, c).ok_or_else(|| ExpressionError {
                position: at,
                found: format!("{c}"),
                problem: format!("a quote begins here and does not end: close it with {c}"),
            })?),
            '&' | '|' => {
                // One is enough to be understood.
                chars.next_if(|(_, next)| *next == c);
                if c == '&' { Token::And } else { Token::Or }
            }
            c => {
                let mut word = String::from(c);
                while let Some((_, c)) =
                    chars.next_if(|(_, c)| !c.is_whitespace() && !"()!\"'&|".contains(*c))
                {
                    word.push(c);
                }
                match word.as_str() {
                    "not" => Token::Not,
                    "and" => Token::And,
                    "or" => Token::Or,
                    _ => Token::Word(word),
                }
            }
        };
        found.push((at, token));
    }
    Ok(found)
}

/// Up to the closing quote; none where there is none. A backslash makes a quote or a backslash a character like others.
fn quoted(
    chars: &mut std::iter::Peekable<impl Iterator<Item = (usize, char)>>,
    quote: char,
) -> Option<String> {
    let mut word = String::new();
    loop {
        match chars.next()?.1 {
            c if c == quote => return Some(word),
            '\\' => word.push(chars.next_if(|(_, c)| "\\\"'".contains(*c)).map_or('\\', |(_, c)| c)),
            c => word.push(c),
        }
    }
}

/// What stands before a value, which the next value has, too, if it says nothing else.
#[derive(Debug, Clone)]
struct Head {
    /// `tcp` of `tcp port 80`.
    of: Expression,
    end: End,
    kind: Kind,
}

struct Parser<'a> {
    tokens: Vec<(usize, Token)>,
    next: usize,
    /// Position behind the last character.
    end: usize,
    last: Option<Head>,
    depth: usize,
    conditions: usize,
    whose: Resolve<'a>,
}

pub(super) fn parse(text: &str, whose: Resolve<'_>) -> Result<Expression> {
    let tokens = tokens(text)?;
    if tokens.is_empty() {
        return Ok(Expression::Any);
    }
    let end = text.chars().count() + 1;
    let mut parser = Parser { tokens, next: 0, end, last: None, depth: 0, conditions: 0, whose };
    let all = parser.pairs()?;
    match parser.peek() {
        None => Ok(all),
        Some(Token::Close) => Err(parser.error("it closes nothing: leave it out, or open with (")),
        Some(_) => {
            Err(parser.error("`and` or `or` must stand between conditions, and a name with blanks in quotes"))
        }
    }
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    /// The word that comes next, if it can be a keyword.
    fn word(&self) -> Option<&str> {
        match self.peek()? {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    fn take(&mut self, wanted: &Token) -> bool {
        let is_it = self.peek() == Some(wanted);
        self.next += usize::from(is_it);
        is_it
    }

    /// Of what comes next.
    fn error(&self, problem: impl Into<String>) -> ExpressionError {
        let found = match self.peek() {
            None => "its end".to_owned(),
            Some(Token::Word(word) | Token::Quoted(word)) => format!("{:?}", clipped(word)),
            Some(Token::Open) => "\"(\"".to_owned(),
            Some(Token::Close) => "\")\"".to_owned(),
            Some(Token::Not) => "\"not\"".to_owned(),
            Some(Token::And) => "\"and\"".to_owned(),
            Some(Token::Or) => "\"or\"".to_owned(),
        };
        let position = self.tokens.get(self.next).map_or(self.end, |(at, _)| *at);
        ExpressionError { position, found, problem: problem.into() }
    }

    /// Conditions with `and` and `or` between them, from the left.
    fn pairs(&mut self) -> Result<Expression> {
        let mut all = self.one()?;
        loop {
            if self.take(&Token::And) {
                all = Expression::And(Box::new(all), Box::new(self.one()?));
            } else if self.take(&Token::Or) {
                all = Expression::Or(Box::new(all), Box::new(self.one()?));
            } else {
                return Ok(all);
            }
        }
    }

    fn one(&mut self) -> Result<Expression> {
        match self.peek() {
            Some(Token::Not) => self.deeper(|parser| {
                parser.next += 1;
                Ok(Expression::Not(Box::new(parser.one()?)))
            }),
            Some(Token::Open) => self.group(),
            Some(Token::And | Token::Or) | None => {
                Err(self.error("a condition must stand here, such as `port 443`"))
            }
            Some(Token::Close) => Err(self.error("a condition must stand before it, such as `port 443`")),
            Some(Token::Word(_) | Token::Quoted(_)) => self.condition(),
        }
    }

    fn group(&mut self) -> Result<Expression> {
        self.deeper(|parser| {
            parser.next += 1;
            let all = parser.pairs()?;
            if parser.take(&Token::Close) {
                return Ok(all);
            }
            let problem = match parser.peek() {
                None => "a parenthesis is still open: close it with )",
                Some(_) => "`and`, `or` or ) must stand between conditions",
            };
            Err(parser.error(problem))
        })
    }

    /// Nobody who means it nests that deep, and each level takes of the stack.
    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == Expression::MAX_DEPTH {
            let most = Expression::MAX_DEPTH;
            return Err(self.error(format!("more than {most} parentheses and `not` within each other")));
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn condition(&mut self) -> Result<Expression> {
        self.conditions += 1;
        if self.conditions > Expression::MAX_CONDITIONS {
            return Err(self.error(format!("more than {} conditions", Expression::MAX_CONDITIONS)));
        }
        let of = self.of();
        let begin = self.next;
        let end = self.which_end()?;
        let kind = self.word().and_then(|word| find(&KINDS, word));
        self.next += usize::from(kind.is_some());
        let is_bare = begin == self.next;
        let head = match (kind, of) {
            (Some(kind), of) => self.head(of, end, kind, begin)?,
            (None, of) if !is_bare => Head { of: of.unwrap_or_default(), end, kind: Kind::Address },
            // A protocol is a condition by itself.
            (None, Some(of)) => return Ok(of),
            (None, None) => self.bare()?,
        };
        self.last = Some(head.clone());
        if self.peek() == Some(&Token::Open) { self.group() } else { self.value(&head) }
    }

    /// `tcp`, `ip6` and the like, which may stand before others.
    fn of(&mut self) -> Option<Expression> {
        let word = self.word()?;
        let protocol = PROTOCOLS.iter().take(ALONE).find(|(name, _)| *name == word);
        let of = protocol.map(|(_, n)| Expression::Protocol(*n)).or_else(|| find(&FAMILIES, word))?;
        self.next += 1;
        Some(of)
    }

    fn which_end(&mut self) -> Result<End> {
        let Some(first) = self.word().and_then(|word| find(&ENDS, word)) else { return Ok(End::Either) };
        self.next += 1;
        let follows = match self.tokens.get(self.next + 1) {
            Some((_, Token::Word(word))) => find(&ENDS, word),
            _ => None,
        };
        let both = match (self.peek(), follows) {
            (Some(Token::And), Some(second)) if second != first => End::Both,
            (Some(Token::Or), Some(second)) if second != first => End::Either,
            _ => return Ok(first),
        };
        self.next += 2;
        Ok(both)
    }

    fn head(&mut self, of: Option<Expression>, end: End, kind: Kind, begin: usize) -> Result<Head> {
        let has_ends = matches!(kind, Kind::Host | Kind::Net | Kind::Port | Kind::PortRange);
        if end != End::Either && !has_ends {
            self.next = begin;
            return Err(self.error("only host, net, port and portrange are of one end"));
        }
        Ok(Head { of: of.unwrap_or_default(), end, kind })
    }

    /// A value alone: as the one before it, or an address.
    fn bare(&self) -> Result<Head> {
        let Some(Token::Word(word) | Token::Quoted(word)) = self.peek() else {
            return Err(self.error("a condition must stand here, such as `port 443`"));
        };
        if let Some(last) = &self.last {
            return Ok(last.clone());
        }
        if word.parse::<IpAddr>().is_ok() || word.parse::<IpNet>().is_ok() {
            return Ok(Head { of: Expression::Any, end: End::Either, kind: Kind::Address });
        }
        let problem = match similar(word) {
            Some(known) => format!("no word of expressions: did you mean {known:?}?"),
            None => {
                format!("no word of expressions: begin a condition with one of {}", keywords().join(", "))
            }
        };
        Err(self.error(problem))
    }

    fn value(&mut self, head: &Head) -> Result<Expression> {
        let (Some(Token::Word(word)) | Some(Token::Quoted(word))) = self.peek() else {
            return Err(self.error(format!("{} must stand here", wanted(head.kind))));
        };
        let word = word.clone();
        let value =
            self.read(&word, head).map_err(|problem| {
                // What looks like a value of the last keyword may be a keyword that is misspelt.
                let meant = similar(&word).filter(|_| self.is_inherited());
                self.error(meant.map_or_else(
                    || problem.clone(),
                    |known| format!("{problem}; or did you mean {known:?}?"),
                ))
            })?;
        self.next += 1;
        let value = if head.kind == Kind::Net { self.masked(value)? } else { value };
        Ok(head.of.clone().and(value))
    }

    /// Whether the next value stands without a keyword.
    fn is_inherited(&self) -> bool {
        let before = self.next.checked_sub(1).and_then(|n| self.tokens.get(n));
        matches!(before, Some((_, Token::And | Token::Or | Token::Not | Token::Open)))
    }

    fn read(&self, word: &str, head: &Head) -> std::result::Result<Expression, String> {
        let number = |what: &str| word.parse().map_err(|_| format!("no {what}: it must be a number"));
        let is_net = word.contains('/');
        Ok(match head.kind {
            Kind::Address if is_net => Expression::Net(head.end, prefix(word)?),
            Kind::Address | Kind::Host => Expression::Net(head.end, host(word)?),
            Kind::Net => Expression::Net(head.end, prefix(word)?),
            Kind::Port => port(word).map(|n| Expression::Ports(head.end, n, n))?,
            Kind::PortRange => ports(word).map(|(first, last)| Expression::Ports(head.end, first, last))?,
            Kind::Protocol => Expression::Protocol(protocol(word)?),
            Kind::Tag if word == "any" => Expression::Tagged,
            Kind::Tag | Kind::Experiment => match ((self.whose)(word)?, head.kind) {
                (Whose::Tag(_), Kind::Experiment) => {
                    return Err("an experiment alone must stand here; `tag` takes both".to_owned());
                }
                (whose, _) => whose.into(),
            },
            Kind::Pid => Expression::Pid(number("process id")?),
            Kind::User => Expression::User(number("user id")?),
            Kind::Process => Expression::Process(word.to_owned()),
            Kind::Cgroup => Expression::Cgroup(word.to_owned()),
            Kind::Interface => Expression::Interface(word.to_owned()),
        })
    }

    /// `net 192.0.2.0 mask 255.255.255.0`.
    fn masked(&mut self, value: Expression) -> Result<Expression> {
        let (true, Expression::Net(end, net)) = (self.word() == Some("mask"), &value) else {
            return Ok(value);
        };
        self.next += 1;
        let mask = self.word().and_then(|word| word.parse::<Ipv4Addr>().ok());
        let net = match (net.addr(), mask) {
            (IpAddr::V4(addr), Some(mask)) => {
                let net =
                    Ipv4Net::with_netmask(addr, mask).map_err(|e| self.error(format!("no mask: {e}")))?;
                without_host(net.into()).map_err(|problem| self.error(problem))?
            }
            _ => {
                return Err(self.error("a mask such as 255.255.255.0 must stand here, after an IPv4 address"));
            }
        };
        self.next += 1;
        Ok(Expression::Net(*end, net))
    }
}

fn wanted(kind: Kind) -> &'static str {
    match kind {
        Kind::Address | Kind::Host => "an address",
        Kind::Net => "a prefix such as 2001:db8::/32",
        Kind::Port => "a port",
        Kind::PortRange => "ports such as 5000-5010",
        Kind::Protocol => "a protocol",
        Kind::Tag => "a tag (EXPERIMENT/ACTIVITY, EXPERIMENT or any)",
        Kind::Experiment => "an experiment",
        Kind::Pid => "a process id",
        Kind::User => "a user id",
        Kind::Process => "the name of a process (in quotes, if it is a word of expressions)",
        Kind::Cgroup => "the path of a cgroup, or the name of a unit",
        Kind::Interface => "the name of an interface",
    }
}

fn host(word: &str) -> std::result::Result<IpNet, String> {
    if word.parse::<IpNet>().is_ok() {
        return Err("a host has no prefix length: write `net` for a prefix".to_owned());
    }
    let addr: IpAddr = word.parse().map_err(|_| {
        "no address: it must be as 192.0.2.1 or 2001:db8::1, as names are not looked up".to_owned()
    })?;
    Ok(addr.to_canonical().into())
}

/// Also the first bytes of an IPv4 address, as `net 192.168`.
fn prefix(word: &str) -> std::result::Result<IpNet, String> {
    if let Ok(net) = word.parse::<IpNet>() {
        return without_host(net).map(canonical);
    }
    if let Ok(addr) = word.parse::<IpAddr>() {
        return Ok(addr.to_canonical().into());
    }
    let bytes: Option<Vec<u8>> = word.split('.').map(|part| part.parse().ok()).collect();
    let bytes = bytes.filter(|bytes| bytes.len() < 4);
    let bytes = bytes.ok_or_else(|| "no prefix: it must be as 192.0.2.0/24 or 2001:db8::/32".to_owned())?;
    let mut whole = [0; 4];
    whole.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
    let net = Ipv4Net::new(whole.into(), bytes.len() as u8 * 8).map_err(|e| e.to_string())?;
    Ok(net.into())
}

fn without_host(net: IpNet) -> std::result::Result<IpNet, String> {
    if net.trunc() == net {
        return Ok(net);
    }
    Err(format!("it has bits beyond its prefix: write `net {}`, or `host {}`", net.trunc(), net.addr()))
}

/// Addresses of flows are never IPv4-mapped, so prefixes of those are of IPv4.
fn canonical(net: IpNet) -> IpNet {
    let v4 = match net {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    v4.and_then(|(addr, len)| Ipv4Net::new(addr, len).ok()).map_or(net, IpNet::V4)
}

fn port(word: &str) -> std::result::Result<u16, String> {
    let problem = || match word.contains('-') {
        true => "no port: write `portrange` for several".to_owned(),
        false => "no port: it must be a number from 0 to 65535".to_owned(),
    };
    word.parse().map_err(|_| problem())
}

fn ports(word: &str) -> std::result::Result<(u16, u16), String> {
    let problem = || "no range of ports: it must be as 5000-5010, of numbers from 0 to 65535".to_owned();
    let (first, last) = word.split_once('-').ok_or_else(problem)?;
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok((first, last)),
        (Ok(first), Ok(last)) => Err(format!("the first port is above the last: write {last}-{first}")),
        _ => Err(problem()),
    }
}

/// With a backslash as pcap-filter(7) wants it, or without.
fn protocol(word: &str) -> std::result::Result<u8, String> {
    let name = word.strip_prefix('\\').unwrap_or(word);
    let problem = || {
        let names: Vec<_> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
        format!("no protocol: it must be a number from 0 to 255, or one of {}", names.join(", "))
    };
    find(&PROTOCOLS, name).or_else(|| name.parse().ok()).ok_or_else(problem)
}

pub(super) fn numbers(text: &str) -> std::result::Result<Whose, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|_| "no number: names are not known here, write EXPERIMENT/ACTIVITY in numbers")
    };
    match text.split_once('/') {
        Some((experiment, activity)) => {
            Tag::new(number(experiment)?, number(activity)?).map(Whose::Tag).map_err(|e| e.to_string())
        }
        None => Experiment::new(number(text)?).map(Whose::Experiment).map_err(|e| e.to_string()),
    }
}

fn keywords() -> Vec<&'static str> {
    let protocols = PROTOCOLS.iter().take(ALONE).map(|(name, _)| *name);
    let families = FAMILIES.iter().map(|(name, _)| *name);
    let kinds = KINDS.iter().map(|(name, _)| *name);
    ENDS.iter().map(|(name, _)| *name).chain(protocols).chain(families).chain(kinds).collect()
}

/// A keyword that differs in one or two letters, but not in half of them.
fn similar(word: &str) -> Option<&'static str> {
    let known = keywords().into_iter().map(|known| (distance(word, known), known));
    let (far, known) = known.min_by_key(|(far, _)| *far)?;
    (far <= 2 && far * 2 <= known.len()).then_some(known)
}

/// Letters to change, add or leave out (Levenshtein); of long words no more than is asked for.
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (i, a) in one.chars().take(20).enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(other.chars()) {
            left = (left + 1).min(*cell + 1).min(corner + usize::from(a != b));
            corner = std::mem::replace(cell, left);
        }
    }
    row.last().copied().unwrap_or(0)
}

fn clipped(word: &str) -> String {
    if word.chars().count() <= 40 {
        return word.to_owned();
    }
    word.chars().take(39).chain(['…']).collect()
}
