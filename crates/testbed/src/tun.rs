//! Links between two tun devices: packets without a link-layer header, as VPNs and tunnels have them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::Process;
use crate::wait::{WAIT, wait_until};

/// A link of tun devices; it is cut when this is dropped.
#[derive(Debug)]
#[must_use = "dropping it cuts the link"]
pub struct TunLink {
    /// Name of the device on both hosts.
    pub device: String,
    /// IPv6 addresses of the first and the second host.
    pub ipv6: [Ipv6Addr; 2],
    /// IPv4 addresses of the first and the second host.
    pub ipv4: [Ipv4Addr; 2],
    _socat: Process,
}

impl TunLink {
    /// Link `n` of the bed: one socat on each host, joined by a pair of datagram sockets, which keeps packets apart.
    pub(crate) fn start(a: &Host, b: &Host, device: &str, n: u8) -> Result<Self> {
        let tun = format!("TUN,tun-name={device},tun-type=tun,iff-no-pi,iff-up");
        let far = format!("nsenter --net={} socat -b65535 STDIO {tun}", b.namespace_path().display());
        let mut near = a.command("socat");
        near.args(["-b65535", &tun, &format!("EXEC:\"{far}\",socktype=2")]);
        let mut socat = a.spawn(near)?;
        let ipv6 = [1, 2].map(|end| Ipv6Addr::new(0xfd00, 0xf1, n.into(), 0, 0, 0, 0, end));
        let ipv4 = [1, 2].map(|end| Ipv4Addr::new(10, 241, n, end));
        for ((host, v6), v4) in [a, b].into_iter().zip(ipv6).zip(ipv4) {
            wait_for_device(&mut socat, host, device)?;
            host.bring_up(device, &[&format!("{v6}/64"), &format!("{v4}/24")])?;
        }
        Ok(Self { device: device.to_owned(), ipv6, ipv4, _socat: socat })
    }
}

fn wait_for_device(socat: &mut Process, host: &Host, device: &str) -> Result<()> {
    let result = wait_until(&format!("{device} of host {}", host.name()), WAIT, || {
        anyhow::ensure!(socat.is_running(), "socat ended");
        Ok(host.interface(device).is_ok().then_some(()))
    });
    result.with_context(|| {
        format!("making a link of tun devices: needs a kernel with tun; socat: {}", socat.stderr())
    })?;
    host.wait_for_carrier(device)
}
