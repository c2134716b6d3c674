//! What goes wrong, over and over, until the load ends: each trouble is begun, lasts, is ended, and is followed by a rest.
//!
//! None goes beyond what the promises allow for: no disk is lost while another copy of what it held is still under way, and of
//! several troubles only one is there at a time. Whom nobody can expect to answer meanwhile stands in the timeline.

mod disks;
pub(super) mod effects;
mod links;
mod load;
mod members;
mod processes;

use super::goodput::Goodput;
use super::site::Site;
use super::timeline::{Open, Timeline};
use super::tries::Noted;
use super::{RunArgs, equal};
use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use crate::target::process::name;
use crate::workload::Ground;

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    Crash,
    CrashAll,
    Pause,
    Restart,
    Partition,
    OneWay,
    Ring,
    Bridge,
    SlowLinks,
    BadLinks,
    Resets,
    PowerCut,
    SlowDisk,
    SyncFails,
    Clocks,
    BitFlips,
    TornLog,
    DiskFull,
    Upgrade,
    Retail,
    HotKey,
    LargeValues,
    Overload,
    SlowClients,
    Wipe,
    Membership,
    MembershipFaults,
    Mixed,
}

/// Those that may follow one another in any order.
const MIXED: [Trouble; 17] = [
    Trouble::Membership,
    Trouble::MembershipFaults,
    Trouble::PowerCut,
    Trouble::SlowDisk,
    Trouble::SyncFails,
    Trouble::Clocks,
    Trouble::Crash,
    Trouble::CrashAll,
    Trouble::Pause,
    Trouble::Restart,
    Trouble::Partition,
    Trouble::OneWay,
    Trouble::Ring,
    Trouble::Bridge,
    Trouble::SlowLinks,
    Trouble::BadLinks,
    Trouble::Resets,
];

/// Those by which a disk loses what others must have by then, and one of how many troubles is of that kind.
const LOSSES: [Trouble; 3] = [Trouble::TornLog, Trouble::BitFlips, Trouble::Wipe];
const LOSS_OF: u32 = 4;

/// Those that may be there while members come and go. None takes a disk away: a power cut takes what was not synced, and no promise is
/// given for that.
pub(super) const BESIDE: [Trouble; 19] = [
    Trouble::Crash,
    Trouble::CrashAll,
    Trouble::Pause,
    Trouble::Restart,
    Trouble::Partition,
    Trouble::OneWay,
    Trouble::Bridge,
    Trouble::SlowLinks,
    Trouble::BadLinks,
    Trouble::Resets,
    Trouble::SlowDisk,
    Trouble::Clocks,
    Trouble::Ring,
    Trouble::PowerCut,
    Trouble::SyncFails,
    Trouble::HotKey,
    Trouble::LargeValues,
    Trouble::Overload,
    Trouble::SlowClients,
];

impl Trouble {
    pub(super) fn bears_containers(self) -> bool {
        use Trouble::{
            Crash, CrashAll, HotKey, LargeValues, None, Overload, Partition, Pause, Restart, SlowClients,
        };
        matches!(
            self,
            None | Crash
                | CrashAll
                | Pause
                | Restart
                | Partition
                | HotKey
                | LargeValues
                | Overload
                | SlowClients
        )
    }

    /// What it needs of this machine or of the caller that is not there.
    pub(super) fn lacks(self, options: &RunArgs) -> Option<&'static str> {
        match self {
            Trouble::DiskFull if options.seconds > DISK_FULL_SECONDS_MAX => {
                Some("keeps its disks in memory, for five minutes at most: --seconds 300")
            }
            Trouble::TornLog | Trouble::BitFlips if options.seconds < LOSS_SECONDS_MIN => {
                Some("waits until all copies are equal before it breaks anything: --seconds 20 at least")
            }
            Trouble::DiskFull if !can_mount() => Some("needs to mount a small file system, as root may"),
            other if other.needs_shim() && !has_compiler() => {
                Some("needs a C compiler: its shim is built by `cc`")
            }
            Trouble::Upgrade if options.previous.is_none() => {
                Some("needs a binary to come from: --previous BINARY")
            }
            _ => None,
        }
    }

    /// Whether something has to stand between nodes and their disks and calendars.
    pub(super) fn needs_shim(self) -> bool {
        use Trouble::{Clocks, MembershipFaults, Mixed, PowerCut, SlowDisk, SyncFails};
        matches!(self, PowerCut | SlowDisk | SyncFails | Clocks | MembershipFaults | Mixed)
    }

    /// Whether nodes may not hear each other meanwhile: then siblings may be more than nodes would let in.
    pub(super) fn cuts(self) -> bool {
        use Trouble::{Clocks, HotKey, LargeValues, None, SlowClients, SlowDisk};
        !matches!(self, None | HotKey | LargeValues | SlowClients | SlowDisk | Clocks)
    }
}

/// Where troubles happen.
pub(super) struct Stage<'a> {
    pub(super) site: &'a mut Site,
    pub(super) chance: StdRng,
    pub(super) timeline: Timeline,
    /// When the last trouble has to end.
    pub(super) until: Duration,
    /// Where the clients are; nodes that come in are added to it.
    pub(super) ground: Ground<Noted>,
    /// How often there was more load than usual.
    pub(super) bursts: u32,
    /// How many operations a second were done before the first trouble that excuses all nodes.
    pub(super) usual: Option<f64>,
    /// How many were done during each of those.
    pub(super) goodput: Vec<Goodput>,
    /// Whether the bits of some disk have flipped.
    pub(super) spoiled: bool,
    /// Nodes that are no members any more, each until another one comes in its place.
    pub(super) removed: BTreeMap<usize, Open>,
    /// What is still to be broken beside a change of members.
    pub(super) to_come: Vec<Trouble>,
    /// What was broken beside one.
    pub(super) came: BTreeSet<&'static str>,
    /// The change of members that is under way, if it is to be begun once something else is broken.
    pub(super) change: Option<members::Change>,
    /// What was done to the nodes, counted: what did nothing proves nothing.
    pub(super) effects: BTreeMap<&'static str, u64>,
    /// What a trouble has seen that must not be.
    pub(super) accidents: Vec<String>,
}

/// For so long the disks of `disk-full` hold what is written, 800 MiB each.
const DISK_FULL_SECONDS_MAX: u64 = 300;
/// A rest of 3 s at most, and until every two owners have been seen equal under load: in a shorter run no disk loses anything.
const LOSS_SECONDS_MIN: u64 = 20;
/// For so long a loss waits for all copies to be whole; there are other troubles.
const WHOLE_MAX: Duration = Duration::from_secs(30);
/// In two seconds each client has asked at least once and given up.
const GOODPUT_MIN: Duration = Duration::from_secs(2);
/// In so long a trouble beside a change of members must have done its work.
const EFFECT_WITHIN: Duration = Duration::from_secs(10);
const REST: Range<Duration> = Duration::from_millis(1000)..Duration::from_millis(3000);

/// Lets things go wrong until the load ends, and leaves the cluster whole.
pub(super) async fn rage(trouble: Trouble, stage: &mut Stage<'_>) -> Result<()> {
    stage.effects.extend(trouble.effects().iter().map(|what| (*what, 0)));
    stage.rest().await;
    while stage.left() > Duration::ZERO {
        let next = match trouble {
            Trouble::Mixed => stage.any().await?,
            Trouble::TornLog | Trouble::BitFlips if !stage.is_whole().await? => continue,
            other => other,
        };
        once(next, stage).await?;
        stage.rest().await;
    }
    Ok(())
}

/// Each draws from a chance of its own: how often it does may hang on time, and what follows is as the seed says all the same.
async fn once(trouble: Trouble, stage: &mut Stage<'_>) -> Result<()> {
    let own = StdRng::seed_from_u64(stage.chance.random());
    let of_all = std::mem::replace(&mut stage.chance, own);
    let done = play(trouble, stage).await;
    stage.chance = of_all;
    done
}

async fn play(trouble: Trouble, stage: &mut Stage<'_>) -> Result<()> {
    match trouble {
        Trouble::None | Trouble::Mixed => {
            stage.hold(stage.left()).await;
            Ok(())
        }
        Trouble::Crash | Trouble::Retail => processes::crash(stage).await,
        Trouble::CrashAll => processes::crash_all(stage).await,
        Trouble::Pause => processes::pause(stage).await,
        Trouble::Restart => processes::restart(stage).await,
        Trouble::Partition => links::partition(stage).await,
        Trouble::OneWay => links::one_way(stage).await,
        Trouble::Ring => links::ring(stage).await,
        Trouble::Bridge => links::bridge(stage).await,
        Trouble::SlowLinks => links::slow(stage).await,
        Trouble::BadLinks => links::bad(stage).await,
        Trouble::Resets => links::resets(stage).await,
        Trouble::PowerCut => disks::power_cut(stage).await,
        Trouble::SlowDisk => disks::slow_disk(stage).await,
        Trouble::SyncFails => disks::sync_fails(stage).await,
        Trouble::Clocks => disks::clocks(stage).await,
        Trouble::BitFlips => disks::bit_flips(stage).await,
        Trouble::TornLog => disks::torn_log(stage).await,
        Trouble::DiskFull => disks::disk_full(stage).await,
        Trouble::Upgrade => processes::upgrade(stage).await,
        Trouble::HotKey => load::hot_key(stage).await,
        Trouble::LargeValues => load::large_values(stage).await,
        Trouble::Overload => load::overload(stage).await,
        Trouble::SlowClients => load::slow_clients(stage).await,
        Trouble::Wipe => members::wipe(stage).await,
        Trouble::Membership => members::come_and_go(stage, None).await,
        Trouble::MembershipFaults => {
            let beside = stage.beside();
            // It is one of those that end by themselves, and brings no further members.
            Box::pin(members::come_and_go(stage, Some(beside))).await
        }
    }
}

impl Stage<'_> {
    /// What is broken beside the next change of members: each of [`BESIDE`] once, in an order that hangs on the seed, before any comes again.
    fn beside(&mut self) -> Trouble {
        if self.to_come.is_empty() {
            self.to_come = BESIDE.to_vec();
            self.to_come.shuffle(&mut self.chance);
        }
        let next = self.to_come.pop().expect("they were filled in");
        // These nodes take as much at once as any, so nobody need be turned away; and slow clients are let be for long.
        let shows = |what: &&&str| **what != effects::TURNED_AWAY && **what != effects::HUNG_UP;
        if self.left() >= EFFECT_WITHIN {
            for what in next.effects().iter().filter(shows) {
                self.effects.entry(what).or_default();
            }
        }
        next
    }

    /// Nodes that are members, by chance in some order.
    fn nodes(&mut self) -> Vec<usize> {
        let mut nodes: Vec<usize> = (0..self.site.len()).filter(|i| !self.is_gone(*i)).collect();
        nodes.shuffle(&mut self.chance);
        nodes
    }

    /// Whether it is no member any more, or about to be none.
    fn is_gone(&self, node: usize) -> bool {
        let goes = |change: &members::Change| change.go.contains(&node);
        self.removed.contains_key(&node) || self.change.as_ref().is_some_and(goes)
    }

    /// One node, or two: of five and more a minority, so that W of the others can always be found.
    fn minority(&mut self) -> Vec<usize> {
        let mut nodes = self.nodes();
        nodes.truncate(self.chance.random_range(1..=2));
        nodes
    }

    /// Any trouble. A disk loses something only when all copies are whole, and none after bits have flipped on one: they stay there, unseen.
    async fn any(&mut self) -> Result<Trouble> {
        let is_loss = self.chance.random_ratio(1, LOSS_OF);
        let loss = *LOSSES.choose(&mut self.chance).expect("there are some");
        let next = *MIXED.choose(&mut self.chance).expect("there are some");
        if is_loss && !self.spoiled && self.is_whole().await? {
            return Ok(loss);
        }
        // A cluster of processes has an end, and then there is other trouble.
        let is_full =
            matches!(next, Trouble::Membership | Trouble::MembershipFaults) && !members::has_room(self);
        Ok(if is_full { Trouble::Restart } else { next })
    }

    /// Starts nodes that have ended, and waits until they are ready; but newcomers come in by a change that is awaited elsewhere.
    async fn start_again(&mut self, nodes: &[usize]) -> Result<()> {
        let is_new = |node: &&usize| self.change.as_ref().is_some_and(|change| change.new.contains(node));
        let (new, others): (Vec<usize>, Vec<usize>) = nodes.iter().partition(is_new);
        for node in new {
            self.site.local()?.start_again(node)?;
        }
        self.site.start_again(&others).await
    }

    /// Whether all copies are seen to be equal within a while: then a disk may lose some.
    async fn is_whole(&mut self) -> Result<bool> {
        let members = (0..self.site.len()).filter(|i| !self.is_gone(*i));
        let members = members.map(|i| self.site.url(i)).collect::<Vec<_>>();
        equal::wait_for_copies(&members, WHOLE_MAX.min(self.left())).await
    }

    /// How long a trouble may last, in milliseconds: the longer the more there is left of a long run.
    fn most(&self, short: u64, long: u64) -> u64 {
        let quarter = u64::try_from((self.left() / 4).as_millis()).unwrap_or(u64::MAX);
        long.min(short.max(quarter))
    }

    fn left(&self) -> Duration {
        self.until.saturating_sub(self.timeline.now())
    }

    fn draw(&mut self, range: Range<u64>) -> Duration {
        Duration::from_millis(self.chance.random_range(range))
    }

    async fn hold(&self, how_long: Duration) {
        tokio::time::sleep(how_long.min(self.left())).await;
    }

    /// It lasts for so many milliseconds, and not beyond the load. What was to be begun meanwhile is begun.
    async fn last(&mut self, range: Range<u64>) -> Result<()> {
        let how_long = self.draw(range);
        members::begin(self).await?;
        self.hold(how_long).await;
        Ok(())
    }

    async fn rest(&mut self) {
        let how_long = self.chance.random_range(REST);
        self.hold(how_long).await;
    }

    fn begin(&self, what: impl Into<String>, unable: &[usize]) -> Open {
        self.timeline.begin(what, unable.iter().copied())
    }

    /// So much was done.
    fn did(&mut self, what: &'static str, how_much: u64) {
        if how_much > 0 {
            *self.effects.entry(what).or_default() += how_much;
        }
    }

    /// Kills processes, and counts them.
    async fn kill(&mut self, nodes: &[usize]) -> Result<()> {
        let killed = self.site.kill(nodes).await?;
        self.did(effects::KILLED, killed);
        Ok(())
    }

    /// How many operations were done in a second since then.
    fn rate(&self, since: Duration) -> f64 {
        let done = self.ground.history.done_since(since);
        done as f64 / self.timeline.now().saturating_sub(since).as_secs_f64().max(0.001)
    }

    /// The same, and so many besides.
    fn rate_with(&self, since: Duration, besides: u64) -> f64 {
        let lasted = self.timeline.now().saturating_sub(since).as_secs_f64().max(0.001);
        self.rate(since) + besides as f64 / lasted
    }

    /// How many were done in a second before the first trouble that excuses all nodes. To be asked before each.
    fn usual(&mut self) -> f64 {
        let now = self.rate(Duration::ZERO);
        *self.usual.get_or_insert(now)
    }

    /// A trouble that excused all nodes has lasted since then, and one operation of so many is owed all the same. In a shorter time than
    /// [`GOODPUT_MIN`] it is chance how many are done, and while members come and go, those have their part in it. `besides` were done that
    /// are in no history.
    fn owes(&mut self, trouble: &'static str, before: f64, since: Duration, besides: u64, one_of: u32) {
        let lasted = self.timeline.now().saturating_sub(since);
        if self.change.is_none() && lasted >= GOODPUT_MIN {
            let meanwhile = self.rate_with(since, besides);
            self.goodput.push(Goodput { trouble, before, meanwhile, one_of });
        }
    }

    fn end(&self, open: Open) {
        self.timeline.end(open);
    }
}

/// Tries it: there are roots who may not.
fn can_mount() -> bool {
    let Ok(dir) = tempfile::tempdir() else { return false };
    let (kind, flags) = (Some("tmpfs"), nix::mount::MsFlags::empty());
    let mounted = nix::mount::mount(kind, dir.path(), kind, flags, Some("size=4096")).is_ok();
    mounted && nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).is_ok()
}

fn has_compiler() -> bool {
    std::process::Command::new("cc").arg("--version").output().is_ok_and(|ran| ran.status.success())
}

/// `n2 and n4`.
fn names(nodes: &[usize]) -> String {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    let names: Vec<String> = nodes.iter().map(|i| name(*i)).collect();
    names.join(if names.len() == 2 { " and " } else { ", " })
}
