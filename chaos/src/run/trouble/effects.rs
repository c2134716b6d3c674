//! What troubles do, counted where it happens: at processes, in the proxy, in the shim, by the clients. A trouble that was there and did
//! nothing would leave every promise unbroken, so a run in which it did none of its work proves nothing.

use super::Trouble;

pub(super) const UNSYNCED: &str = "bytes of data that no sync had made safe";
pub(super) const KILLED: &str = "processes killed";
pub(super) const STOOD_STILL: &str = "processes that stood still";
pub(super) const RESTARTED: &str = "processes restarted";
pub(super) const UPGRADED: &str = "nodes that came to run this binary";
pub(super) const CUT: &str = "connections or containers cut off";
pub(super) const FRAMES_LATE: &str = "frames late";
pub(super) const FRAMES_LOST: &str = "frames lost";
pub(super) const FRAMES_TWICE: &str = "frames twice";
pub(super) const RESET: &str = "connections reset";
pub(super) const SYNCS_LATE: &str = "syncs late";
pub(super) const SYNCS_FAILED: &str = "syncs failed";
pub(super) const WRONG_TIMES: &str = "times told by a wrong calendar";
/// By the nodes' own count.
pub(in crate::run) const HEALED: &str = "spoiled copies healed";
pub(super) const FLIPPED: &str = "bits flipped";
pub(super) const TORN: &str = "bytes of logs lost";
pub(super) const REPLACED: &str = "lost disks replaced";
pub(super) const JOINED: &str = "nodes that joined";
pub(super) const LEFT: &str = "nodes that left";
pub(super) const CROWD: &str = "operations of the further clients";
pub(super) const TURNED_AWAY: &str = "requests turned away by 429";
pub(super) const HUNG_UP: &str = "slow connections hung up on";
pub(super) const REFUSED: &str = "writes refused by 507";
pub(super) const FILLED_UP: &str = "times that a disk had not a byte left";
pub(super) const DELETED: &str = "deletions through a node whose disk had not a byte left";
pub(super) const RECOVERED: &str = "recovered without a restart";

impl Trouble {
    /// What it does for certain in a run that is long enough. (A power cut may find everything synced; the mixture is drawn.)
    pub(super) fn effects(self) -> &'static [&'static str] {
        match self {
            Trouble::None | Trouble::Mixed => &[],
            Trouble::Crash | Trouble::CrashAll | Trouble::Retail | Trouble::PowerCut => &[KILLED],
            Trouble::Pause => &[STOOD_STILL],
            Trouble::Restart => &[RESTARTED],
            Trouble::Upgrade => &[RESTARTED, UPGRADED],
            Trouble::Partition | Trouble::OneWay | Trouble::Ring | Trouble::Bridge => &[CUT],
            Trouble::SlowLinks => &[FRAMES_LATE],
            Trouble::BadLinks => &[FRAMES_LOST, FRAMES_TWICE],
            Trouble::Resets => &[RESET],
            Trouble::SlowDisk => &[SYNCS_LATE],
            Trouble::SyncFails => &[SYNCS_FAILED],
            Trouble::Clocks => &[WRONG_TIMES],
            Trouble::BitFlips => &[FLIPPED, HEALED],
            Trouble::TornLog => &[TORN],
            Trouble::DiskFull => &[REFUSED, FILLED_UP, DELETED, RECOVERED],
            Trouble::HotKey | Trouble::LargeValues => &[CROWD],
            Trouble::Overload => &[CROWD, TURNED_AWAY],
            Trouble::SlowClients => &[HUNG_UP],
            Trouble::Wipe => &[REPLACED],
            // And those of what is drawn to be broken beside it.
            Trouble::Membership | Trouble::MembershipFaults => &[JOINED, LEFT],
        }
    }
}
