//! Whether this node's directory is the one that the others remember.
//!
//! A description of this node that this process did not give was given by another start of it. One with a lower number is
//! old, unless no start since has come as far as asking: a start that was killed before that has only counted; or unless it was
//! no start of this directory at all (`lives.rs`), but one of a directory that is lost, and it acted by the cluster's tables.
//! One with the same number or a higher one is a start that this directory knows nothing of: it was put back from a copy and
//! has gone back in time, or a copy of it runs somewhere at this moment. In the first case going on under a lease beyond the
//! remembered one is enough for new writes. A life that goes on after that, and shows it by a number that has grown, is a twin's,
//! and the two of them take no more writes until a person has stopped one.
//!
//! A node that runs for long would be remembered by its start alone, and an image of its disk from the day after would look
//! like the disk itself. So it takes another lease now and then, durably, and says so.
//!
//! Not everybody answers at every start. Who is silent may be the only one that remembers; then this start continues none of the
//! versions of before (`Epochs::forsake`), so that whatever it writes is new. And should the silent one's memory be gone when
//! he comes back, because a later description took its place, then what he holds still tells: an own epoch under this start's
//! lease that this start has not issued.
//!
//! What such a directory holds is another matter: the others may have deleted it and forgotten the deletion. So a mark is
//! made durable with the lease, and by a start that found its log cut: while it stands the copies here answer for nothing
//! and are sent to nobody. It goes when all of them were compared with the other owners' (`duty/sift.rs`).

use super::lives::Lives;
use crate::limits::LIVES_MAX;
use ring::members::Description;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// What this node says of itself, and what it has been told.
#[derive(Debug)]
pub struct Past {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    said: Description,
    /// The first start that may be the next one after what the others remember: those before it have asked.
    since: u64,
    lives: Lives,
    /// Other lives of this name that were met after a jump, by their boot ids, and the numbers that they had come to.
    met_lives: BTreeMap<u64, u64>,
    standing: Standing,
    /// The mark as it stands on the disk.
    behind: Option<u64>,
    /// Whether anybody has said what he remembers.
    met: bool,
    /// Whether the disk knows that this start has asked.
    kept: bool,
    jumped: bool,
    answered_twin: bool,
    /// How often somebody under this node's name, or another member's, was found out or not let in.
    namesakes: u64,
}

/// Whether this node may hand out dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has been asked yet.
    Unasked,
    /// Everybody was asked, and nobody has answered. It takes writes, since it may be all that is left; but what it holds
    /// goes to nobody who has not said what he remembers.
    Alone,
    /// Nobody remembers anything else.
    Clear,
    /// Somebody remembers a start of this number: not before a lease beyond it is taken.
    Behind {
        /// The number.
        remembered: u64,
    },
    /// Two processes run under this identity.
    Twin,
}

impl Past {
    /// What this start says of itself, the directory's starts, the number of the last one that has asked the others, and the
    /// mark, if there is one.
    pub fn new(said: Description, lives: Lives, last_asked: u64, behind: Option<u64>) -> Past {
        // A newcomer's start has asked already, to be let in; another process that calls itself the same start is a twin yet.
        let is_new = last_asked >= said.starts;
        let since = (last_asked + 1).min(said.starts);
        Past {
            state: Mutex::new(State {
                said,
                since,
                lives,
                met_lives: BTreeMap::new(),
                standing: Standing::Unasked,
                behind,
                met: false,
                kept: is_new,
                jumped: false,
                answered_twin: false,
                namesakes: 0,
            }),
        }
    }

    /// Compares what a view holds of this node with what it said: its description, and whether who is described has `acted` by the
    /// cluster's tables, or this one has. Who has not acted has had nothing; who has, and is another directory, is lost with all that
    /// was in it, however often he had started. A description of this start can stand beside what another one did, since
    /// views are merged part by part.
    pub fn hear(&self, known: &Description, acted: bool, acted_here: bool) {
        let mut state = self.lock();
        let is_this = known.boot_id == state.said.boot_id;
        let is_foreign = match is_this {
            true => acted && !acted_here,
            false => acted && state.lives.are_foreign_to(known.boot_id, known.starts),
        };
        if is_foreign || (!is_this && known.starts >= state.since) {
            let goes_on = state.has_grown(known.boot_id, known.starts);
            state.find(known.starts, goes_on);
        }
    }

    /// Somebody has something that another life of this directory wrote under this lease.
    pub fn hear_of(&self, lease: u64) {
        let mut state = self.lock();
        if lease >= state.since {
            state.find(lease, false);
        }
    }

    /// Somebody asked to be let in under the name of a member.
    pub fn refused_namesake(&self) {
        self.lock().namesakes += 1;
    }

    /// How often that happened, or a twin of this node was found out.
    pub fn namesakes(&self) -> u64 {
        self.lock().namesakes
    }

    /// Somebody has answered; what he remembers was heard before.
    pub fn meet(&self) {
        let mut state = self.lock();
        state.met = true;
        if state.standing == Standing::Alone {
            state.standing = Standing::Clear;
        }
    }

    /// Everybody who can be reached has been asked, if there is anybody.
    pub fn asked(&self, is_only: bool) {
        let mut state = self.lock();
        if state.standing == Standing::Unasked {
            state.standing = if state.met || is_only { Standing::Clear } else { Standing::Alone };
        }
    }

    /// The lease beyond what is remembered has been taken, and the mark made; gives back what to say from now on. `for_twin`: because
    /// there is a twin. What was heard meanwhile, of a start that is beyond this lease too, is still to be answered for.
    pub fn jumped(&self, lease: u64, for_twin: bool) -> Description {
        let mut state = self.lock();
        state.behind = Some(lease);
        state.said.starts = lease;
        state.since = lease;
        state.lives.answered(lease);
        state.jumped = true;
        match state.standing {
            Standing::Twin => state.answered_twin |= for_twin,
            Standing::Behind { remembered } if remembered >= lease => {}
            _ => state.standing = Standing::Clear,
        }
        state.said.clone()
    }

    /// Another lease has been taken, and the disk knows that the others were asked under it; gives back what to say from now
    /// on. Others come to remember it, and an image of this disk from before knows nothing of it.
    pub fn raised(&self, lease: u64) -> Description {
        let mut state = self.lock();
        state.said.starts = state.said.starts.max(lease);
        state.kept = true;
        state.said.clone()
    }

    /// Whether the twin has been told; telling it again and again would only have the two shout each other down.
    pub fn has_answered_twin(&self) -> bool {
        self.lock().answered_twin
    }

    /// What this node says of itself.
    pub fn said(&self) -> Description {
        self.lock().said.clone()
    }

    /// The mark under which the copies here are to be compared; none while there is nothing to compare, or a twin.
    pub fn to_sift(&self) -> Option<u64> {
        let state = self.lock();
        state.behind.filter(|_| state.standing == Standing::Clear)
    }

    /// All of them were, and this mark is off the disk.
    pub fn sifted(&self, mark: u64) {
        let mut state = self.lock();
        if state.behind == Some(mark) {
            state.behind = None;
        }
    }

    /// Whether the copies here may be behind what the others know.
    pub fn is_behind(&self) -> bool {
        let state = self.lock();
        state.behind.is_some() || matches!(state.standing, Standing::Behind { .. } | Standing::Twin)
    }

    /// Whether the disk is still to be told that this start has asked: only when nothing is left to be answered for.
    pub fn is_asked_to_be_kept(&self) -> bool {
        let state = self.lock();
        state.standing == Standing::Clear && !state.kept
    }

    /// It has been.
    pub fn asked_is_kept(&self) {
        self.lock().kept = true;
    }

    /// Why this node neither takes writes nor answers for what it holds.
    pub fn objection(&self) -> Option<&'static str> {
        let state = self.lock();
        state.standing.objection().or_else(|| state.behind.map(|_| BEHIND))
    }

    /// Why nothing that it holds may be told or sent to anybody.
    pub fn silence(&self) -> Option<&'static str> {
        match self.standing() {
            Standing::Alone => Some("nobody has said yet what he remembers of this node"),
            _ => self.objection(),
        }
    }

    /// Whether it may say what it holds to somebody who compares himself. Not while it is about to learn whether it has to
    /// do so itself.
    pub fn may_be_sifted_with(&self) -> bool {
        matches!(self.standing(), Standing::Clear | Standing::Twin)
    }

    /// Whether this node may hand out dots.
    pub fn standing(&self) -> Standing {
        self.lock().standing
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Whether this life was met before, and not at its end: with a lower number, after this one had jumped. Whoever goes on
    /// answers a jump by one of his own. That two who were away remember different numbers of a life that is over proves nothing,
    /// and more lives than anybody can have had are a twin's as well.
    fn has_grown(&mut self, boot_id: u64, starts: u64) -> bool {
        if !self.jumped {
            return false;
        }
        let is_full = self.met_lives.len() >= LIVES_MAX && !self.met_lives.contains_key(&boot_id);
        let before = self.met_lives.get(&boot_id).copied();
        if !is_full {
            self.met_lives.insert(boot_id, before.unwrap_or_default().max(starts));
        }
        is_full || before.is_some_and(|before| before < starts)
    }

    /// Another life of this name has come as far as this lease. `goes_on`: it does so still.
    fn find(&mut self, lease: u64, goes_on: bool) {
        let standing = match self.standing {
            Standing::Twin => Standing::Twin,
            _ if self.jumped && goes_on => Standing::Twin,
            Standing::Behind { remembered } => Standing::Behind { remembered: remembered.max(lease) },
            _ => Standing::Behind { remembered: lease },
        };
        self.namesakes += u64::from(standing == Standing::Twin && self.standing != Standing::Twin);
        self.standing = standing;
    }
}

const BEHIND: &str = "this node's disk may be behind what the others know: until it has compared itself with them, it answers for nothing";

impl Standing {
    /// Why the node takes no writes, if it takes none.
    fn objection(self) -> Option<&'static str> {
        match self {
            Standing::Clear | Standing::Alone => None,
            Standing::Unasked => {
                Some("this node has just started and asks the others what they remember of it")
            }
            Standing::Behind { .. } => {
                Some("this node's data directory is older than what the others remember of it")
            }
            Standing::Twin => Some(
                "another process runs under this node's identity: stop one of the two, and start the other anew",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;
    use ring::ids::Zone;

    fn said(starts: u64, boot_id: u64) -> Description {
        Description {
            http: "h:1".into(),
            peer: "p:1".into(),
            zone: Zone::default(),
            weight: 1,
            starts,
            boot_id,
        }
    }

    /// Start `starts` of a directory whose earlier ones had ten times their numbers as boot ids.
    fn start(starts: u64, boot_id: u64, last_asked: u64, behind: Option<u64>) -> Past {
        let mut lives = Lives::default();
        for start in 1..starts {
            lives.begin(10 * start, start, start - 1, true, &mut Batch::default());
        }
        lives.begin(boot_id, starts, starts - 1, true, &mut Batch::default());
        Past::new(said(starts, boot_id), lives, last_asked, behind)
    }

    #[test]
    fn an_older_start_is_the_usual_case() {
        let past = start(7, 70, 6, None);
        past.hear(&said(6, 60), true, true);
        past.hear(&said(7, 70), true, true);
        assert_eq!(past.standing(), Standing::Unasked);
        past.asked(true);
        assert_eq!(past.standing(), Standing::Clear);
    }

    #[test]
    fn a_start_that_the_directory_has_forgotten_is_jumped_over_once() {
        let past = start(3, 30, 2, None);
        past.hear(&said(5, 50), true, true);
        past.hear(&said(4, 40), true, true);
        past.asked(true);
        assert_eq!(past.standing(), Standing::Behind { remembered: 5 });
        assert_eq!(past.jumped(1029, false).starts, 1029);
        past.hear(&said(5, 50), true, true);
        assert_eq!(past.standing(), Standing::Clear, "that is old now");
    }

    /// An image of the running node's disk, taken under lease 3 and put back when the others remember lease 4 of that start.
    #[test]
    fn an_image_of_a_node_that_went_on_running_is_behind() {
        let running = start(3, 30, 2, None);
        running.asked(true);
        let remembered = running.raised(4);
        assert_eq!((remembered.starts, running.raised(3).starts), (4, 4));
        running.hear(&remembered, true, true);
        assert_eq!(running.standing(), Standing::Clear);
        let put_back = start(4, 40, 3, None);
        put_back.hear(&remembered, true, true);
        assert_eq!(put_back.standing(), Standing::Behind { remembered: 4 });
        let started_again = start(5, 50, 4, None);
        started_again.hear(&remembered, true, true);
        let found = Standing::Behind { remembered: 4 };
        assert_eq!(
            started_again.standing(),
            found,
            "its own start 3 never came to 4, for there was a start 4"
        );
    }

    /// Put back, started as number 3, killed before it could ask, started again as number 4: the others remember a 3 that
    /// this directory has forgotten, and its own 3 has told nobody anything.
    #[test]
    fn starts_that_never_asked_do_not_hide_what_is_remembered() {
        let past = start(4, 40, 2, None);
        past.hear(&said(2, 20), true, true);
        assert_eq!(past.standing(), Standing::Unasked);
        past.hear(&said(3, 31), true, true);
        assert_eq!(past.standing(), Standing::Behind { remembered: 3 });
    }

    /// A newcomer has asked to be let in, and that is noted before it knows of anybody.
    #[test]
    fn a_newcomers_own_start_is_not_of_its_past() {
        let newcomer = start(2, 20, 2, None);
        newcomer.meet();
        newcomer.asked(false);
        assert!(newcomer.standing() == Standing::Clear && !newcomer.is_asked_to_be_kept());
        let newcomer = start(2, 20, 2, None);
        newcomer.hear(&said(1, 10), false, false);
        newcomer.hear(&said(1, 11), false, false);
        assert_eq!(newcomer.standing(), Standing::Unasked, "earlier tries to be let in");
        newcomer.hear(&said(2, 21), false, false);
        assert_eq!(newcomer.standing(), Standing::Behind { remembered: 2 }, "a copy of the directory runs");
        let next = start(3, 30, 2, None);
        next.hear(&said(2, 20), true, true);
        assert_eq!(next.standing(), Standing::Unasked);
    }

    /// Its directory is empty, but whoever remembers it has not been met before. Others have, in this start or in earlier ones.
    #[test]
    fn a_lost_directory_is_found_out_whenever_somebody_tells_of_it() {
        for (wiped, acted_here) in [(start(5, 50, 5, None), false), (start(6, 60, 5, None), true)] {
            wiped.hear(&said(3, 30), true, acted_here);
            assert_eq!(wiped.standing(), Standing::Unasked, "an own start");
            wiped.hear(&said(3, 31), true, acted_here);
            assert_eq!(wiped.standing(), Standing::Behind { remembered: 3 });
            wiped.jumped(1029, false);
            wiped.hear(&said(3, 31), true, true);
            wiped.hear(&said(4, 41), true, true);
            assert_eq!(wiped.standing(), Standing::Clear, "it has compared itself since, and is no twin");
        }
        let newcomer = start(2, 20, 2, None);
        newcomer.hear(&said(2, 20), true, true);
        assert_eq!(newcomer.standing(), Standing::Unasked);
        newcomer.hear(&said(2, 20), true, false);
        assert_eq!(
            newcomer.standing(),
            Standing::Behind { remembered: 2 },
            "what another one did, under this one's description"
        );
    }

    #[test]
    fn who_has_met_nobody_takes_writes_and_tells_nothing() {
        let past = start(3, 30, 2, None);
        assert!(past.objection().is_some() && past.silence().is_some());
        past.asked(false);
        assert!(past.objection().is_none() && past.silence().is_some() && !past.may_be_sifted_with());
        assert!(!past.is_asked_to_be_kept(), "nobody has heard the question");
        past.meet();
        assert!(past.is_asked_to_be_kept());
        assert!(past.silence().is_none() && past.may_be_sifted_with());
    }

    #[test]
    fn the_mark_stands_until_it_is_taken_off() {
        let past = start(3, 30, 2, None);
        past.meet();
        past.hear(&said(5, 50), true, true);
        past.asked(false);
        assert_eq!(past.to_sift(), None, "the mark is not on the disk yet");
        past.jumped(1029, false);
        assert_eq!((past.standing(), past.to_sift()), (Standing::Clear, Some(1029)));
        assert!(past.is_behind() && past.silence().is_some() && past.may_be_sifted_with());
        past.sifted(1028);
        assert!(past.is_behind(), "that was another mark");
        past.sifted(1029);
        assert!(!past.is_behind() && past.objection().is_none());
        let after_a_crash = start(1030, 31, 1029, Some(1029));
        after_a_crash.asked(true);
        assert_eq!(after_a_crash.to_sift(), Some(1029));
        after_a_crash.hear(&said(2054, 50), true, true);
        after_a_crash.jumped(3078, false);
        after_a_crash.hear(&said(4102, 50), true, true);
        after_a_crash.jumped(5126, false);
        after_a_crash.hear(&said(6150, 50), true, true);
        assert_eq!(after_a_crash.to_sift(), None, "a twin compares nothing");
        assert!(after_a_crash.is_behind());
    }

    #[test]
    fn who_is_contradicted_again_has_a_twin() {
        let past = start(3, 30, 2, None);
        past.hear(&said(3, 31), true, true);
        past.jumped(1027, false);
        past.hear(&said(2051, 31), true, true);
        assert_eq!(past.standing(), Standing::Behind { remembered: 2051 }, "it may have come to that before");
        past.jumped(3075, false);
        past.hear(&said(4099, 31), true, true);
        assert_eq!((past.standing(), past.has_answered_twin()), (Standing::Twin, false));
        past.jumped(5123, true);
        assert_eq!(past.standing(), Standing::Twin, "until a person has stopped one");
        assert!(past.has_answered_twin());
    }

    /// The write of the lease takes its time.
    #[test]
    fn what_is_heard_during_a_jump_is_answered_for_by_another() {
        let past = start(3, 30, 2, None);
        past.asked(true);
        past.hear(&said(2000, 31), true, true);
        past.hear(&said(5000, 32), true, true);
        past.jumped(3024, false);
        assert_eq!(past.standing(), Standing::Behind { remembered: 5000 });
        past.jumped(6024, false);
        assert_eq!(past.standing(), Standing::Clear);
    }

    /// The others remember different numbers, and not all of them are there at once.
    #[test]
    fn a_life_that_does_not_go_on_is_no_twins() {
        let past = start(3, 30, 2, None);
        past.hear(&said(3000, 31), true, true);
        past.jumped(4024, false);
        past.hear(&said(5000, 31), true, true);
        past.hear(&said(5000, 31), true, true);
        past.hear(&said(4500, 31), true, true);
        assert_eq!((past.standing(), past.namesakes()), (Standing::Behind { remembered: 5000 }, 0));
        past.jumped(6024, false);
        past.hear_of(7000);
        assert_eq!((past.standing(), past.namesakes()), (Standing::Behind { remembered: 7000 }, 0));
        past.jumped(8024, false);
        past.hear(&said(9048, 31), true, true);
        assert_eq!((past.standing(), past.namesakes()), (Standing::Twin, 1));
    }
}
