//! flowd-go's YAML or JSON: what its manual, README, sample and tests write, also where that is not what it reads.

use std::time::Duration;

use super::node::{Node, Section, Value};
use super::report::{Finding, Key, Problem, Severity};
use super::{
    COLLECTORS, MAX_TAGS, Maker, NO_TAG, host_port, listen, origin, stun_server, tag_keys, tags, within,
};

type Done = Result<(), Problem>;

/// What one part of the file has to know of another.
#[derive(Default)]
struct Facts {
    /// Milliseconds.
    period: Option<i64>,
    /// Something gathers statistics, so there are periodic fireflies if they are asked for.
    enriches: bool,
    /// All packets get one tag.
    perfsonar: bool,
    /// How many plugins there are.
    plugins: usize,
    marks: bool,
    /// The plugin that became a rule.
    rules_of: Option<Key>,
}

pub(super) fn convert(document: Node) -> Result<Maker, Problem> {
    let mut maker = Maker::default();
    let mut root = Section::root(document)?;
    let mut facts = Facts::default();
    maker.process(&mut root)?;
    maker.how_to(&mut root)?;
    if let Some(key) = root.take("enrichers") {
        maker.enrichers(key.section()?, &mut facts)?;
    }
    let plugins = root.take("plugins");
    if let Some(key) = plugins {
        maker.plugins(key.section()?, &mut facts)?;
    }
    if let Some(key) = root.take("backends") {
        maker.backends(key.section()?, &mut facts)?;
    }
    maker.findings.extend(root.rest());
    maker.mark_or_not(facts.marks, facts.rules_of.as_ref());
    if !maker.draft.has("outputs.firefly.enabled") {
        maker.draft.set("outputs.firefly.enabled", false, "there is no backends.firefly");
    }
    Ok(maker)
}

impl Maker {
    /// Opens a plugin, backend or enricher and notes that it is there.
    fn component(&mut self, key: Key, to: &[&str]) -> Result<Option<Section>, Problem> {
        if key.value == Value::Null {
            let name = key.path.rsplit('.').next().unwrap_or_default();
            let advice =
                format!("has no value, for which flowd-go leaves it out: write `{name}: {{}}` to have it");
            self.note(Finding::not_needed(&key, "").warning(advice));
            return Ok(None);
        }
        for to in to.iter().filter(|to| to.ends_with(".enabled")) {
            self.draft.set(to, true, origin(&key));
        }
        if !to.is_empty() {
            self.note(Finding::converted(&key, to));
        }
        key.section().map(Some)
    }

    /// Keys of an eBPF program that flowd-go loads.
    fn program(&mut self, section: &mut Section) -> Done {
        if let Some(key) = section.take("programPath") {
            if key.value == Value::Null || key.text()?.is_empty() {
                self.note(Finding::not_needed(&key, "flowtag has its programs in itself"));
            } else {
                let advice = "flowtag loads no programs but its own; remove it";
                self.note(Finding::not_supported(&key, Severity::Warning, advice));
            }
        }
        self.not_needed(section.take("debugMode"), "for more in the log: log.level = \"debug\"");
        Ok(())
    }

    fn process(&mut self, root: &mut Section) -> Done {
        self.not_needed(
            root.take("pidPath"),
            "systemd knows the process; a second daemon is kept out by a lock in runtime_dir",
        );
        self.not_needed(
            root.take("workDir"),
            "flowd-go never used it; flowtag keeps its files in runtime_dir",
        );
        self.not_needed(root.take("defaultBackend"), "flowd-go never used it");
        if let Some(key) = root.take("stunServers") {
            let servers: Vec<_> = key.texts()?.iter().map(|server| stun_server(server)).collect();
            self.draft.set("addresses.stun", servers, origin(&key));
            let text = "flowd-go 2 ignores it here and reads backends.firefly.stun.stunServers";
            self.note(Finding::converted(&key, &["addresses.stun"]).warning(text));
        }
        Ok(())
    }

    /// The form on the how-to page of scitags.org, which no flowd-go reads.
    fn how_to(&mut self, root: &mut Section) -> Done {
        const TEXT: &str = "flowd-go does not read this form of the how-to page";
        if let Some(key) = root.take("settings") {
            let mut settings = key.section()?;
            if let Some(key) = settings.take("plugin") {
                match key.text()?.as_str() {
                    "" => self.note(Finding::not_needed(&key, "it names none")),
                    "np_api" | "namedPipe" => self.open_pipe(&key),
                    _ => self.note(Finding::not_supported(&key, Severity::Lost, "write it below `plugins`")),
                }
            }
            if let Some(key) = settings.take("backends") {
                self.how_to_backends(&key)?;
            }
            if let Some(key) = settings.take("flow_map_api") {
                self.draft.set("registry.url", key.text()?, origin(&key));
                self.note(Finding::converted(&key, &["registry.url"]).warning(TEXT));
            }
            self.findings.extend(settings.rest());
        }
        if let Some(key) = root.take("firefly") {
            let mut firefly = key.section()?;
            let (host, port) = (firefly.take("collector_host"), firefly.take("collector_port"));
            if let Some(key) = &host {
                let number = port.as_ref().map_or(Ok(10514), Key::port)?;
                self.draft.collector(host_port(&key.text()?, number), origin(key));
            }
            for key in [host, port].into_iter().flatten() {
                self.note(Finding::converted(&key, &["outputs.firefly.collectors.address"]).warning(TEXT));
            }
            self.findings.extend(firefly.rest());
        }
        Ok(())
    }

    fn how_to_backends(&mut self, key: &Key) -> Done {
        let names = key.texts()?;
        for name in &names {
            match name.as_str() {
                "udp_firefly" | "firefly" => self.set(key, "outputs.firefly.enabled", true),
                _ => {
                    let advice = format!("{name}: write it below `backends`");
                    self.note(Finding::not_supported(key, Severity::Lost, advice));
                }
            }
        }
        Ok(())
    }

    fn enrichers(&mut self, mut enrichers: Section, facts: &mut Facts) -> Done {
        if let Some(key) = enrichers.take("period") {
            self.period(&key, facts)?;
        }
        self.enricher_sections(&mut enrichers, facts)?;
        self.findings.extend(enrichers.rest());
        Ok(())
    }

    fn period(&mut self, key: &Key, facts: &mut Facts) -> Done {
        let milliseconds = key.int()?;
        facts.period = Some(milliseconds);
        let (period, changed) = within(milliseconds, Duration::from_secs(3600));
        self.draft.set("statistics.period", period.as_str(), origin(key));
        let finding = Finding::converted(key, &["statistics.period"]);
        self.note(if changed {
            finding.warning(format!("{period} is nearest of 1s to 1h"))
        } else {
            finding
        });
        Ok(())
    }

    fn enricher_sections(&mut self, parent: &mut Section, facts: &mut Facts) -> Done {
        const ONE_PASS: &str =
            "flowtag asks for all sockets in one pass, and for the last values when a flow ends";
        if let Some(key) = parent.take("netlink")
            && let Some(mut netlink) = self.component(key, &["statistics.enabled"])?
        {
            facts.enriches = true;
            if let Some(key) = netlink.take("protocol") {
                match key.int()? {
                    17 => {
                        let advice = "only TCP has statistics that say something of the path";
                        self.note(Finding::not_supported(&key, Severity::Warning, advice));
                    }
                    _ => self.note(Finding::not_needed(&key, ONE_PASS)),
                }
            }
            for name in ["ext", "state", "period", "cacheCapacity"] {
                self.not_needed(netlink.take(name), ONE_PASS);
            }
            self.findings.extend(netlink.rest());
        }
        if let Some(key) = parent.take("skops")
            && let Some(mut skops) = self.component(key, &["statistics.enabled"])?
        {
            facts.enriches = true;
            self.program(&mut skops)?;
            if let Some(key) = skops.take("strategy") {
                let finding = Finding::not_needed(&key, ONE_PASS);
                let transition = key.text()?.eq_ignore_ascii_case("transition");
                let text =
                    "there are values every statistics.period, not only when a connection changes its state";
                self.note(if transition { finding.warning(text) } else { finding });
            }
            for name in ["cgroupPath", "pollingInterval", "cacheCapacity"] {
                self.not_needed(skops.take(name), ONE_PASS);
            }
            self.findings.extend(skops.rest());
        }
        Ok(())
    }

    fn plugins(&mut self, mut plugins: Section, facts: &mut Facts) -> Done {
        if let Some(key) = plugins.take_or("namedPipe", &["np"]) {
            facts.plugins += usize::from(self.named_pipe(key)?);
        }
        if let Some(key) = plugins.take("api") {
            facts.plugins += usize::from(self.api(key)?);
        }
        if let Some(key) = plugins.take_or("firefly", &["fireflyp"]) {
            facts.plugins += usize::from(self.firefly_plugin(key)?);
        }
        if let Some(key) = plugins.take("iperf3") {
            facts.plugins += usize::from(self.iperf3(key, facts)?);
        }
        if let Some(key) = plugins.take_or("perfsonar", &["perfSONAR"]) {
            facts.plugins += usize::from(self.perfsonar(key, facts)?);
        }
        self.findings.extend(plugins.rest());
        Ok(())
    }

    fn named_pipe(&mut self, key: Key) -> Result<bool, Problem> {
        const MANUAL: &str = "/var/run/flowd-go/np";
        let plugin = key.clone();
        let Some(mut pipe) = self.component(key, &[])? else { return Ok(false) };
        self.open_pipe(&plugin);
        match pipe.take("pipePath") {
            None => {
                let text = format!(
                    "without pipePath flowd-go makes `np` in the directory where it is started (/np under systemd), and its \
                     manual says {MANUAL}, which is taken: look where your producers write"
                );
                self.draft.set("inputs.pipe.path", MANUAL, text.clone());
                self.note(Finding::converted(&plugin, &["inputs.pipe.path"]).warning(text));
            }
            Some(key) => {
                let path = key.text()?;
                if path.starts_with('/') {
                    self.set(&key, "inputs.pipe.path", path);
                } else {
                    let path = format!("/{}", path.trim_start_matches("./"));
                    let text = format!("flowd-go makes it where it is started; under systemd that is {path}");
                    self.draft.set("inputs.pipe.path", path, origin(&key));
                    self.note(Finding::converted(&key, &["inputs.pipe.path"]).warning(text));
                }
            }
        }
        for name in ["maxReaders", "buffSize"] {
            self.not_needed(pipe.take(name), "flowtag reads all lines, whatever the size of writes");
        }
        self.findings.extend(pipe.rest());
        Ok(true)
    }

    fn api(&mut self, key: Key) -> Result<bool, Problem> {
        const TO: &[&str] = &["inputs.flowd_go.listen"];
        let Some(mut api) = self.component(key, &["inputs.flowd_go.enabled"])? else { return Ok(false) };
        let (address, port) = (api.take("bindAddress"), api.take("bindPort"));
        let number = port.as_ref().map_or(Ok(7777), Key::port)?;
        let at = address.as_ref().map(|key| listen(key, number)).transpose()?;
        if let Some(key) = address.as_ref().or(port.as_ref()) {
            let at = at.unwrap_or_else(|| ([127, 0, 0, 1], number).into());
            self.draft.set("inputs.flowd_go.listen", at.to_string(), origin(key));
        }
        if let Some(key) = &address {
            let finding = Finding::converted(key, TO);
            let open = "whoever reaches the port can tag any flow, as before: [[access]] limits as what";
            let loopback = at.is_none_or(|at| at.ip().is_loopback());
            self.note(if loopback { finding } else { finding.warning(open) });
        }
        if let Some(key) = &port {
            self.note(Finding::converted(key, TO));
        }
        self.findings.extend(api.rest());
        Ok(true)
    }

    fn firefly_plugin(&mut self, key: Key) -> Result<bool, Problem> {
        const TO: &[&str] = &["inputs.firefly.listen"];
        let plugin = key.clone();
        let Some(mut firefly) = self.component(key, &["inputs.firefly.enabled", "inputs.firefly.listen"])?
        else {
            return Ok(false);
        };
        let (address, port) = (firefly.take("bindAddress"), firefly.take("bindPort"));
        let number = port.as_ref().map_or(Ok(10514), Key::port)?;
        let at = address.as_ref().map(|key| listen(key, number)).transpose()?;
        let at = at.unwrap_or_else(|| ([127, 0, 0, 1], number).into());
        let from = origin(address.as_ref().or(port.as_ref()).unwrap_or(&plugin));
        self.draft.set("inputs.firefly.listen", at.to_string(), from.as_str());
        self.believe(at, &from);
        if let Some(key) = &address {
            let finding = Finding::converted(key, TO);
            let open =
                "everybody's fireflies are believed, as before: inputs.firefly.sources can name who is";
            self.note(if at.ip().is_loopback() { finding } else { finding.warning(open) });
        }
        if let Some(key) = &port {
            self.note(Finding::converted(key, TO));
        }
        if let Some(key) = firefly.take("fireflyReceivers") {
            self.receivers(key)?;
        }
        for name in ["bufferSize", "deadline"] {
            self.not_needed(
                firefly.take(name),
                "datagrams of every size are read, and nothing waits for them",
            );
        }
        self.not_needed(firefly.take("hasSyslogHeader"), "fireflies are read with a header and without");
        self.findings.extend(firefly.rest());
        Ok(true)
    }

    fn receivers(&mut self, key: Key) -> Done {
        let wrong = key.problem("is not a list of receivers, each with address and port");
        let Value::List(list) = &key.value else { return Err(wrong) };
        let mut relay = Vec::new();
        for (index, node) in list.iter().enumerate() {
            let path = format!("{}.{index}", key.path);
            let mut receiver = Key::new(path, node.clone()).section()?;
            let address = receiver.take("address").ok_or_else(|| wrong.clone())?.text()?;
            let port = receiver.take("port").map_or(Ok(10514), |key| key.port())?;
            relay.push(host_port(&address, port));
            self.findings.extend(receiver.rest());
        }
        self.set(&key, "inputs.firefly.relay", relay);
        Ok(())
    }

    fn iperf3(&mut self, key: Key, facts: &mut Facts) -> Result<bool, Problem> {
        let plugin = key.clone();
        let Some(mut iperf3) = self.component(key, &["rules"])? else { return Ok(false) };
        let mut rule = vec![("name", toml::Value::from("iperf3")), ("protocol", "tcp".into())];
        for (to, key, min, max) in [
            ("local_port", "rules.local_port", "minSourcePort", "maxSourcePort"),
            ("remote_port", "rules.remote_port", "minDestinationPort", "maxDestinationPort"),
        ] {
            let range = self.port_range(key, iperf3.take(min), iperf3.take(max))?;
            rule.extend(range.map(|range| (to, range)));
        }
        self.program(&mut iperf3)?;
        if let Some(key) = iperf3.take("cgroupPath") {
            let path = key.text()?;
            let below = path.trim_end_matches('/').strip_prefix("/sys/fs/cgroup").unwrap_or_default();
            if !below.is_empty() {
                rule.push(("cgroup", below.into()));
                self.note(Finding::converted(&key, &["rules.cgroup"]));
            } else {
                self.note(Finding::not_needed(&key, "all sockets are seen"));
            }
        }
        let tags = self.iperf3_tags(&plugin, &mut iperf3)?;
        self.findings.extend(iperf3.rest());
        if !tags.is_empty() {
            rule.extend(tag_keys(tags));
            self.draft.rule(rule, origin(&plugin));
            self.every_address(&plugin);
            facts.rules_of = Some(plugin);
        }
        Ok(true)
    }

    /// flowd-go knows of no addresses that are to be left out.
    fn every_address(&mut self, plugin: &Key) {
        self.draft.set(
            "mark.exclude_private",
            false,
            format!("{}: as flowd-go, between private addresses, too", origin(plugin)),
        );
    }

    fn port_range(
        &mut self,
        to: &str,
        min: Option<Key>,
        max: Option<Key>,
    ) -> Result<Option<toml::Value>, Problem> {
        let number = |key: &Option<Key>| key.as_ref().map_or(Ok(0), Key::port);
        let (first, last) = (number(&min)?, number(&max)?);
        let off = first == 0 && last == 0;
        for key in [&min, &max].into_iter().flatten() {
            if off {
                self.note(Finding::not_needed(key, "0 is no limit"));
            } else {
                self.note(Finding::converted(key, &[to]));
            }
        }
        let (first, last) = (first.max(1), if last == 0 { u16::MAX } else { last });
        match &min {
            _ if off => Ok(None),
            Some(key) if first > last => Err(key.problem(format!("is above the highest port, {last}"))),
            _ if first == last => Ok(Some(i64::from(first).into())),
            _ => Ok(Some(format!("{first}-{last}").into())),
        }
    }

    fn iperf3_tags(&mut self, plugin: &Key, iperf3: &mut Section) -> Result<Vec<String>, Problem> {
        let experiments = iperf3.take_or("experimentIDs", &["experimentIds"]);
        let activities = iperf3.take_or("activityIDs", &["activityIds"]);
        let list = |key: &Option<Key>| key.as_ref().map_or_else(|| Ok(vec![0, 1, 2]), Key::ints);
        let (left, right) = (list(&experiments)?, list(&activities)?);
        let at = experiments.as_ref().or(activities.as_ref()).unwrap_or(plugin);
        if left.len() != right.len() || left.is_empty() {
            return Err(
                at.problem("is not as long as the other list: experimentIDs and activityIDs go together")
            );
        }
        let (tags, others) = tags(left.into_iter().zip(right));
        let others = others.join(", ");
        let differs = if tags.is_empty() {
            Some((Severity::Lost, format!("{others} is no tag: {NO_TAG}")))
        } else if tags.len() > MAX_TAGS {
            Some((
                Severity::Warning,
                format!("only the first {MAX_TAGS} are used, which is what a rule takes"),
            ))
        } else if !others.is_empty() {
            Some((Severity::Warning, format!("{others} is left out: {NO_TAG}")))
        } else {
            None
        };
        let mut keys: Vec<_> = [&experiments, &activities].into_iter().flatten().collect();
        if keys.is_empty() && differs.is_some() {
            keys.push(plugin); // the defaults have 0/0
        }
        for key in keys {
            let finding = Finding::converted(key, &["rules.tags"]);
            self.note(match &differs {
                Some((Severity::Lost, text)) => finding.lost(text),
                Some((_, text)) => finding.warning(text),
                None => finding,
            });
        }
        let random = "each flow gets one of the tags at random, and keeps it";
        self.not_needed(iperf3.take("randomIDs"), random);
        Ok(tags)
    }

    fn perfsonar(&mut self, key: Key, facts: &mut Facts) -> Result<bool, Problem> {
        let plugin = key.clone();
        let Some(mut perfsonar) = self.component(key, &["rules"])? else { return Ok(false) };
        let experiment = perfsonar.take_or("experimentId", &["experimentID"]);
        let activity = perfsonar.take_or("activityId", &["activityID"]);
        self.findings.extend(perfsonar.rest());
        let number = |key: &Option<Key>| key.as_ref().map_or(Ok(0), Key::int);
        // Every experiment has activity 1, "default".
        let (owner, purpose) = (number(&experiment)?, number(&activity)?);
        let (tag, _) = tags([(owner, if purpose == 0 { 1 } else { purpose })]);
        let to = ["rules.tag"];
        let Some(tag) = tag.into_iter().next() else {
            let text = format!("{owner}/{purpose} is no tag, so nothing is marked: {NO_TAG}");
            let key = experiment.as_ref().or(activity.as_ref()).unwrap_or(&plugin);
            self.note(Finding::not_supported(key, Severity::Lost, text));
            return Ok(true);
        };
        if let Some(key) = &experiment {
            self.note(Finding::converted(key, &to));
        }
        match activity.as_ref() {
            Some(key) if purpose != 0 => self.note(Finding::converted(key, &to)),
            key => {
                let text = "activity 0 is no activity: taken is 1, `default`";
                self.note(Finding::converted(key.unwrap_or(&plugin), &to).warning(text));
            }
        }
        // Neighbour discovery and the like stays on the link.
        let link = vec!["fe80::/10", "ff00::/8", "169.254.0.0/16", "224.0.0.0/4"];
        let from = format!("{}: what stays on the link is not marked", origin(&plugin));
        self.draft
            .rule(vec![("name", "link".into()), ("remote", link.into()), ("tag", "never".into())], from);
        self.draft.rule(vec![("name", "perfsonar".into()), ("tag", tag.into())], origin(&plugin));
        self.every_address(&plugin);
        facts.perfsonar = true;
        facts.rules_of = Some(plugin);
        Ok(true)
    }

    fn backends(&mut self, mut backends: Section, facts: &mut Facts) -> Done {
        if let Some(key) = backends.take_or("marker", &["ebpf"]) {
            self.marker(key, facts)?;
        }
        if let Some(key) = backends.take_or("firefly", &["fireflyb"]) {
            self.firefly_backend(key, facts)?;
        }
        if let Some(key) = backends.take("prometheus") {
            self.prometheus(key)?;
        }
        self.findings.extend(backends.rest());
        Ok(())
    }

    fn marker(&mut self, key: Key, facts: &mut Facts) -> Done {
        let backend = key.clone();
        let Some(mut marker) = self.component(key, &["mark.enabled"])? else { return Ok(()) };
        facts.marks = true;
        self.interfaces(&backend, &mut marker)?;
        if let Some(key) = marker.take("markingStrategy") {
            let strategy = match key.text()?.to_ascii_lowercase().as_str() {
                "label" | "flowlabel" | "flowlabelmatchall" => "label",
                "hopbyhop" | "hopbyhopheader" => "hop-by-hop",
                "destination" => "destination",
                "hopbyhopdestination" | "hopbyhopdestheaders" | "hopbyhopanddestination" => {
                    "hop-by-hop+destination"
                }
                _ => {
                    return Err(key
                        .problem("is no strategy: use label, hopByHop, destination or hopByHopDestination"));
                }
            };
            self.set(&key, "mark.strategy", strategy);
        }
        if let Some(key) = marker.take("matchAll") {
            let all = key.bool()?;
            self.note(if all && facts.perfsonar {
                Finding::converted(&key, &["rules"])
            } else if all {
                let advice = "without plugins.perfsonar flowd-go marks nothing with it; here each flow gets its own tag";
                Finding::not_supported(&key, Severity::Warning, advice)
            } else {
                Finding::not_needed(&key, "each flow gets its own tag")
            });
        }
        for name in ["removeQdisc", "forceHookRemoval"] {
            let why = "flowtag removes what it made and nothing else; `flowtag detach` does at any time";
            self.not_needed(marker.take(name), why);
        }
        self.program(&mut marker)?;
        self.findings.extend(marker.rest());
        Ok(())
    }

    fn interfaces(&mut self, backend: &Key, marker: &mut Section) -> Done {
        const TO: &str = "mark.interfaces";
        let target = marker.take_or("targetInterfaces", &["targetInterface"]);
        let discover = marker.take("discoverInterfaces");
        let auto = discover.as_ref().map_or(Ok(false), Key::bool)?;
        match (&discover, target) {
            (Some(key), target) if auto => {
                self.set(key, TO, vec!["auto"]);
                self.not_needed(target, "discoverInterfaces is true, and then flowd-go does not look at it");
            }
            (_, Some(key)) => self.set(&key, TO, key.texts()?),
            (_, None) => {
                let text = "without targetInterfaces and discoverInterfaces flowd-go marks on lo alone: you may want [\"auto\"]";
                self.draft.set(TO, vec!["lo"], text);
                self.note(Finding::converted(backend, &[TO]).warning(text));
            }
        }
        if !auto {
            self.not_needed(discover, "mark.interfaces names them");
        }
        Ok(())
    }

    fn firefly_backend(&mut self, key: Key, facts: &mut Facts) -> Done {
        let backend = key.clone();
        let Some(mut firefly) = self.component(key, &["outputs.firefly.enabled"])? else { return Ok(()) };
        if let Some(key) = firefly.take_or("destinationPort", &["fireflyDestinationPort"]) {
            self.set(&key, "outputs.firefly.destination_port", i64::from(key.port()?));
        }
        if let Some(key) = firefly.take("prependSyslog") {
            let why = "every firefly has the header, which collectors need";
            self.note(match key.bool()? {
                true => Finding::not_needed(&key, why),
                false => Finding::not_supported(&key, Severity::Warning, why),
            });
        }
        if facts.perfsonar && facts.plugins == 1 {
            let text = "with perfsonar alone flowd-go sent no fireflies to the other ends, which would get one for every flow";
            self.draft.set("outputs.firefly.destination", false, text);
            self.note(Finding::converted(&backend, &["outputs.firefly.destination"]).warning(text));
        }
        self.collector(&mut firefly)?;
        self.old_enrichment(&mut firefly, facts)?;
        self.enrichment(&mut firefly, facts)?;
        if let Some(key) = firefly.take("stun") {
            self.stun(key)?;
        }
        self.findings.extend(firefly.rest());
        Ok(())
    }

    fn collector(&mut self, firefly: &mut Section) -> Done {
        let send = firefly.take("sendToCollector");
        let (address, port) = (firefly.take("collectorAddress"), firefly.take("collectorPort"));
        let sends = send.as_ref().map_or(Ok(false), Key::bool)?;
        let host = address.as_ref().map_or_else(|| Ok("127.0.0.1".to_owned()), Key::text)?;
        let number = port.as_ref().map_or(Ok(10514), Key::port)?;
        if let Some(key) = send.as_ref().filter(|_| sends) {
            self.draft.collector(host_port(&host, number), origin(key));
        }
        for key in [send, address, port].into_iter().flatten() {
            self.note(if sends {
                Finding::converted(&key, &[COLLECTORS])
            } else {
                Finding::not_needed(&key, "sendToCollector is false: no collector gets any")
            });
        }
        Ok(())
    }

    /// Where earlier versions had what is in `enrichers` now.
    fn old_enrichment(&mut self, firefly: &mut Section, facts: &mut Facts) -> Done {
        for name in ["period", "netlinkPollingInterval"] {
            if let Some(key) = firefly.take(name) {
                self.period(&key, facts)?;
            }
        }
        self.enricher_sections(firefly, facts)?;
        for name in ["addNetlinkContext", "pollNetlink"] {
            if let Some(key) = firefly.take(name) {
                let on = key.bool()?;
                facts.enriches |= on;
                self.note(Finding::not_needed(
                    &key,
                    "outputs.firefly.content says what fireflies have of the connection",
                ));
            }
        }
        Ok(())
    }

    fn enrichment(&mut self, firefly: &mut Section, facts: &Facts) -> Done {
        const EVERY: &str = "flows.report_every";
        let enrich = firefly.take("enrich");
        let mode = firefly.take_or("enrichmentMode", &["enrichmentVerbosity"]);
        let on = enrich.as_ref().map_or(Ok(false), Key::bool)?;
        if let Some(key) = &enrich {
            let (every, changed) = within(facts.period.unwrap_or(1000), Duration::from_secs(30 * 86400));
            let finding = Finding::converted(key, &[EVERY]);
            let finding = match (on, facts.enriches) {
                (true, true) => {
                    self.draft.set(EVERY, every.as_str(), origin(key));
                    if changed {
                        finding.warning(format!("{every} is nearest of 1s to 30days"))
                    } else {
                        finding
                    }
                }
                (true, false) => Finding::not_supported(
                    key,
                    Severity::Warning,
                    "without enrichers.netlink or enrichers.skops flowd-go sends none either: set flows.report_every to have them",
                ),
                (false, _) => Finding::not_needed(key, "flows are reported when they start and end"),
            };
            self.note(finding);
        }
        let content = match mode.as_ref().map_or(Ok("lean".to_owned()), Key::text)?.as_str() {
            "lean" => "flowd-go-lean",
            "compatible" => "flowd-go",
            _ => "flowd-go-full",
        };
        match (on, &mode) {
            (true, Some(key)) => self.set(key, "outputs.firefly.content", content),
            (true, None) => {
                self.draft.set("outputs.firefly.content", content, "enrichmentMode of flowd-go, unless told")
            }
            (false, _) => self.not_needed(mode, "enrich is false"),
        }
        Ok(())
    }

    fn stun(&mut self, key: Key) -> Done {
        const SERVERS: [&str; 5] = ["stun", "stun1", "stun2", "stun3", "stun4"];
        const HTTP: [&str; 2] = ["https://api64.ipify.org", "https://ipconfig.io/ip"];
        let section = key.clone();
        let Some(mut stun) = self.component(key, &["addresses.stun", "addresses.http"])? else {
            return Ok(());
        };
        let mut wanted = |name| stun.take(name).map(|key| Ok((key.bool()?, key))).transpose();
        let (http, by_stun) = (wanted("httpResolution")?, wanted("stunResolution")?);
        let is_on = |wanted: &Option<(bool, Key)>| wanted.as_ref().is_none_or(|(on, _)| *on);
        let servers = stun.take("stunServers");
        let list = match &servers {
            Some(key) => key.texts()?.iter().map(|server| stun_server(server)).collect(),
            None => SERVERS.iter().map(|name| format!("{name}.l.google.com:3478")).collect(),
        };
        let list: Vec<String> = if is_on(&by_stun) { list } else { Vec::new() };
        self.draft.set("addresses.stun", list, origin(servers.as_ref().unwrap_or(&section)));
        let urls = if is_on(&http) { HTTP.to_vec() } else { Vec::new() };
        self.draft.set("addresses.http", urls, origin(&section));
        for (key, to) in [(http, "addresses.http"), (by_stun, "addresses.stun")] {
            if let Some((_, key)) = key {
                self.note(
                    Finding::converted(&key, &[to])
                        .warning("flowd-go ignores it and always asks by HTTP, then by STUN"),
                );
            }
        }
        if let Some(key) = servers {
            self.note(Finding::converted(&key, &["addresses.stun"]));
        }
        if let Some(key) = stun.take("manualMapping") {
            self.mapping(key.section()?)?;
        }
        self.findings.extend(stun.rest());
        Ok(())
    }

    fn mapping(&mut self, mut mapping: Section) -> Done {
        for (from, key) in mapping.take_all() {
            let to = key.text()?;
            let family = |text: &str| text.parse::<std::net::IpAddr>().ok().map(|ip| ip.is_ipv4());
            match (family(&from), family(&to)) {
                (Some(a), Some(b)) if a == b => {
                    self.draft.set_in("addresses.map", &from, to, origin(&key));
                    let text = "at either end of a flow, and for any address of this host or its peers";
                    self.note(Finding::converted(&key, &["addresses.map"]).saying(text));
                }
                _ => {
                    let advice = "is not from an address to one of the same family";
                    self.note(Finding::not_supported(&key, Severity::Warning, advice));
                }
            }
        }
        Ok(())
    }

    fn prometheus(&mut self, key: Key) -> Done {
        const TO: &str = "outputs.prometheus.listen";
        let backend = key.clone();
        let Some(mut prometheus) = self.component(key, &[])? else { return Ok(()) };
        let (address, netlink) = (prometheus.take("bindAddress"), prometheus.take("netlinkPort"));
        let skops = prometheus.take("skopsPort");
        let ports =
            [(&netlink, 8080), (&skops, 8081)].map(|(key, port)| key.as_ref().map_or(Ok(port), Key::port));
        let [first, second] = ports;
        let (first, second) = (first?, second?);
        let port = if first == 0 { second } else { first };
        self.draft.set("outputs.prometheus.enabled", port != 0, origin(&backend));
        self.draft.set("outputs.prometheus.names", vec!["flowd-go"], origin(&backend));
        self.note(Finding::converted(&backend, &["outputs.prometheus.enabled", "outputs.prometheus.names"]));
        if port != 0 {
            let host = address.as_ref().map(|key| listen(key, port)).transpose()?;
            let at = host.unwrap_or_else(|| ([127, 0, 0, 1], port).into());
            self.draft.set(
                TO,
                at.to_string(),
                origin(netlink.as_ref().or(address.as_ref()).unwrap_or(&backend)),
            );
        }
        for key in [address, netlink].into_iter().flatten() {
            self.note(Finding::converted(&key, &[TO]));
        }
        if first != 0 && second != 0 {
            let text = format!(
                "all metrics are at port {first}: take port {second} out of Prometheus' configuration"
            );
            let finding = Finding::not_supported(skops.as_ref().unwrap_or(&backend), Severity::Warning, text);
            self.note(finding);
        } else if let Some(key) = skops {
            self.note(Finding::converted(&key, &[TO]));
        }
        self.not_needed(prometheus.take("log"), "log.level says how much is logged");
        self.findings.extend(prometheus.rest());
        Ok(())
    }
}
