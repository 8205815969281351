//! `docs/openapi.yaml` against the running daemon: what is documented is served, with the documented answers, and
//! nothing else is.

use std::collections::BTreeSet;
use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

use crate::common::api::{self, Answer, Watch};
use crate::common::daemon::Daemon;
use flowtag_testbed::JsonSchema;
use serde_json::{Value, json};

/// Answers that no client can bring about from outside, or not here.
const UNPROVOKED: [&str; 3] = [
    "403", // needs another user: tests/access.rs
    "500", // the kernel's counters cannot be read, or rules not be written: needs a broken kernel or disk
    "503", // for the few milliseconds in which the daemon stops
];

const METHODS: [&str; 6] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// The description's schemas, once for all tests of a process.
static SCHEMAS: LazyLock<JsonSchema> =
    LazyLock::new(|| JsonSchema::new(&json!({ "components": spec()["components"] })));

fn spec() -> Value {
    serde_saphyr::from_str(include_str!("../../../../docs/openapi.yaml")).expect("YAML")
}

/// The description, and what of it has been seen to be true.
struct Contract {
    spec: Value,
    /// `GET /v1/flows 200`
    seen: BTreeSet<String>,
}

impl Contract {
    fn new() -> Self {
        Self { spec: spec(), seen: BTreeSet::new() }
    }

    /// Method, path and description of all that is documented.
    fn operations(&self) -> Vec<(String, String, Value)> {
        let paths = self.spec["paths"].as_object().expect("paths");
        let methods = |(path, item): (&String, &Value)| {
            let operations = item.as_object().expect("methods").clone();
            let path = path.clone();
            operations.into_iter().map(move |(method, op)| (method.to_uppercase(), path.clone(), op))
        };
        paths.iter().flat_map(methods).collect()
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        &self.spec["paths"][path][method.to_lowercase()]
    }

    /// Follows a `$ref` at this place, if there is one.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        let reference = value["$ref"].as_str().and_then(|r| self.spec.pointer(r.strip_prefix('#')?));
        reference.unwrap_or(value)
    }

    fn request_schema(&self, path: &str) -> &Value {
        &self.operation("POST", path)["requestBody"]["content"]["application/json"]["schema"]
    }

    /// The examples of a request, in the order of their names.
    fn examples(&self, path: &str) -> Vec<Value> {
        let content = &self.operation("POST", path)["requestBody"]["content"]["application/json"];
        values(&content["examples"])
    }

    /// Holds an answer against the description and notes that it was given.
    #[track_caller]
    fn check(&mut self, method: &str, path: &str, expected: u16, answer: &Answer) {
        let what = format!("{method} {path} {}", answer.status);
        assert_eq!(answer.status, expected, "{what}: {}", String::from_utf8_lossy(&answer.body));
        let documented = self.resolve(&self.operation(method, path)["responses"][expected.to_string()]);
        let content = documented["content"].as_object().unwrap_or_else(|| panic!("{what} is not documented"));
        let (media_type, content) = content.iter().next().expect("a media type");
        assert_eq!(answer.header("content-type"), Some(media_type.as_str()), "{what}");
        if media_type == "application/json" {
            assert_valid(&content["schema"], &what, &answer.json());
        }
        self.seen.insert(what);
    }

    /// Sends a request to the path as documented, with `{id}` filled in.
    #[track_caller]
    fn ask(
        &mut self,
        daemon: &Daemon,
        method: &str,
        (path, at): (&str, &str),
        body: &Value,
        expected: u16,
    ) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = api::ask(daemon, method, at, body.as_bytes());
        self.check(method, path, expected, &answer);
        answer.json()
    }

    #[track_caller]
    fn post(&mut self, daemon: &Daemon, path: &str, body: &Value, expected: u16) -> Value {
        self.ask(daemon, "POST", (path, path), body, expected)
    }

    #[track_caller]
    fn get(&mut self, daemon: &Daemon, path: &str, expected: u16) -> Value {
        self.ask(daemon, "GET", (path, path), &Value::Null, expected)
    }

    /// Paths that take a body.
    fn takers(&self) -> Vec<String> {
        self.operations()
            .into_iter()
            .filter(|(_, _, operation)| operation["requestBody"].is_object())
            .map(|(_, path, _)| path)
            .collect()
    }
}

/// Holds a value against a schema anywhere in the description.
#[track_caller]
fn assert_valid(schema: &Value, what: &str, value: &Value) {
    let errors = SCHEMAS.errors_of_part(schema, value);
    assert!(errors.is_empty(), "{what} is not as documented: {errors:?}\n{value:#}");
}

fn values(examples: &Value) -> Vec<Value> {
    examples.as_object().into_iter().flatten().map(|(_, example)| example["value"].clone()).collect()
}

fn daemon() -> Daemon {
    Daemon::start(
        "[[rules]]\nname = \"configured\"\nremote = \"2001:db8::/32\"\ntag = \"never\"\n\
         [mark]\nenabled = false\n[flows]\nmax = 4\n[inputs.pipe]\nenabled = true\n\
         [outputs.firefly]\ndestination = false\n\
         [[outputs.firefly.collectors]]\naddress = \"[::1]:10514\"\n\
         [[outputs.firefly.collectors]]\naddress = \"collector.invalid:10514\"\n",
    )
}

#[test]
fn every_documented_answer_is_given_in_the_documented_form() {
    let mut contract = Contract::new();
    let daemon = daemon();
    let slow: Vec<_> = contract.takers().into_iter().map(|path| (begin(&daemon, &path), path)).collect();
    let mut watch = Watch::open(&daemon);
    flows_live_and_end(&mut contract, &daemon);
    flows_are_looked_up(&mut contract, &daemon);
    batches_are_taken(&mut contract, &daemon);
    rules_come_and_go(&mut contract, &daemon);
    a_rule_too_many_is_refused(&mut contract);
    requests_are_refused(&mut contract, &daemon);
    changes_are_watched(&mut contract, &mut watch);
    the_daemon_is_asked(&mut contract, &daemon);
    for (stream, path) in slow {
        contract.check("POST", &path, 408, &Answer::read(&mut BufReader::new(stream)));
    }
    let documented = contract.operations().into_iter().flat_map(|(method, path, operation)| {
        let statuses: Vec<_> =
            operation["responses"].as_object().expect("responses").keys().cloned().collect();
        statuses.into_iter().map(move |status| (format!("{method} {path} {status}"), status))
    });
    let provoked =
        documented.filter(|(_, status)| !UNPROVOKED.contains(&status.as_str())).map(|(what, _)| what);
    assert_eq!(contract.seen, provoked.collect(), "seen, and documented");
    daemon.stop();
}

/// Promises a body and sends one byte of it.
fn begin(daemon: &Daemon, path: &str) -> UnixStream {
    let mut stream = api::connect(daemon);
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

fn flows_live_and_end(contract: &mut Contract, daemon: &Daemon) {
    let starts = contract.examples("/v1/flows");
    assert_eq!(starts.len(), 3);
    for (start, id) in starts.iter().zip(1..) {
        let started = contract.post(daemon, "/v1/flows", start, 201);
        assert_eq!((&started["outcome"], &started["flow"]["id"]), (&json!("started"), &json!(id)));
        let again = contract.post(daemon, "/v1/flows", start, 200);
        assert_eq!((&again["outcome"], &again["flow"]["id"]), (&json!("refreshed"), &json!(id)));
    }
    let mut other = starts[0].clone();
    other["activity"] = json!(15);
    let updated = contract.post(daemon, "/v1/flows", &other, 200);
    assert_eq!((&updated["outcome"], &updated["flow"]["activity"]), (&json!("updated"), &json!(15)));
    contract.post(daemon, "/v1/flows", &api::start(1, 2), 201);
    let full = contract.post(daemon, "/v1/flows", &api::start(1, 3), 507);
    assert!(full["error"].as_str().expect("text").contains("it may hold 4 flows"), "{full}");
    contract.post(daemon, "/v1/flows/end", &json!({ "id": 4 }), 200);
}

fn flows_are_looked_up(contract: &mut Contract, daemon: &Daemon) {
    let all = contract.get(daemon, "/v1/flows", 200);
    assert_eq!((&all["total"], all["flows"].as_array().map(Vec::len)), (&json!(3), Some(3)));
    let query = |text: &str| format!("/v1/flows?{text}");
    let one = contract.ask(daemon, "GET", ("/v1/flows", &query("experiment=cms&limit=1")), &Value::Null, 200);
    assert_eq!((&one["total"], &one["flows"][0]["id"]), (&json!(3), &json!(1)));
    assert_eq!(one["flows"].as_array().map(Vec::len), Some(1));
    let none = contract.ask(daemon, "GET", ("/v1/flows", &query("experiment=2")), &Value::Null, 200);
    assert_eq!(none, json!({ "total": 0, "flows": [] }));
    contract.ask(daemon, "GET", ("/v1/flows", &query("limit=few")), &Value::Null, 400);
    contract.ask(daemon, "GET", ("/v1/flows", &query("experiment=nobody")), &Value::Null, 422);
    for (id, status) in [("1", 200), ("99", 404), ("one", 400)] {
        contract.ask(daemon, "GET", ("/v1/flows/{id}", &format!("/v1/flows/{id}")), &Value::Null, status);
    }
    for example in contract.examples("/v1/flows/find") {
        let found = contract.post(daemon, "/v1/flows/find", &example, 200);
        assert_eq!(found["id"], 1, "from the other end it is the same flow");
    }
    for (example, id) in contract.examples("/v1/flows/end").iter().zip(1..) {
        assert_eq!(contract.post(daemon, "/v1/flows/end", example, 200)["id"], id);
        contract.post(daemon, "/v1/flows/end", example, 404);
    }
    let find = contract.examples("/v1/flows/find").remove(0);
    contract.post(daemon, "/v1/flows/find", &find, 404);
}

fn batches_are_taken(contract: &mut Contract, daemon: &Daemon) {
    for example in contract.examples("/v1/events") {
        let result = contract.post(daemon, "/v1/events", &example, 200);
        let documented = &contract.operation("POST", "/v1/events")["responses"]["200"];
        assert_eq!(result, values(&documented["content"]["application/json"]["examples"])[0]);
    }
}

fn rules_come_and_go(contract: &mut Contract, daemon: &Daemon) {
    const ONE: &str = "/v1/rules/{name}";
    for example in contract.examples("/v1/rules") {
        let added = contract.post(daemon, "/v1/rules", &example, 201);
        assert_eq!((&added["rule"]["name"], &added["origin"]), (&example["name"], &json!("api")));
        let twice = contract.post(daemon, "/v1/rules", &example, 409);
        assert!(twice["error"].as_str().expect("text").contains("already"), "{twice}");
    }
    let names = |contract: &mut Contract| {
        let rules = contract.get(daemon, "/v1/rules", 200);
        assert_eq!(rules["marking"], false);
        let names = rules["rules"].as_array().expect("rules").iter().map(|r| r["rule"]["name"].clone());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(contract), ["builtin:fireflies", "configured", "xrootd", "site", "test"]);
    for (name, status) in
        [("site", 200), ("site", 404), ("configured", 409), ("builtin:private", 409), ("%ff", 400)]
    {
        contract.ask(daemon, "DELETE", (ONE, &format!("/v1/rules/{name}")), &Value::Null, status);
    }
    let nowhere = json!({ "name": "x", "before": "site", "tag": "3/14" });
    let refused = contract.post(daemon, "/v1/rules", &nowhere, 422);
    assert!(
        refused["error"].as_str().expect("text").contains("before: there is no rule \"site\""),
        "{refused}"
    );
    assert_eq!(names(contract), ["builtin:fireflies", "configured", "xrootd", "test"]);
}

fn a_rule_too_many_is_refused(contract: &mut Contract) {
    let all: String =
        (0..1000).map(|port| format!("[[rules]]\nlocal_port = {}\ntag = \"3/14\"\n", port + 1)).collect();
    let daemon = Daemon::start(&(all + "[mark]\nenabled = false\n"));
    let full = contract.post(&daemon, "/v1/rules", &json!({ "name": "x", "tag": "3/14" }), 507);
    assert!(full["error"].as_str().expect("text").contains("1000 rules"), "{full}");
    daemon.stop();
}

fn requests_are_refused(contract: &mut Contract, daemon: &Daemon) {
    let too_large = Value::String("x".repeat(5 << 20));
    for path in contract.takers() {
        contract.post(daemon, &path, &json!("nonsense"), 400);
        contract.post(daemon, &path, &too_large, 413);
        if path == "/v1/rules" {
            let rule = json!({ "name": "x", "remote": "2001:db8::1/32", "tag": "3/14" });
            let refused = contract.post(daemon, &path, &rule, 422);
            let documented =
                contract.resolve(&json!({ "$ref": "#/components/responses/Meaningless" })).clone();
            let examples = &documented["content"]["application/json"]["examples"];
            assert_eq!(refused, examples["rule"]["value"]);
        } else if path != "/v1/events" {
            let mut mixed = api::start(1, 2);
            mixed["dst"] = json!("192.0.2.1:2");
            if path != "/v1/flows" {
                mixed = json!({ "protocol": "tcp", "src": mixed["src"], "dst": mixed["dst"] });
            }
            contract.post(daemon, &path, &mixed, 422);
        }
    }
}

fn changes_are_watched(contract: &mut Contract, watch: &mut Watch) {
    let schema =
        &contract.operation("GET", "/v1/watch")["responses"]["200"]["content"]["application/x-ndjson"];
    let expected =
        ["started 1", "started 2", "started 3", "updated 1", "started 4", "ended 4", "ended 1", "ended 2"];
    for expected in expected {
        let line = watch.line();
        assert_valid(&schema["schema"], "a line of a watch", &line);
        assert_eq!(format!("{} {}", line["change"].as_str().expect("a word"), line["flow"]["id"]), expected);
    }
    contract.seen.insert("GET /v1/watch 200".to_owned());
}

fn the_daemon_is_asked(contract: &mut Contract, daemon: &Daemon) {
    contract.get(daemon, "/v1/health", 200);
    let coverage = contract.get(daemon, "/v1/coverage", 200);
    assert_eq!((&coverage["marking"], &coverage["sent"]), (&json!(false), &json!([])));
    let status = contract.get(daemon, "/v1/status", 200);
    assert_eq!((&status["flows"], &status["max_flows"]), (&json!(1), &json!(4)));
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!(status["engine"]["rejected_full"], 1);
    let reload = contract.ask(daemon, "POST", ("/v1/reload", "/v1/reload"), &Value::Null, 200);
    assert_eq!(reload["problems"], json!([]));
    let described = api::get(daemon, "/v1/openapi.yaml");
    contract.check("GET", "/v1/openapi.yaml", 200, &described);
    assert!(described.body == include_bytes!("../../../../docs/openapi.yaml"), "the file itself is served");
}

#[test]
fn what_the_description_calls_malformed_is_what_the_daemon_refuses_as_malformed() {
    let contract = Contract::new();
    let daemon = daemon();
    let with = |key: &str, value: Value| {
        let mut start = api::start(1, 2);
        start[key] = value;
        start
    };
    let end = |usage: Value| json!({ "id": 1, "usage": usage });
    let cases = [
        ("unknown key", "/v1/flows", with("experimnet", json!(3)), "experimnet"),
        ("number for a name", "/v1/flows", with("src", json!(5)), "src"),
        ("negative experiment", "/v1/flows", with("experiment", json!(-1)), "experiment"),
        ("broken experiment", "/v1/flows", with("experiment", json!(1.5)), "experiment"),
        ("list for a name", "/v1/flows", with("activity", json!([14])), "activity"),
        ("time of no calendar", "/v1/flows", with("start_time", json!("2026-13-01T00:00:00Z")), "start_time"),
        ("missing key", "/v1/flows", json!({ "protocol": "tcp", "src": "[::1]:1" }), "dst"),
        (
            "fields by position",
            "/v1/flows",
            json!(["tcp", "[::1]:1", "[::2]:2", 3, 14, null, null, null]),
            "object",
        ),
        ("unknown key", "/v1/flows/end", json!({ "id": 1, "reason": "done" }), "reason"),
        ("id as text", "/v1/flows/end", json!({ "id": "1" }), "id"),
        ("half a usage", "/v1/flows/end", end(json!({ "sent": 1 })), "received"),
        ("usage by position", "/v1/flows/end", end(json!([1, 2])), "usage"),
        (
            "unknown key in usage",
            "/v1/flows/end",
            end(json!({ "sent": 1, "received": 1, "lost": 1 })),
            "lost",
        ),
        (
            "unknown key",
            "/v1/flows/find",
            json!({ "protocol": "tcp", "src": "a", "dst": "b", "id": 1 }),
            "id",
        ),
        ("no list", "/v1/events", json!({}), "list"),
        ("no state", "/v1/events", json!([api::start(1, 2)]), "[0]: missing field `state`"),
        ("unknown state", "/v1/events", json!([{ "state": "begin" }]), "[0].state: unknown variant `begin`"),
        (
            "unknown key",
            "/v1/events",
            json!([{ "state": "end", "id": 1 }, { "state": "end", "di": 1 }]),
            "[1]: unknown field `di`",
        ),
        ("event by position", "/v1/events", json!([["end", 1]]), "[0]"),
        ("strategy as number", "/v1/flows", with("strategy", json!(1)), "strategy"),
        ("period as number", "/v1/flows", with("report_every", json!(30)), "report_every"),
    ];
    for (what, path, body, expected) in cases {
        assert_malformed(&contract, &daemon, (what, path), &body, expected);
    }
    daemon.stop();
}

#[test]
fn malformed_rules_are_refused_with_the_key() {
    let contract = Contract::new();
    let daemon = daemon();
    let cases = [
        ("unknown key", json!({ "name": "x", "tga": "3/14" }), "unknown field `tga`"),
        ("number for a prefix", json!({ "name": "x", "remote": [5], "tag": "3/14" }), "remote"),
        ("object for a port", json!({ "name": "x", "local_port": {}, "tag": "3/14" }), "local_port"),
        ("broken port", json!({ "name": "x", "local_port": 1.5, "tag": "3/14" }), "local_port"),
        ("place as number", json!({ "name": "x", "before": 1, "tag": "3/14" }), "before"),
        ("rule by position", json!(["x", "3/14"]), "object"),
    ];
    for (what, body, expected) in cases {
        assert_malformed(&contract, &daemon, (what, "/v1/rules"), &body, expected);
    }
    daemon.stop();
}

#[track_caller]
fn assert_malformed(
    contract: &Contract,
    daemon: &Daemon,
    (what, path): (&str, &str),
    body: &Value,
    expected: &str,
) {
    let errors = SCHEMAS.errors_of_part(contract.request_schema(path), body);
    assert!(!errors.is_empty(), "{what}: the description allows {body}");
    let answer = api::post(daemon, path, body);
    assert_eq!(answer.status, 400, "{what}: {}", answer.error());
    assert!(answer.error().contains(expected), "{what}: {}", answer.error());
}

#[test]
fn a_null_is_as_good_as_a_key_that_is_not_there() {
    let contract = Contract::new();
    let daemon = daemon();
    let mut start = api::start(1, 2);
    for key in ["scitag", "strategy", "start_time", "application", "report_every"] {
        start[key] = Value::Null;
    }
    let end = json!({ "id": 1, "protocol": null, "src": null, "dst": null, "end_time": null, "usage": null });
    let mut rule = json!({ "name": "x", "tag": "3/14" });
    let keys = [
        "cgroup",
        "user",
        "process",
        "protocol",
        "local_port",
        "remote_port",
        "local",
        "remote",
        "interface",
    ];
    for key in keys.into_iter().chain(["tags", "strategy", "before"]) {
        rule[key] = Value::Null;
    }
    for (path, body, status) in
        [("/v1/flows", start, 201), ("/v1/flows/end", end, 200), ("/v1/rules", rule, 201)]
    {
        assert_valid(contract.request_schema(path), "the request", &body);
        assert_eq!(api::post(&daemon, path, &body).status, status);
    }
    daemon.stop();
}

#[test]
fn paths_and_methods_that_are_not_documented_are_not_served() {
    let contract = Contract::new();
    let daemon = daemon();
    for path in
        ["/", "/v1", "/v1/", "/v1/flows/", "/v1/flows/1/2", "/v2/flows", "/metrics", "/v1/watch/../status"]
    {
        let answer = api::get(&daemon, path);
        assert_eq!((answer.status, answer.error().contains("/v1/openapi.yaml")), (404, true), "{path}");
    }
    for path in contract.spec["paths"].as_object().expect("paths").keys() {
        let operations = contract.operations();
        let allowed = |m: &&str| operations.iter().any(|(method, p, _)| p == path && method == m);
        for method in METHODS.iter().filter(|m| !allowed(m)) {
            let at = path.replace("{id}", "1").replace("{name}", "x");
            let answer = api::ask(&daemon, method, &at, b"");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.error().contains("does not take that method"), "{method} {path}");
            let told: BTreeSet<_> = answer.header("allow").unwrap_or_default().split(',').collect();
            let served: BTreeSet<_> = METHODS.iter().filter(|m| allowed(m)).copied().collect();
            assert_eq!(&told - &BTreeSet::from(["HEAD"]), served, "Allow of {path}");
        }
    }
    daemon.stop();
}

#[test]
fn examples_in_the_description_fit_their_own_schemas() {
    let contract = Contract::new();
    let mut found = 0;
    let mut places = vec![&contract.spec];
    while let Some(place) = places.pop() {
        if let (Some(schema), Some(examples)) = (place.get("schema"), place.get("examples")) {
            for example in values(examples) {
                assert_valid(schema, "an example", &example);
                found += 1;
            }
        }
        places.extend(place.as_object().into_iter().flat_map(|object| object.values()));
    }
    assert!(found >= 15, "{found} examples");
}

#[test]
fn a_strategy_is_taken_and_shown_and_a_wrong_one_is_refused() {
    let daemon = daemon();
    let with = |strategy: &str| {
        let mut start = api::start(1, 2);
        start["strategy"] = json!(strategy);
        api::post(&daemon, "/v1/flows", &start)
    };
    assert_eq!(api::post(&daemon, "/v1/flows", &api::start(1, 2)).json()["flow"]["strategy"], "label");
    let updated = with("Hop-By-Hop+destination").json();
    assert_eq!(
        (&updated["outcome"], &updated["flow"]["strategy"]),
        (&json!("updated"), &json!("hop-by-hop+destination"))
    );
    assert_eq!(updated["flow"]["rule"], Value::Null);
    let refused = with("lable");
    assert_eq!(refused.status, 422);
    assert!(refused.error().contains("use label, destination, hop-by-hop"), "{}", refused.error());
    daemon.stop();
}

#[test]
fn a_flow_may_have_a_period_of_its_own_from_a_second_to_a_month() {
    let daemon = daemon();
    let with = |period: &str| {
        let mut start = api::start(1, 2);
        start["report_every"] = json!(period);
        api::post(&daemon, "/v1/flows", &start)
    };
    for wrong in ["soon", "", "30", "off", "999ms", "30days 1s"] {
        let refused = with(wrong);
        assert_eq!(refused.status, 422, "{wrong}");
        assert!(refused.error().contains("report_every"), "{wrong}: {}", refused.error());
    }
    assert_eq!(with("30days").status, 201);
    assert_eq!(with("1s").json()["outcome"], "refreshed");
    daemon.stop();
}

#[test]
fn rules_that_were_added_outlive_the_daemon_and_keep_their_place() {
    let daemon = daemon();
    for rule in
        [json!({ "name": "b", "tag": "3/14" }), json!({ "name": "a", "before": "configured", "tag": "3/15" })]
    {
        assert_eq!(api::post(&daemon, "/v1/rules", &rule).status, 201);
    }
    let before = api::get(&daemon, "/v1/rules").json();
    let dir = daemon.kill();
    let config = std::fs::read_to_string(dir.path().join("flowtag.toml")).expect("its configuration");
    let again = Daemon::restart_with(dir, &config, |args| {
        let mut command = std::process::Command::new(&args[0]);
        command.args(&args[1..]);
        command
    });
    assert_eq!(api::get(&again, "/v1/rules").json(), before);
    again.stop();
}
