//! `GET /v1/coverage`: how much of the traffic says whose it is, how much does not and why, and which tags arrive.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use flowtag_engine::Registry;
use flowtag_kernel::mark::{self, Arrival};
use flowtag_wire::Tag;
use serde::{Deserialize, Serialize};

use super::body::Failure;
use super::model::{Count, InterfaceStatus};
use super::routes::Answer;
use crate::supervisor::service::Daemon;

/// What the programs counted since they were attached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Coverage {
    /// False: the daemon marks nothing (`mark.enabled`), and nothing is counted.
    pub(crate) marking: bool,
    /// All IPv6 packets that left, tagged or not.
    pub(crate) ipv6: Count,
    /// What left with a tag.
    pub(crate) sent: Vec<Sent>,
    /// What left by interface and what became of it.
    pub(crate) interfaces: Vec<InterfaceStatus>,
    /// What arrived, tagged or not.
    pub(crate) received: Vec<Received>,
    /// What arrived for a flow of ours and does not have its tag. Counted in `received`, too.
    pub(crate) mismatches: Vec<Received>,
    /// Matches and closed sockets that the kernel could not tell the daemon of.
    pub(crate) lost_events: u64,
    /// Packets that arrived beyond what can be kept apart; they are counted under the peer `::/64`.
    pub(crate) lost_arrivals: u64,
}

/// Whose traffic; all none where there are more tags than can be kept apart, or where there is no tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    pub(crate) experiment: Option<u16>,
    pub(crate) activity: Option<u8>,
    pub(crate) experiment_name: Option<String>,
    pub(crate) activity_name: Option<String>,
}

/// What left with one tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    #[serde(flatten)]
    pub(crate) owner: Owner,
    #[serde(flatten)]
    pub(crate) count: Count,
}

/// What arrived with one tag from one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Received {
    /// Where the tag was: `label`, `destination`, `hop-by-hop`, `nothing`. Of a mismatch: `mismatch`, another tag than
    /// the flow's, or `missing`, none.
    pub(crate) how: String,
    /// Of a mismatch: whose the flow is.
    #[serde(flatten)]
    pub(crate) owner: Owner,
    /// The first 64 bits of the source address.
    pub(crate) peer: String,
    /// Its name; the index where it is gone.
    pub(crate) interface: String,
    #[serde(flatten)]
    pub(crate) count: Count,
}

impl Owner {
    fn new(tag: Option<Tag>, registry: &Registry) -> Self {
        let Some(Tag { experiment, activity }) = tag else { return Self::default() };
        Self {
            experiment: Some(experiment.get()),
            activity: Some(activity.get()),
            experiment_name: registry.experiment_name(experiment).map(str::to_owned),
            activity_name: registry.activity_name(experiment, activity).map(str::to_owned),
        }
    }
}

impl Coverage {
    fn new(counted: &mark::Coverage, registry: &Registry) -> Self {
        let interfaces: Vec<_> = counted.interfaces.iter().map(InterfaceStatus::from).collect();
        let names: BTreeMap<_, _> = interfaces.iter().map(|i| (i.index, i.name.as_str())).collect();
        let received = |arrived: &mark::Arrived| Received {
            how: arrived.how.name().to_owned(),
            owner: Owner::new(arrived.tag, registry),
            peer: arrived.peer.to_string(),
            interface: names
                .get(&arrived.interface)
                .map_or_else(|| arrived.interface.to_string(), |n| (*n).to_owned()),
            count: arrived.count.into(),
        };
        let is_mismatch = |a: &&mark::Arrived| matches!(a.how, Arrival::Mismatch | Arrival::Missing);
        let (mismatches, others): (Vec<_>, Vec<_>) = counted.arrived.iter().partition(is_mismatch);
        Self {
            marking: true,
            ipv6: ipv6(&counted.interfaces),
            sent: counted
                .sent
                .iter()
                .map(|(tag, count)| Sent { owner: Owner::new(*tag, registry), count: (*count).into() })
                .collect(),
            received: others.into_iter().map(received).collect(),
            mismatches: mismatches.into_iter().map(received).collect(),
            lost_events: counted.lost_events,
            lost_arrivals: counted.lost_arrivals,
            interfaces,
        }
    }
}

/// Interfaces that share their counters have the same in each of them.
fn ipv6(interfaces: &[mark::InterfaceCounters]) -> Count {
    use mark::Verdict;
    let shared = interfaces.iter().find(|i| i.shared);
    let own = interfaces.iter().filter(|i| !i.shared);
    let mut sum = Count::default();
    for (verdict, count) in own.chain(shared).flat_map(|i| &i.counts) {
        if !matches!(verdict, Verdict::Ipv4 | Verdict::NotIp) {
            sum += (*count).into();
        }
    }
    sum
}

pub(super) async fn show(State(daemon): State<Daemon>) -> Answer<Json<Coverage>> {
    let counted = daemon.core.ask(|state| state.coverage()).await?;
    let counted =
        counted.transpose().map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let registry = daemon.registry_now();
    Ok(Json(counted.map(|counted| Coverage::new(&counted, &registry)).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use flowtag_kernel::link::Interface;
    use flowtag_kernel::mark::{Arrived, Hook, InterfaceCounters, Verdict};
    use flowtag_testbed::JsonSchema;
    use serde_json::{Value, json};

    use super::*;

    fn count(packets: u64) -> mark::Count {
        mark::Count { packets, bytes: 100 * packets }
    }

    fn interface(index: u32, shared: bool, counts: &[(Verdict, u64)]) -> InterfaceCounters {
        InterfaceCounters {
            interface: Interface { index, name: format!("eth{index}"), link_type: 1, mtu: 1500 },
            hook: Hook::Tcx,
            counts: counts.iter().map(|(verdict, packets)| (*verdict, count(*packets))).collect(),
            shared,
        }
    }

    fn counted() -> mark::Coverage {
        let arrived = |how, tag, interface| Arrived {
            how,
            tag,
            peer: "2001:db8:0:1::/64".parse().expect("a prefix"),
            interface,
            count: count(5),
        };
        let cms = Tag::new(3, 14).ok();
        mark::Coverage {
            sent: vec![(cms, count(7)), (None, count(1))],
            interfaces: vec![
                interface(2, false, &[(Verdict::Marked, 8), (Verdict::NoFlow, 4), (Verdict::Ipv4, 100)]),
                interface(3, true, &[(Verdict::NotIp, 50), (Verdict::OtherProtocol, 3)]),
                interface(4, true, &[(Verdict::NotIp, 50), (Verdict::OtherProtocol, 3)]),
            ],
            arrived: vec![
                arrived(Arrival::Label, cms, 2),
                arrived(Arrival::Nothing, None, 2),
                arrived(Arrival::Missing, cms, 9),
            ],
            lost_events: 0,
            lost_arrivals: 2,
        }
    }

    fn json() -> Value {
        serde_json::to_value(Coverage::new(&counted(), Registry::embedded())).expect("JSON")
    }

    #[test]
    fn what_the_kernel_counted_is_told_with_names() {
        let told = json();
        assert_eq!(told["ipv6"], json!({ "packets": 15, "bytes": 1500 }), "shared counters count once");
        assert_eq!(
            told["sent"][0],
            json!({ "experiment": 3, "activity": 14, "experiment_name": "cms",
                "activity_name": "Analysis Input", "packets": 7, "bytes": 700 })
        );
        assert_eq!(told["sent"][1]["experiment"], Value::Null);
        let how = |list: &str| {
            told[list].as_array().expect("a list").iter().map(|r| r["how"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            (how("received"), how("mismatches")),
            (vec![json!("label"), json!("nothing")], vec![json!("missing")])
        );
        assert_eq!(
            (&told["received"][0]["interface"], &told["mismatches"][0]["interface"]),
            (&json!("eth2"), &json!("9"))
        );
        assert_eq!(told["received"][0]["peer"], "2001:db8:0:1::/64");
        assert_eq!(serde_json::from_value::<Coverage>(told.clone()).expect("read back").received.len(), 2);
    }

    /// Counting needs privileges that the test of the running daemon has not, so the form is held here.
    #[test]
    fn the_answer_is_as_documented() {
        let spec: Value = serde_saphyr::from_str(super::super::routes::OPENAPI).expect("YAML");
        let schema = json!({ "components": spec["components"], "$ref": "#/components/schemas/Coverage" });
        let told = json();
        let errors = JsonSchema::new(&schema).errors(&told);
        assert!(errors.is_empty(), "{errors:?}\n{told:#}");
    }
}
