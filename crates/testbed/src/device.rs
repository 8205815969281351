//! Devices on top of others: bonds, bridges, VLANs, macvlan, ipvlan, and IPv6 in IPv6. Not every kernel has all of
//! them; what it has not is an error of its own kind, so that a test can say loudly what it could not try.

use std::fmt;
use std::net::Ipv6Addr;

use anyhow::{Context, Result};

use crate::host::Host;

/// What the kernel was asked for and has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// As `ip` calls it, or near enough: `bond`, `seg6`.
    pub what: &'static str,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel has no {}", self.what)
    }
}

impl std::error::Error for Missing {}

/// IPv6 in IPv6: where the tunnel begins and ends.
#[derive(Debug, Clone, Copy)]
pub struct Tunnel {
    /// Source of the outer header.
    pub local: Ipv6Addr,
    /// Destination of the outer header.
    pub remote: Ipv6Addr,
}

impl Host {
    /// Adds an active-backup bond of these interfaces, which lose their own addresses.
    ///
    /// # Errors
    /// [`Missing`], or no such interface.
    pub fn add_bond(&self, name: &str, ports: &[&str], addresses: &[&str]) -> Result<()> {
        self.add_device("bond", &["name", name, "type", "bond", "mode", "active-backup", "miimon", "10"])?;
        self.enslave(name, ports)?;
        self.bring_up(name, addresses)?;
        self.wait_for_carrier(name)
    }

    /// Adds a bridge with these interfaces as ports, which lose their own addresses.
    ///
    /// # Errors
    /// [`Missing`], or no such interface.
    pub fn add_bridge(&self, name: &str, ports: &[&str], addresses: &[&str]) -> Result<()> {
        // Without snooping: no queries, and neighbour discovery is flooded as on a plain switch.
        let kind = ["name", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0"];
        self.add_device("bridge", &kind)?;
        self.enslave(name, ports)?;
        self.bring_up(name, addresses)?;
        self.wait_for_carrier(name)
    }

    /// Adds the VLAN interface `<device>.<id>`, gives it these addresses and returns its name. Where the kernel has
    /// none, tagged frames can still be sent through packet sockets.
    ///
    /// # Errors
    /// [`Missing`], or no such device.
    pub fn add_vlan(&self, device: &str, id: u16, addresses: &[&str]) -> Result<String> {
        let name = format!("{device}.{id}");
        let id = id.to_string();
        self.add_device("vlan (8021q)", &["link", device, "name", &name, "type", "vlan", "id", &id])?;
        self.bring_up(&name, addresses)?;
        Ok(name)
    }

    /// Adds a macvlan interface on `device`.
    ///
    /// # Errors
    /// [`Missing`], or no such device.
    pub fn add_macvlan(&self, device: &str, name: &str, addresses: &[&str]) -> Result<()> {
        self.add_device("macvlan", &["link", device, "name", name, "type", "macvlan", "mode", "bridge"])?;
        self.bring_up(name, addresses)
    }

    /// Adds an ipvlan interface on `device`: the same link-layer address, addresses of its own.
    ///
    /// # Errors
    /// [`Missing`], or no such device.
    pub fn add_ipvlan(&self, device: &str, name: &str, addresses: &[&str]) -> Result<()> {
        self.add_device("ipvlan", &["link", device, "name", name, "type", "ipvlan", "mode", "l2"])?;
        self.bring_up(name, addresses)
    }

    /// Adds an IPv6-in-IPv6 tunnel. As the kernel makes them, its outer headers have a destination option of their own
    /// (RFC 2473 §5.1, tunnel encapsulation limit).
    ///
    /// # Errors
    /// [`Missing`], or an address that is none of this host.
    pub fn add_ip6tnl(&self, name: &str, tunnel: Tunnel, addresses: &[&str]) -> Result<()> {
        let (local, remote) = (tunnel.local.to_string(), tunnel.remote.to_string());
        let kind = ["name", name, "type", "ip6tnl", "mode", "ip6ip6", "local", &local, "remote", &remote];
        self.add_device("ip6tnl", &kind)?;
        self.bring_up(name, addresses)
    }

    /// Sends what goes to `destination` through `device` in an outer IPv6 header with a segment routing header
    /// (RFC 8986 §5.1, H.Encaps).
    ///
    /// # Errors
    /// [`Missing`], or no such device.
    pub fn add_srv6_route(&self, destination: &str, segments: &[Ipv6Addr], device: &str) -> Result<()> {
        let segments: Vec<String> = segments.iter().map(Ipv6Addr::to_string).collect();
        let segments = segments.join(",");
        let how = ["encap", "seg6", "mode", "encap", "segs", &segments, "dev", device];
        self.add_route(destination, &how).map_err(|error| or_missing(error, "seg6"))
    }

    /// Takes packets with a segment routing header that are for this host, on this interface.
    ///
    /// # Errors
    /// [`Missing`], or no such device.
    pub fn accept_srv6(&self, device: &str) -> Result<()> {
        for name in ["all", device] {
            let key = format!("net/ipv6/conf/{name}/seg6_enabled");
            self.set_sysctl(&key, "1").map_err(|error| error.context(Missing { what: "seg6" }))?;
        }
        Ok(())
    }

    fn add_device(&self, what: &'static str, words: &[&str]) -> Result<()> {
        let added = self.ip(&[&["link", "add"], words].concat());
        added.map(drop).map_err(|error| or_missing(error, what))
    }

    /// Makes the interfaces ports of `name` and sets them up.
    fn enslave(&self, name: &str, ports: &[&str]) -> Result<()> {
        for port in ports {
            // A bond takes only interfaces that are down.
            self.ip(&["link", "set", "dev", port, "down"])?;
            self.ip(&["addr", "flush", "dev", port])?;
            self.ip(&["link", "set", "dev", port, "master", name])
                .with_context(|| format!("making {port} a port of {name}"))?;
            self.ip(&["link", "set", "dev", port, "up"])?;
        }
        Ok(())
    }
}

/// The error as it is, or as [`Missing`] if the kernel does not know what was asked for.
fn or_missing(error: anyhow::Error, what: &'static str) -> anyhow::Error {
    // The second of kernels without extended acknowledgements; a refusal by a device comes with a reason instead.
    let unknown = [
        "Unknown device type",
        "RTNETLINK answers: Operation not supported",
        "CONFIG_LWTUNNEL is not enabled",
    ];
    let said = format!("{error:#}");
    if unknown.iter().any(|words| said.contains(words)) {
        return error.context(Missing { what });
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_kind_is_missing() {
        let told = |said: &'static str| or_missing(anyhow::anyhow!(said), "bond");
        for said in ["Error: Unknown device type.", "RTNETLINK answers: Operation not supported"] {
            assert_eq!(told(said).downcast_ref(), Some(&Missing { what: "bond" }), "{said}");
        }
        for said in ["Error: VLANs not supported on device.", "RTNETLINK answers: File exists"] {
            assert!(told(said).downcast_ref::<Missing>().is_none(), "{said}");
        }
    }
}
