//! Ports for local nodes: node *i* listens on base + 10·i for HTTP and on base + 10·i + 1 for its peers.
//!
//! Free ones are looked for below the range that the kernel hands to outgoing connections (32768 and up by default).
//! Asking the kernel for port 0 would be shorter, but a port from that range can be taken by any outgoing connection
//! while its node is down, and then the node can't come back.

use std::net::{Ipv4Addr, TcpListener};

use rand::rngs::{StdRng, SysRng};
use rand::{RngExt, SeedableRng};

use crate::limits;

/// Where one node listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) http: u16,
    pub(super) peer: u16,
}

/// The ports of `nodes` nodes from a base that the user gave, or from a free one. Held by nobody: a stranger can still
/// take one before its node does, and then that node's own error says so.
pub(super) fn choose(base: Option<u16>, nodes: usize) -> anyhow::Result<Vec<Ports>> {
    if let Some(base) = base {
        let ports = from(base, nodes)?;
        return match taken(&ports) {
            None => Ok(ports),
            Some(port) => anyhow::bail!(
                "port {port} of 127.0.0.1 is in use; stop what listens there or choose another --base-port than {base}"
            ),
        };
    }
    let mut rng = StdRng::try_from_rng(&mut SysRng)?;
    for _ in 0..limits::PORT_TRIES_MAX {
        let base = rng.random_range(1_100..3_100) * 10;
        let ports = from(base, nodes)?;
        if taken(&ports).is_none() {
            return Ok(ports);
        }
    }
    anyhow::bail!(
        "no {nodes} pairs of free ports between 11000 and 32767 in {} tries",
        limits::PORT_TRIES_MAX
    )
}

fn from(base: u16, nodes: usize) -> anyhow::Result<Vec<Ports>> {
    anyhow::ensure!(base > 0, "--base-port has to be from 1 to 65534, found 0");
    (0..nodes)
        .map(|i| {
            let http = usize::from(base) + 10 * i;
            match (u16::try_from(http), u16::try_from(http + 1)) {
                (Ok(http), Ok(peer)) => Ok(Ports { http, peer }),
                _ => anyhow::bail!(
                    "--base-port {base} leaves no room for {nodes} nodes: node {} would need {http}",
                    i + 1
                ),
            }
        })
        .collect()
}

/// The first port that somebody listens on.
fn taken(ports: &[Ports]) -> Option<u16> {
    ports
        .iter()
        .flat_map(|ports| [ports.http, ports.peer])
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_listens_ten_ports_after_the_one_before_it() {
        let all = from(8098, 3).unwrap();
        let expected = [(8098, 8099), (8108, 8109), (8118, 8119)];
        assert_eq!(all, expected.map(|(http, peer)| Ports { http, peer }));
    }

    #[test]
    fn ports_past_the_end_are_refused_by_name() {
        let error = from(65530, 3).unwrap_err().to_string();
        assert!(error.contains("--base-port 65530"), "{error}");
        assert!(from(0, 1).is_err());
    }

    #[test]
    fn a_taken_port_is_named() {
        let ports = choose(None, 1).unwrap();
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0].peer)).unwrap();
        let error = choose(Some(ports[0].http), 1).unwrap_err().to_string();
        assert!(error.contains(&format!("port {}", ports[0].peer)), "{error}");
    }
}
