//! Bugs that are built in on purpose, to see that the simulation finds them.
//!
//! A check that nobody has ever seen fail may be blind. So each rule that keeps data safe can be switched off here, one at
//! a time, and the simulation has to notice within a stated number of seeds (docs/simulation.md). Only a build with the
//! feature `planted` has the switch, and nothing that is shipped has that feature: without it [`is`] is the constant
//! `false` and the compiler leaves no trace of it.
//!
//! A switch at run time within that build, and not a build for each bug: building takes a hundred times as long as finding.

macro_rules! bugs {
    ($($name:ident $text:literal $doc:literal,)*) => {
        /// A rule that is switched off.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Bug {
            $(#[doc = $doc] $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)*];

            /// Its name on a command line.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$name => $text,)* }
            }

            /// What is wrong then.
            pub fn doc(self) -> &'static str {
                match self { $(Bug::$name => $doc,)* }
            }
        }
    };
}

bugs! {
    OneEpoch "one-epoch" "A replica counts each key under one epoch for ever, whatever it may have forgotten.",
    NoMark "no-mark" "A copy that reveals what its own node has forgotten is merged without a fresh epoch.",
    NoBootRule "no-boot-rule" "A start that may have lost data goes on under the old epochs.",
    SendBeforeSync "send-before-sync" "A coordinator counts its own record, and sends it on, before it is synced.",
    AckBeforeSync "ack-before-sync" "Nothing is synced, and everything is said to be.",
    HintUnsynced "hint-unsynced" "A hint that counts towards W is not synced.",
    ReapIgnoresHints "reap-ignores-hints" "A deletion is forgotten although a hint of its key waits somewhere, with the copy that it names.",
    ReapAtOnce "reap-at-once" "A deletion is forgotten as soon as its owners agree, without a second look.",
    ReapOwnersOnly "reap-owners-only" "Only owners are asked before a deletion is forgotten.",
    OldTables "old-tables" "A store by somebody who acts by older tables is taken, and a change waits for nobody to act by it.",
    ReadsTarget "reads-target" "Reads are answered by those who are still taking over.",
    LeafApart "leaf-apart" "A record's leaf is not written in the record's batch.",
    MergeEqualCounts "merge-equal-counts" "Of two siblings with the same count a merge keeps one.",
    LastWriteWins "last-write-wins" "A merge keeps the value that was written last.",
    HintForgotten "hint-forgotten" "A hint goes before its owner has said that it has it.",
    WholeClock "whole-clock" "A writer gets the copy's whole clock back, siblings that it never saw included.",
    SurplusDropped "surplus-dropped" "What a node no longer owns goes without a question to those who do.",
    FillFromOne "fill-from-one" "Whoever takes over a partition asks one of its owners only.",
    RemovalUnnamed "removal-unnamed" "A removal from a cart has no dot of its own.",
    SpentForgotten "spent-forgotten" "The names of removed operations are not remembered.",
    LateMessages "late-messages" "What arrives too late is taken all the same.",
    RecordUnsynced "record-unsynced" "An owner says that a record is synced which is not.",
    NoSiblingLimit "no-sibling-limit" "A key takes as many siblings as come.",
    RepairsEqual "repairs-equal" "A read repairs owners that have what it shows.",
    ForwardTwice "forward-twice" "A write that is handed over is carried out as often as it arrives.",
    OwnCalendar "own-calendar" "Values expire by each node's own calendar.",
}

impl Bug {
    /// Those that the simulation is known not to notice; docs/simulation.md says by what else they are.
    pub const MISSED: &[Bug] =
        &[Bug::SpentForgotten, Bug::LateMessages, Bug::FillFromOne, Bug::ReapOwnersOnly, Bug::SurplusDropped];
}

#[cfg(feature = "planted")]
static CHOSEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(u8::MAX);

/// Switches one rule off, or none, for this whole process.
#[cfg(feature = "planted")]
pub fn choose(bug: Option<Bug>) {
    CHOSEN.store(bug.map_or(u8::MAX, |bug| bug as u8), std::sync::atomic::Ordering::Relaxed);
}

/// Whether this rule is switched off.
#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether this rule is switched off: it can't be.
#[cfg(not(feature = "planted"))]
pub const fn is(_: Bug) -> bool {
    false
}
