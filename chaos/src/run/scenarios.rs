//! The list of scenarios: what goes wrong in each, and what of that containers can bear.

use super::Target;
use super::trouble::Trouble;

/// One scenario.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// For the list, in a line.
    pub(super) about: &'static str,
    pub(super) trouble: Trouble,
}

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm",
        about: "nothing at all: what all the others are to be held against",
        trouble: Trouble::None,
    },
    Scenario {
        name: "crash",
        about: "one node or two at a time are killed by SIGKILL and start again",
        trouble: Trouble::Crash,
    },
    Scenario {
        name: "crash-all",
        about: "all nodes are killed at once, as by a power cut, and start again",
        trouble: Trouble::CrashAll,
    },
    Scenario {
        name: "pause",
        about: "one node or two stand still for up to ten seconds with their sockets open, and go on",
        trouble: Trouble::Pause,
    },
    Scenario {
        name: "restart",
        about: "nodes are restarted in order, one after the other, as for an upgrade",
        trouble: Trouble::Restart,
    },
    Scenario {
        name: "partition",
        about: "the cluster falls into two parts that do not hear each other",
        trouble: Trouble::Partition,
    },
    Scenario {
        name: "one-way",
        about: "what one node says is not heard, or it hears nothing",
        trouble: Trouble::OneWay,
    },
    Scenario {
        name: "ring",
        about: "each node hears its two neighbours and nobody else",
        trouble: Trouble::Ring,
    },
    Scenario {
        name: "bridge",
        about: "two parts that only one node hears both of",
        trouble: Trouble::Bridge,
    },
    Scenario {
        name: "slow-links",
        about: "all links are late, or those of one node are narrow (1 Mbit/s)",
        trouble: Trouble::SlowLinks,
    },
    Scenario {
        name: "bad-links",
        about: "one frame of ten is lost, one arrives twice, and they overtake each other",
        trouble: Trouble::BadLinks,
    },
    Scenario {
        name: "resets",
        about: "connections between nodes are reset again and again",
        trouble: Trouble::Resets,
    },
    Scenario {
        name: "power-cut",
        about: "all nodes or a minority lose power, and what was not synced is gone from their disks",
        trouble: Trouble::PowerCut,
    },
    Scenario {
        name: "slow-disk",
        about: "each sync of one node or two takes 200 ms more",
        trouble: Trouble::SlowDisk,
    },
    Scenario {
        name: "sync-fails",
        about: "a sync fails, or all do: the node ends rather than go on, and comes back",
        trouble: Trouble::SyncFails,
    },
    Scenario {
        name: "clocks",
        about: "the calendars of one node or two jump by 11 ms to 600 s, ahead and back",
        trouble: Trouble::Clocks,
    },
    Scenario {
        name: "bit-flips",
        about: "bits flip in the tables of a stopped node or two: nobody is told what they became",
        trouble: Trouble::BitFlips,
    },
    Scenario {
        name: "torn-log",
        about: "a node is killed and loses the end of its log, acknowledged writes among them",
        trouble: Trouble::TornLog,
    },
    Scenario {
        name: "disk-full",
        about: "the disk of a node fills up: it refuses writes, reads on, and recovers without a restart",
        trouble: Trouble::DiskFull,
    },
    Scenario {
        name: "upgrade",
        about: "from an earlier binary to this one, node by node (--previous BINARY)",
        trouble: Trouble::Upgrade,
    },
    Scenario {
        name: "retail",
        about: "shop events into carts while nodes crash, then every cart compared (the extract, or --events FILE)",
        trouble: Trouble::Retail,
    },
    Scenario {
        name: "hot-key",
        about: "forty clients more read, write and delete one key",
        trouble: Trouble::HotKey,
    },
    Scenario {
        name: "large-values",
        about: "values of 1 MiB among the small ones",
        trouble: Trouble::LargeValues,
    },
    Scenario {
        name: "overload",
        about: "600 clients more that never rest: who is turned away is told so, and memory stays bounded",
        trouble: Trouble::Overload,
    },
    Scenario {
        name: "slow-clients",
        about: "400 connections that begin a request and dribble on for ever",
        trouble: Trouble::SlowClients,
    },
    Scenario {
        name: "wipe",
        about: "a node and its disk are lost, and an empty one takes its place",
        trouble: Trouble::Wipe,
    },
    Scenario {
        name: "membership",
        about: "nodes join and leave under load, one or two at once",
        trouble: Trouble::Membership,
    },
    Scenario {
        name: "membership-faults",
        about: "nodes join and leave while others crash, lose power, stand still, are cut off, slow, or wrong about the time",
        trouble: Trouble::MembershipFaults,
    },
    Scenario {
        name: "mixed",
        about: "what hits processes, links, disks, calendars and members, one after the other by chance",
        trouble: Trouble::Mixed,
    },
];

impl Scenario {
    /// Whether it can be done there.
    pub(super) fn bears(&self, target: Target) -> bool {
        target == Target::Local || self.trouble.bears_containers()
    }
}
