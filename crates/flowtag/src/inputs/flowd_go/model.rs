//! flowd-go's JSON of a flow event, in the shapes that its versions, its README and its tests have.

use std::net::IpAddr;
use std::sync::Arc;

use flowtag_engine::{Announcement, End, Event, Registry, ResolveError, Selector, Source};
use flowtag_wire::{Endpoint, FiveTuple, FlowError, Protocol, Tag};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

const SOURCE: Source = Source("flowd-go");
/// Go's time that is none.
const NO_TIME: &str = "0001-01-01T00:00:00Z";
/// Linux's AF_INET and AF_INET6.
const FAMILIES: [(&str, u64); 2] = [("ipv4", 2), ("ipv6", 10)];
const PROTOCOLS: [(&str, u64); 2] = [("tcp", 0), ("udp", 1)];
const STATES: [(&str, u64); 3] = [("start", 2), ("end", 3), ("ongoing", 4)];

/// Why a body is no event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EventError {
    #[error("the body is no JSON object: {0}")]
    Json(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error(
        "State {number} was {name} before flowd-go 2, and stands so in its README; it is {now} since: use {now} or {name:?}"
    )]
    OldState { number: u64, name: &'static str, now: u64 },
    #[error("{key} = {value} is not known: use {known}")]
    Word { key: &'static str, value: String, known: String },
    #[error("{key} = {value} {problem}")]
    Value { key: &'static str, value: String, problem: &'static str },
    #[error("Family is {0}, and Src and Dst are of the other")]
    Family(&'static str),
    #[error(transparent)]
    Flow(#[from] FlowError),
    #[error(transparent)]
    Tag(#[from] ResolveError),
}

/// The event as flowd-go would have it, which is also the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct FlowId {
    state: u64,
    protocol: u64,
    family: u64,
    src: String,
    dst: String,
    experiment: Value,
    activity: Value,
    start_ts: String,
    end_ts: String,
    current_ts: String,
    application: String,
    #[serde(skip)]
    flow: FiveTuple,
    #[serde(skip)]
    start_time: Option<Timestamp>,
}

/// Keys are found whatever their case, as Go finds them.
struct Object<'a>(&'a Map<String, Value>);

impl<'a> Object<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        let exact = self.0.get(key);
        let other = || self.0.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
        exact.or_else(other).filter(|value| !value.is_null())
    }

    fn require(&self, key: &'static str) -> Result<&'a Value, EventError> {
        self.get(key).ok_or(EventError::Missing(key))
    }

    /// One of a few words, by name or number; `None` where it is absent.
    fn word(
        &self,
        key: &'static str,
        known: &[(&'static str, u64)],
    ) -> Result<Option<(&'static str, u64)>, EventError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wanted = |(name, number): &&(&'static str, u64)| match value {
            Value::String(text) => text.eq_ignore_ascii_case(name),
            value => value.as_u64() == Some(*number),
        };
        let known_words = || {
            let words: Vec<_> = known.iter().map(|(name, number)| format!("{number} or {name:?}")).collect();
            words.join(", ")
        };
        let unknown = || EventError::Word { key, value: shown(value), known: known_words() };
        known.iter().find(wanted).map(|word| Some(*word)).ok_or_else(unknown)
    }

    fn time(&self, key: &'static str) -> Result<Option<Timestamp>, EventError> {
        let wrong = |value: &Value| EventError::Value {
            key,
            value: shown(value),
            problem: "is no time: write it as \"2026-11-21T12:00:00Z\"",
        };
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() || text == NO_TIME => Ok(None),
            Some(value) => {
                let time = value.as_str().and_then(|text| text.parse().ok());
                time.map(Some).ok_or_else(|| wrong(value))
            }
        }
    }

    /// `"[::1]:2345"`, or `{"IP": "::1", "Port": 2345}` as before version 2.4.
    fn endpoint(&self, key: &'static str) -> Result<Endpoint, EventError> {
        let value = self.require(key)?;
        let wrong = || EventError::Value {
            key,
            value: shown(value),
            problem: "is no address and port: write \"192.0.2.1:443\", \"[2001:db8::1]:443\" or {\"IP\": …, \"Port\": …}",
        };
        match value {
            Value::String(text) => text.parse().map_err(|_| wrong()),
            Value::Object(map) => {
                let end = Object(map);
                let address: Option<IpAddr> =
                    end.get("IP").and_then(Value::as_str).and_then(|ip| ip.parse().ok());
                let port = end.get("Port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
                Ok(Endpoint::new(address.ok_or_else(wrong)?, port.ok_or_else(wrong)?))
            }
            _ => Err(wrong()),
        }
    }
}

/// Enough of a value to find it again.
fn shown(value: &Value) -> String {
    let text: String = value.to_string().chars().take(80).collect();
    text
}

impl FlowId {
    pub(super) fn read(body: &[u8]) -> Result<Self, EventError> {
        let object: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| EventError::Json(error.to_string()))?;
        let object = Object(&object);
        let (_, state) = state(&object)?;
        // 0 is what Go sends for what was not given, and it is TCP.
        let (protocol, number) = object.word("Protocol", &PROTOCOLS)?.unwrap_or(PROTOCOLS[0]);
        let protocol: Protocol = protocol.parse()?;
        let flow = FiveTuple::new(protocol, object.endpoint("Src")?, object.endpoint("Dst")?)?;
        let application = match object.get("Application") {
            None => String::new(),
            Some(Value::String(text)) if !text.chars().any(char::is_control) => text.clone(),
            Some(value) => {
                let problem = "is no name of a program: write it as \"xrootd 5.7\"";
                return Err(EventError::Value { key: "Application", value: shown(value), problem });
            }
        };
        let start_time = object.time("StartTs")?;
        let text = |time: Option<Timestamp>| time.map_or_else(|| NO_TIME.to_owned(), |time| time.to_string());
        let number_of = |key| object.get(key).cloned().unwrap_or_else(|| 0.into());
        Ok(Self {
            state,
            protocol: number,
            family: family(&object, &flow)?,
            src: flow.src().to_string(),
            dst: flow.dst().to_string(),
            experiment: number_of("Experiment"),
            activity: number_of("Activity"),
            start_ts: text(start_time),
            end_ts: text(object.time("EndTs")?),
            current_ts: text(object.time("CurrentTs")?),
            application,
            flow,
            start_time,
        })
    }

    /// Of an end only the flow counts, and it is now, as for flowd-go.
    pub(super) fn event(&self, registry: &Registry) -> Result<Event, EventError> {
        if self.state == 3 {
            return Ok(Event::End(End::new(Selector::Flow(self.flow), SOURCE)));
        }
        let experiment = registry.resolve_experiment(&identifier("Experiment", &self.experiment)?)?;
        let activity = registry.resolve_activity(experiment, &identifier("Activity", &self.activity)?)?;
        let application: Option<Arc<str>> =
            Some(self.application.as_str()).filter(|name| !name.is_empty()).map(Into::into);
        let announcement = Announcement {
            start_time: self.start_time,
            application,
            ..Announcement::new(self.flow, Tag { experiment, activity }, SOURCE)
        };
        Ok(if self.state == 2 { Event::Start(announcement) } else { Event::Ongoing(announcement) })
    }
}

fn state(object: &Object<'_>) -> Result<(&'static str, u64), EventError> {
    match object.require("State")?.as_u64() {
        Some(0) => Err(EventError::OldState { number: 0, name: "start", now: 2 }),
        Some(1) => Err(EventError::OldState { number: 1, name: "end", now: 3 }),
        _ => object.word("State", &STATES)?.ok_or(EventError::Missing("State")),
    }
}

/// Told by the addresses; what the client says has to agree.
fn family(object: &Object<'_>, flow: &FiveTuple) -> Result<u64, EventError> {
    let [v4, v6] = FAMILIES;
    let (_, actual) = if flow.is_ipv6() { v6 } else { v4 };
    let said = match object.get("Family") {
        Some(value) if value.as_u64() == Some(0) => None, // not given, in Go
        _ => object.word("Family", &FAMILIES)?,
    };
    match said {
        // What is mapped into IPv6 is IPv4 in the packets, whatever the client takes it for.
        Some((name, number)) if number != actual && number != v6.1 => Err(EventError::Family(name)),
        Some((name, number)) if number != actual && !is_mapped(object) => Err(EventError::Family(name)),
        _ => Ok(actual),
    }
}

/// Whether an address is written as IPv4 in IPv6.
fn is_mapped(object: &Object<'_>) -> bool {
    let ends = [object.get("Src"), object.get("Dst")];
    ends.into_iter().flatten().any(|end| end.to_string().to_ascii_lowercase().contains("::ffff:"))
}

/// A number or a registered name.
fn identifier(key: &'static str, value: &Value) -> Result<String, EventError> {
    match value {
        Value::String(name) => Ok(name.clone()),
        Value::Number(number) if number.is_u64() => Ok(number.to_string()),
        value => Err(EventError::Value {
            key,
            value: shown(value),
            problem: "is no number from 1 up, and no registered name",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: &str) -> Result<Event, EventError> {
        FlowId::read(body.as_bytes())?.event(Registry::embedded())
    }

    const NEW: &str = r#"{"State":2,"Protocol":0,"Family":10,"Src":"[2001:db8::1]:2345","Dst":"[2001:db8::2]:5777",
        "Experiment":2,"Activity":3,"StartTs":"2025-02-06T13:21:30.893064962+01:00","Application":"x"}"#;

    #[test]
    fn both_shapes_of_ends_and_all_forms_of_words_mean_the_same() {
        let Ok(Event::Start(start)) = event(NEW) else { panic!("a start") };
        assert_eq!(start.flow.to_string(), "tcp [2001:db8::1]:2345 > [2001:db8::2]:5777");
        assert_eq!(start.tag, Tag::new(2, 3).expect("a tag"));
        assert_eq!(
            start.start_time.map(|t| t.to_string()).as_deref(),
            Some("2025-02-06T12:21:30.893064962Z")
        );
        assert_eq!(start.application.as_deref(), Some("x"));
        for (from, to) in [
            (r#""[2001:db8::1]:2345""#, r#"{"IP":"2001:db8::1","Port":2345}"#),
            (r#""State":2"#, r#""State":"Start""#),
            (r#""State":2"#, r#""state":2"#),
            (r#""Protocol":0"#, r#""Protocol":"TCP""#),
            (r#""Protocol":0,"#, ""),
            (r#""Family":10"#, r#""Family":"IPv6""#),
            (r#""Family":10,"#, ""),
            (r#""Family":10"#, r#""Family":0"#),
            (r#""Experiment":2"#, r#""Experiment":"ATLAS""#),
            (r#""Application""#, r#""EndTs":"0001-01-01T00:00:00Z","NetLink":"","Info":null,"Application""#),
        ] {
            assert!(NEW.contains(from), "{from}");
            let Ok(Event::Start(other)) = event(&NEW.replace(from, to)) else { panic!("{to}") };
            assert_eq!(other, start, "{to}");
        }
        assert!(matches!(event(&NEW.replace("\"State\":2", "\"State\":4")), Ok(Event::Ongoing(_))));
    }

    #[test]
    fn of_an_end_only_the_flow_counts() {
        let end =
            NEW.replace("\"State\":2", "\"State\":3").replace("\"Experiment\":2", "\"Experiment\":65535");
        assert!(matches!(event(&end), Ok(Event::End(_))));
        let bare = r#"{"State":"END","Src":"192.0.2.1:1","Dst":"192.0.2.2:2"}"#;
        assert!(matches!(event(bare), Ok(Event::End(_))));
    }

    #[test]
    fn the_answer_is_the_event_in_their_form() {
        let flow = FlowId::read(NEW.as_bytes()).expect("an event");
        let answer = serde_json::to_value(&flow).expect("JSON");
        assert_eq!(answer["State"], 2);
        assert_eq!(answer["Src"], "[2001:db8::1]:2345");
        assert_eq!(answer["EndTs"], NO_TIME);
        let keys: Vec<_> = answer.as_object().expect("an object").keys().map(String::as_str).collect();
        let mut expected = [
            "State",
            "Protocol",
            "Family",
            "Src",
            "Dst",
            "Experiment",
            "Activity",
            "StartTs",
            "EndTs",
            "CurrentTs",
            "Application",
        ];
        expected.sort_unstable();
        let mut keys = keys;
        keys.sort_unstable();
        assert_eq!(keys, expected);
    }

    #[test]
    fn what_was_garbage_before_is_an_error_that_helps() {
        for (from, to, expected) in [
            (NEW, "", "no JSON object"),
            (NEW, "[]", "no JSON object"),
            (NEW, "{}", "State is missing"),
            (r#""State":2"#, r#""State":0"#, "State 0 was start before flowd-go 2"),
            (r#""State":2"#, r#""State":1"#, "it is 3 since: use 3 or \"end\""),
            (r#""State":2"#, r#""State":77"#, "State = 77 is not known: use 2 or \"start\", 3 or \"end\""),
            (r#""Protocol":0"#, r#""Protocol":9"#, "Protocol = 9 is not known"),
            (r#""Family":10"#, r#""Family":2"#, "Family is ipv4"),
            (r#""Family":10"#, r#""Family":7"#, "Family = 7 is not known"),
            (r#""Src":"[2001:db8::1]:2345","#, "", "Src is missing"),
            ("[2001:db8::1]:2345", "2001:db8::1:2345", "is no address and port"),
            (r#""[2001:db8::1]:2345""#, r#"{"IP":"x","Port":1}"#, "is no address and port"),
            ("[2001:db8::1]:2345", "192.0.2.1:5", "address families"),
            ("[2001:db8::1]:2345", "[2001:db8::1]:0", "port 0"),
            ("[2001:db8::1]", "[::]", "not the address of a host"),
            (r#""Experiment":2"#, r#""Experiment":65535"#, "use 1 to 511"),
            (r#""Experiment":2"#, r#""Experiment":0"#, "use 1 to 511"),
            (r#""Experiment":2"#, r#""Experiment":-1"#, "no number from 1 up"),
            (r#""Activity":3"#, r#""Activity":64"#, "use 1 to 63"),
            (r#""Activity":3,"#, "", "use 1 to 63"),
            ("2025-02-06T13", "yesterday", "StartTs"),
            (r#""Application":"x""#, r#""Application":"a\nb""#, "no name of a program"),
        ] {
            let body = NEW.replace(from, to);
            let error = event(&body).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    #[test]
    fn the_bodies_of_their_tests_are_understood() {
        // testdata/start.json and end.json of flowd-go: ends as objects, identifiers that fit no label.
        let body = |state: u8, id: u16| {
            format!(
                r#"{{"State": {state}, "Protocol": 0, "Family": 2, "Src": {{"IP": "127.0.0.1", "Port": 2345}},
                "Dst": {{"IP": "127.0.0.1", "Port": 5777}}, "Experiment": {id}, "Activity": {id},
                "StartTs": "{NO_TIME}", "EndTs": "2025-02-06T13:21:30.893064962+01:00", "CurrentTs": "{NO_TIME}"}}"#
            )
        };
        assert!(matches!(event(&body(2, 3)), Ok(Event::Start(start)) if start.start_time.is_none()));
        assert!(matches!(event(&body(3, 65535)), Ok(Event::End(_))));
        assert!(event(&body(2, 65535)).expect_err("out of range").to_string().contains("use 1 to 511"));
    }
}
