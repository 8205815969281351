//! Links: veth pairs with addresses that can be used at once.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, ensure};

use crate::host::Host;

/// How a link is made; the default is what most tests want.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// MTU of both ends; the kernel's default (1500) if none.
    pub mtu: Option<u32>,
    /// Whether both ends get addresses.
    pub addresses: bool,
    /// Whether both ends keep segmentation and checksum offload; without, every frame is one packet of the wire.
    pub offloads: bool,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self { mtu: None, addresses: true, offloads: true }
    }
}

/// One end of a link.
#[derive(Debug, Clone)]
pub struct Side {
    /// Where it is.
    pub host: Host,
    /// Name of the interface.
    pub device: String,
    /// Its index in the host's namespace.
    pub ifindex: u32,
    /// Link-layer address.
    pub mac: [u8; 6],
    /// `fd00:f1:<link>::1` or `::2`, of a /64.
    pub ipv6: Ipv6Addr,
    /// `10.241.<link>.1` or `.2`, of a /24.
    pub ipv4: Ipv4Addr,
}

/// A link between two hosts: its first end is `a`.
#[derive(Debug, Clone)]
pub struct Link {
    /// The end on the first host.
    pub a: Side,
    /// The end on the second host.
    pub b: Side,
}

/// Two links with a router between them.
#[derive(Debug, Clone)]
pub struct Chain {
    /// From the first host to the router.
    pub near: Link,
    /// From the router to the second host.
    pub far: Link,
}

/// Two interfaces of a link to be, by host and name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) a: (&'a Host, &'a str),
    pub(crate) b: (&'a Host, &'a str),
}

/// Turned off where a frame must be one packet of the wire, with its checksum filled in.
pub(crate) const NO_OFFLOADS: [&str; 8] = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"];

impl Ends<'_> {
    /// Both ends of one veth pair, down.
    pub(crate) fn join(&self) -> Result<()> {
        let ((a, a_device), (b, b_device)) = (self.a, self.b);
        let first = ["link", "add", "name", a_device, "type", "veth", "peer", "name", b_device];
        a.ip(&[&first[..], &["netns", b.namespace()]].concat()).with_context(|| {
            format!("linking {a_device} of host {} to {b_device} of host {}", a.name(), b.name())
        })?;
        Ok(())
    }
}

/// Sets one end up, with the addresses of link number `n`.
pub(crate) fn set_up(end: (&Host, &str), n: u8, number: u8, options: &LinkOptions) -> Result<()> {
    let (host, device) = end;
    if let Some(mtu) = options.mtu {
        host.ip(&["link", "set", "dev", device, "mtu", &mtu.to_string()])?;
    }
    if !options.offloads {
        host.offloads(device, &NO_OFFLOADS)?;
    }
    let (ipv6, ipv4) = addresses(n, number);
    let both = [format!("{ipv6}/64"), format!("{ipv4}/24")];
    let wanted: Vec<&str> = both.iter().map(String::as_str).filter(|_| options.addresses).collect();
    host.bring_up(device, &wanted)
}

/// Waits until the end can be used, and describes it.
pub(crate) fn side(end: (&Host, &str), n: u8, number: u8) -> Result<Side> {
    let (host, device) = end;
    host.wait_for_carrier(device)?;
    host.wait_for_addresses(device)?;
    let found = host.interface(device)?;
    let (ipv6, ipv4) = addresses(n, number);
    let ifindex = found["ifindex"].as_u64().and_then(|i| u32::try_from(i).ok());
    Ok(Side {
        host: host.clone(),
        device: device.to_owned(),
        ifindex: ifindex.context("`ip` gave no index")?,
        mac: parse_mac(found["address"].as_str().unwrap_or_default())?,
        ipv6,
        ipv4,
    })
}

/// Of end `number` of link `n`.
fn addresses(n: u8, number: u8) -> (Ipv6Addr, Ipv4Addr) {
    let ipv6 = Ipv6Addr::new(0xfd00, 0xf1, n.into(), 0, 0, 0, 0, number.into());
    (ipv6, Ipv4Addr::new(10, 241, n, number))
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    ensure!(text.len() == 17, "{text:?} is no link-layer address");
    bytes.try_into().map_err(|_| anyhow::anyhow!("{text:?} is no link-layer address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_layer_addresses_have_six_bytes() {
        assert_eq!(parse_mac("0a:00:27:ff:01:02").expect("fine"), [0x0a, 0, 0x27, 0xff, 1, 2]);
        for bad in ["", "0a:00:27:ff:01", "0a:00:27:ff:01:zz", "0a:00:27:ff:01:02:03"] {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_name_the_link_and_the_end() {
        let (v6, v4) = addresses(16, 2);
        assert_eq!((v6.to_string(), v4.to_string()), ("fd00:f1:10::2".into(), "10.241.16.2".into()));
    }
}
