//! One member's row: what it says of itself, where it stands, what it should own, and by which tables it acts.
//!
//! | part | written by | two writers at once |
//! | --- | --- | --- |
//! | description | the member alone, each time with a higher incarnation | the greater content wins |
//! | status | whoever acts on it, with a higher version | the later status wins, Removed always |
//! | seat | whoever commits a change of it, with a higher version | the greater content wins |
//! | acting | the member alone, each time with a higher version | the greater content wins |
//!
//! What a member says of its zone and weight is a wish, heard once, when it comes in. After that they are the operator's:
//! a restart with another configuration must not move data by itself.

use super::status::{self, Status};
use super::view::{TEXT_BYTES_MAX, VERSION_MAX, ViewError};
use crate::causal::epochs::LEASE_MAX;
use crate::ids::{NodeId, Zone};
use crate::place::WEIGHT_MAX;
use serde::{Deserialize, Serialize};

/// What a member says about itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Where clients reach it.
    pub http: String,
    /// Where other nodes reach it.
    pub peer: String,
    /// Its failure domain.
    pub zone: Zone,
    /// How much of the ring it takes, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// How often it has been started.
    pub starts: u64,
    /// Drawn at each boot of the machine's node process: tells two starts apart that claim the same count.
    pub boot_id: u64,
}

/// What a member should own, as it was committed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Seat {
    /// Which change this is.
    pub version: u64,
    /// How much of the ring, 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// In which failure domain.
    pub zone: Zone,
}

/// By which tables a member acts, and whether its part of a change is done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Acting {
    /// Which word of the member's this is.
    pub version: u64,
    /// The [`Regime`](super::Regime) by which it acts, and it will never again act by an older one.
    pub regime: u64,
    /// It holds everything that this regime has it take over, and, if it leaves, nothing that only it could hand on.
    pub done: bool,
    /// The last step to which it has agreed; see `settle`.
    pub agreed: Option<Agreed>,
}

/// A step to which a member has agreed: it will not agree to another from the same layout while this one may be taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Agreed {
    /// The stamp of the settled layout from which it leads.
    pub stamp: u64,
    /// The [`Regime`](super::Regime) of which it is the step.
    pub regime: u64,
}

/// One node in the eyes of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Which of its descriptions this is. Only the node itself raises it.
    pub incarnation: u64,
    /// What it says about itself.
    pub description: Description,
    /// Where it stands between joining and having gone.
    pub status: Status,
    /// Which change of the status this is.
    pub status_version: u64,
    /// What it should own.
    pub seat: Seat,
    /// By which tables it acts.
    pub acting: Acting,
}

impl Member {
    /// A newcomer, which owns nothing yet.
    pub fn new(description: Description) -> Member {
        let seat = Seat { version: 1, weight: description.weight, zone: description.zone.clone() };
        Member {
            incarnation: 1,
            description,
            status: Status::Joining,
            status_version: 1,
            seat,
            acting: Acting::default(),
        }
    }

    pub(super) fn merge(&mut self, other: &Member) -> bool {
        let mut changed = false;
        if (other.incarnation, &other.description) > (self.incarnation, &self.description) {
            self.incarnation = other.incarnation;
            self.description = other.description.clone();
            changed = true;
        }
        if other.seat > self.seat {
            self.seat = other.seat.clone();
            changed = true;
        }
        if other.acting > self.acting {
            self.acting = other.acting;
            changed = true;
        }
        let ours = (self.status_version, self.status);
        let joined = status::join(ours, (other.status_version, other.status));
        (self.status_version, self.status) = joined;
        changed || joined != ours
    }

    pub(super) fn validate(&self, id: NodeId) -> Result<(), ViewError> {
        let Description { http, peer, zone, weight, .. } = &self.description;
        let fits = |zone: &Zone| zone.0.len() <= TEXT_BYTES_MAX && !zone.0.chars().any(char::is_control);
        let checks = [
            ("http address", http.len() <= TEXT_BYTES_MAX),
            ("peer address", peer.len() <= TEXT_BYTES_MAX),
            ("zone", fits(zone) && fits(&self.seat.zone)),
            ("weight", [*weight, self.seat.weight].iter().all(|w| (1..=WEIGHT_MAX).contains(w))),
            ("starts", self.description.starts <= LEASE_MAX),
            ("incarnation", self.incarnation <= VERSION_MAX),
            ("status version", self.status_version <= VERSION_MAX),
            ("seat version", self.seat.version <= VERSION_MAX),
            ("acting version", self.acting.version <= VERSION_MAX),
        ];
        let bad = checks.into_iter().find(|(_, holds)| !holds);
        bad.map_or(Ok(()), |(what, _)| Err(ViewError::Description { id, what }))
    }
}
