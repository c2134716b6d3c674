//! The PUT machine: a few scripts to read, and every history of a small cluster.
//!
//! A script is what happens, and what the machine says to it. Owners are 1 2 3, fallbacks 4 5, a node that is being filled
//! 9; `+2` is node 2's durable yes, `~2` a yes that is not synced, `-2` its failure, `L23` that 2 and 3 are late, `T` the end of
//! the time. On the other side
//! `>2` is a store, `>4/2` a store with a hint for 2, `h2` a hint that the coordinator keeps itself, and a reply is
//! `applied`, `unsure` or `refused`.

use super::*;

fn id(n: u128) -> NodeId {
    NodeId(n)
}

fn ids(ns: &[u128]) -> Vec<NodeId> {
    ns.iter().copied().map(NodeId).collect()
}

fn plan(me: u128, fallbacks: &[u128], pending: &[u128], doubted: &[u128]) -> Plan {
    let (fallbacks, pending, doubted) = (ids(fallbacks), ids(pending), ids(doubted));
    let also = if pending.is_empty() { vec![] } else { vec![[ids(&[1, 2]), pending.clone()].concat()] };
    Plan { me: id(me), owners: ids(&[1, 2, 3]), also, fallbacks, pending, doubted, late: vec![] }
}

fn quorum(w: usize) -> WriteQuorum {
    WriteQuorum { w, pw: 0, dw: 0, sloppy: true }
}

fn said(effects: &[Effect]) -> String {
    let one = |effect: &Effect| match effect {
        Effect::StoreHere { hint_for: None } => "here".into(),
        Effect::StoreHere { hint_for: Some(owner) } => format!("here/{}", owner.0),
        Effect::Store { to, hint_for: None } => format!(">{}", to.0),
        Effect::Store { to, hint_for: Some(owner) } => format!(">{}/{}", to.0, owner.0),
        Effect::KeepHint { owner } => format!("h{}", owner.0),
        Effect::Reply(reply) => match reply.outcome {
            Outcome::Applied => "applied".into(),
            Outcome::Indeterminate => "unsure".into(),
            Outcome::NotApplied => "refused".into(),
        },
    };
    effects.iter().map(one).collect::<Vec<String>>().join(" ")
}

fn event(me: NodeId, word: &str) -> Event {
    let node = || NodeId(word[1..].parse().unwrap());
    match &word[..1] {
        "T" => Event::TimedOut,
        "L" => Event::Late(word[1..].chars().map(|n| NodeId(n.to_digit(10).unwrap().into())).collect()),
        "-" if node() == me => Event::FailedHere,
        "-" => Event::Failed { by: node() },
        sign if node() == me => Event::StoredHere { durable: sign == "+" },
        sign => Event::Stored { by: node(), durable: sign == "+" },
    }
}

#[track_caller]
fn check(plan: Plan, quorum: WriteQuorum, script: &str, expected: &str) {
    let me = plan.me;
    let mut effects = Vec::new();
    let mut put = Put::start(plan, quorum, &mut effects);
    for word in script.split_whitespace() {
        put.on(event(me, word), &mut effects);
    }
    assert_eq!(said(&effects), expected);
}

#[test]
fn two_of_three_are_enough() {
    check(plan(1, &[4, 5], &[], &[]), quorum(2), "+1 +2 +3", "here >2 >3 applied");
}

#[test]
fn nothing_leaves_before_the_own_record_is_stored() {
    check(plan(1, &[4, 5], &[], &[]), quorum(2), "+2 -3", "here");
    check(plan(1, &[4, 5], &[], &[]), quorum(2), "-1 +2", "here refused");
}

#[test]
fn a_failed_owner_is_replaced() {
    check(plan(1, &[4, 5], &[], &[]), quorum(3), "+1 -2 +4 +3", "here >2 >3 >4/2 applied");
}

#[test]
fn a_late_fallback_stands_in_last() {
    let late = Plan { late: ids(&[4]), ..plan(1, &[4, 5], &[], &[]) };
    check(late.clone(), quorum(3), "+1 -2 +5 +3", "here >2 >3 >5/2 applied");
    check(late, quorum(3), "+1 -2 -5 +4 +3", "here >2 >3 >5/2 >4/2 applied");
}

fn late(plan: Plan, late: &[u128]) -> Plan {
    Plan { late: ids(late), ..plan }
}

#[test]
fn fallbacks_stand_in_for_those_who_are_late_where_the_others_are_too_few() {
    let (five, four) = (|| plan(1, &[4, 5], &[], &[]), || plan(1, &[4], &[], &[]));
    // One is not needed; of two who are needed both are late, and then both fallbacks of whom one is lacking.
    check(late(five(), &[2]), quorum(2), "+1 +3", "here >2 >3 applied");
    check(late(five(), &[2, 3]), quorum(2), "+1 +4", "here >2 >3 >4/2 applied");
    check(late(five(), &[2, 3]), quorum(3), "+1 +4 +5", "here >2 >3 >4/2 >5/3 applied");
    // They become so while they are waited for, an owner or who stands in for one.
    check(five(), quorum(2), "+1 L2 L23 L2 L23 +4 +2 +3", "here >2 >3 >4/2 applied");
    check(five(), quorum(2), "+1 L23 L234 +5", "here >2 >3 >4/2 >5/2 applied");
    check(five(), quorum(2), "L23 +1 -4 +5", "here >2 >3 >4/2 >5/2 applied");
    check(five(), quorum(3), "+1 -2 L4 +5 +3", "here >2 >3 >4/2 >5/2 applied");
    check(plan(1, &[4, 5], &[], &[2]), quorum(3), "+1 L4 +5 +3", "here >4/2 >3 >5/2 applied");
    // A failure may leave none but them.
    check(late(five(), &[2]), quorum(2), "+1 -3 +4", "here >2 >3 >4/3 applied");
    check(late(four(), &[2]), quorum(2), "+1 -3 -4 +2", "here >2 >3 >4/3 h3 applied");
    // Their yes counts, though not beside that of who stands in for them; their failure asks nobody twice, and a hint that can't be handed over is kept.
    check(late(five(), &[2, 3]), quorum(2), "+1 +3 -2 -4", "here >2 >3 >4/2 applied >5/2");
    check(late(four(), &[2, 3]), quorum(2), "+1 +4 -2 -3", "here >2 >3 >4/2 applied h3");
    // Late fallbacks would be no better, and nobody stands in for an owner's yes, or where fallbacks don't count.
    check(late(five(), &[2, 3, 4, 5]), quorum(2), "+1 +2", "here >2 >3 applied");
    check(late(five(), &[2, 3]), WriteQuorum { pw: 2, ..quorum(2) }, "+1 +4 +2", "here >2 >3 >4/2 applied");
    let strict = WriteQuorum { sloppy: false, ..quorum(2) };
    check(late(five(), &[2, 3]), strict, "+1 +2", "here >2 >3 applied");
}

#[test]
fn a_fallback_that_coordinates_stands_in_for_no_late_owner_twice() {
    let all = || late(plan(4, &[4, 5, 6], &[], &[]), &[1, 2, 3]);
    check(all(), quorum(3), "+4 +5 +6", "here/1 >1 >2 >3 >5/2 >6/3 applied");
    check(late(all(), &[3]), quorum(1), "+4", "here/3 >1 >2 >3 applied");
}

#[test]
fn an_owner_and_those_who_keep_its_hint_are_one_copy() {
    let five = || plan(1, &[4, 5], &[], &[]);
    check(late(plan(4, &[4, 5], &[], &[]), &[1, 2, 3]), quorum(2), "+4 +1", "here/1 >1 >2 >3 >5/2");
    check(five(), quorum(3), "+1 -2 L4 +5 +4 +3", "here >2 >3 >4/2 >5/2 applied");
    check(late(five(), &[2, 3]), quorum(3), "+1 +4 +2 +3", "here >2 >3 >4/2 >5/3 applied");
    check(plan(1, &[4], &[], &[2]), quorum(3), "+1 +4 -3 +2", "here >4/2 >3 h3 >2 unsure");
    let synced = WriteQuorum { dw: 2, ..quorum(2) };
    check(late(five(), &[2, 3]), synced, "~1 +4 ~2 +3", "here >2 >3 >4/2 >5/3 applied");
}

#[test]
fn fallbacks_stand_in_for_late_nodes_of_all_sets_while_partitions_move() {
    check(plan(1, &[4], &[9], &[]), quorum(2), "+1 +3 L9", "here >2 >3 >9");
    check(plan(1, &[4], &[9], &[]), quorum(2), "+1 +3 L29 +4", "here >2 >3 >9 >4/2 applied");
    check(plan(1, &[4], &[9], &[2]), quorum(2), "+1 +3 -4 L9", "here >4/2 >3 >9 h2");
    check(plan(1, &[4, 5], &[9], &[2]), quorum(2), "+1 +3 -4 L9 +5", "here >4/2 >3 >9 >5/2 applied");
}

#[test]
fn a_failed_fallback_is_replaced_too() {
    check(plan(1, &[4, 5], &[], &[]), quorum(3), "+1 -2 -4 +5 +3", "here >2 >3 >4/2 >5/2 applied");
}

#[test]
fn a_failure_after_the_reply_still_leaves_a_hint() {
    check(plan(1, &[4], &[], &[]), quorum(2), "+1 +2 -3 -4", "here >2 >3 applied >4/3 h3");
}

#[test]
fn the_own_hint_does_not_count() {
    check(plan(1, &[], &[], &[]), quorum(2), "+1 -2 -3", "here >2 >3 h2 h3 unsure");
}

#[test]
fn a_doubted_owner_is_asked_before_giving_up() {
    check(plan(1, &[], &[], &[2, 3]), quorum(2), "+1 +2", "here h2 h3 >2 >3 applied");
    check(plan(1, &[], &[], &[2, 3]), quorum(2), "+1 -2 -3", "here h2 h3 >2 >3 unsure");
}

#[test]
fn a_doubted_fallback_is_asked_before_giving_up() {
    check(plan(1, &[4], &[], &[4]), quorum(3), "+1 -2 +4 +3", "here >2 >3 h2 >4/2 applied");
}

#[test]
fn a_fallback_that_coordinates_stands_in_for_one_owner_and_counts_once() {
    check(plan(4, &[4, 5], &[], &[1, 2, 3]), quorum(2), "+4 +5", "here/1 >5/2 h3 applied");
    check(plan(4, &[4], &[], &[1, 2, 3]), quorum(2), "+4 +4 -1 -2 -3", "here/1 h2 h3 >1 >2 >3 unsure");
}

#[test]
fn a_strict_quorum_counts_no_fallback_not_even_the_coordinator() {
    let strict = WriteQuorum { w: 2, pw: 0, dw: 0, sloppy: false };
    check(plan(4, &[4, 5], &[], &[]), strict, "+4 +1 -2 -3", "here/1 >1 >2 >3 h2 h3 unsure");
    check(plan(4, &[4, 5], &[], &[]), strict, "+4 +1 +2", "here/1 >1 >2 >3 applied");
}

#[test]
fn while_partitions_move_a_write_reaches_its_quorum_among_both_sets_of_owners() {
    // The further set is 1 2 9.
    check(plan(1, &[], &[9], &[]), quorum(2), "+1 +9 -2 -3", "here >2 >3 >9 h2 h3 unsure");
    check(plan(1, &[], &[9], &[]), quorum(2), "+1 +2 -9 +3", "here >2 >3 >9 applied h9");
    check(plan(1, &[], &[9], &[]), quorum(2), "+1 +3", "here >2 >3 >9");
    check(plan(1, &[], &[9], &[]), quorum(2), "+1 +3 +9", "here >2 >3 >9 applied");
    check(plan(1, &[], &[9], &[]), quorum(2), "+1 +3 -2 -9", "here >2 >3 >9 h2 h9 unsure");
}

#[test]
fn a_fallback_counts_for_both_sets_of_owners() {
    check(plan(1, &[4], &[9], &[]), quorum(2), "+1 +3 -9 +4", "here >2 >3 >9 >4/9 applied");
    check(plan(1, &[4], &[9], &[9]), quorum(2), "+1 +3 +4", "here >2 >3 >4/9 applied");
}

fn replanned(plans: [Plan; 2], before: &str, after: &str, expected: &str) {
    let [first, second] = plans;
    let (me, mut effects) = (first.me, Vec::new());
    let mut put = Put::start(first, quorum(2), &mut effects);
    let run = |put: &mut Put, script: &str, effects: &mut Vec<Effect>| {
        script.split_whitespace().for_each(|word| put.on(event(me, word), effects));
    };
    run(&mut put, before, &mut effects);
    put.on(Event::Replanned(second), &mut effects);
    run(&mut put, after, &mut effects);
    assert_eq!(said(&effects), expected);
}

#[test]
fn a_write_goes_on_by_the_tables_that_hold_when_it_is_answered() {
    let (before, after) = (|| plan(1, &[4], &[], &[]), || plan(1, &[4], &[9], &[]));
    replanned([before(), after()], "+1 +3", "+9", "here >2 >3 applied >9");
    replanned([before(), after()], "+1", "+3 +9", "here >2 >3 >9 applied");
    replanned([before(), after()], "", "+1 +3 +2", "here >2 >3 >9 applied");
    replanned([after(), before()], "+1 +3", "", "here >2 >3 >9 applied");
    replanned([before(), after()], "+1 -2 +4", "+3", "here >2 >3 >4/2 applied >9");
}

#[test]
fn the_yes_of_a_node_that_has_left_meanwhile_counts_no_more() {
    let moving = || plan(1, &[4], &[9], &[]);
    let over = || Plan { owners: vec![NodeId(1), NodeId(2), NodeId(9)], ..plan(1, &[4], &[], &[]) };
    replanned([moving(), over()], "+1 +3", "", "here >2 >3 >9");
    replanned([moving(), over()], "+1 +3", "+9", "here >2 >3 >9 applied");
    let plans = || [plan(1, &[4], &[], &[]), plan(1, &[6], &[], &[])];
    replanned(plans(), "+1 -2", "+4 +6", "here >2 >3 >4/2 >6/2 applied");
    let [before, after] = plans();
    replanned([late(before, &[2, 3]), late(after, &[2, 3])], "+1", "+4 +6", "here >2 >3 >4/2 >6/2 applied");
    // Who stood in is to be filled itself now, which is of no use to the set that it is not in.
    let plans = [plan(1, &[4, 5], &[], &[]), plan(1, &[5], &[4], &[])].map(|plan| late(plan, &[2, 3]));
    replanned(plans, "+1", "+4 +5", "here >2 >3 >4/2 >5/2 applied");
    let stays = || Plan { fallbacks: vec![NodeId(4), NodeId(3)], ..over() };
    replanned([moving(), stays()], "+1 +3", "", "here >2 >3 >9 applied");
}

/// It was refused, for it was asked by older tables; by those of now it may keep a hint for an owner that can't be reached.
#[test]
fn an_owner_of_before_that_took_nothing_stands_in_like_any_other() {
    let before = || plan(1, &[], &[], &[]);
    let after = || Plan { owners: ids(&[1, 2, 9]), ..plan(1, &[3], &[], &[]) };
    replanned([before(), after()], "+1 -2", "-3 +3", "here >2 >3 h2 >9 >3/2 applied");
    replanned([before(), after()], "+1", "-3 -2 -9 +3", "here >2 >3 >9 >3/2 h9 applied");
    replanned([before(), after()], "+1 -2", "-3 -3 -9", "here >2 >3 h2 >9 >3/2 h9 unsure");
    // It may have failed before.
    replanned([before(), after()], "+1 -3", "-2 -9 +3", "here >2 >3 h3 >9 >3/2 h9 applied");
    // Where nobody lacks anything it is not asked again.
    replanned([before(), after()], "+1", "-3 +2 +9", "here >2 >3 >9 applied");
}

/// Who stands in is to own the key itself, and fails: then a hint is kept for it, and no longer for the owner of before.
#[test]
fn a_stand_in_that_becomes_an_owner_is_stood_in_for() {
    let before = || plan(1, &[4], &[], &[]);
    let after = || Plan { owners: ids(&[1, 2, 4]), ..plan(1, &[5], &[], &[]) };
    replanned([before(), after()], "+1 -3", "-4 +2", "here >2 >3 >4/3 >5/4 applied");
    let filling = || plan(1, &[5], &[4], &[]);
    replanned([before(), filling()], "+1 -2", "-4 +3 +5", "here >2 >3 >4/2 >5/2 h4 applied");
}

#[test]
fn what_is_not_synced_counts_for_w_and_not_for_dw() {
    let durable = WriteQuorum { w: 1, pw: 0, dw: 2, sloppy: true };
    check(plan(1, &[], &[], &[]), durable, "+1 ~2 +3", "here >2 >3 applied");
    check(plan(1, &[], &[], &[]), durable, "~1 ~2 +3", "here >2 >3 unsure");
}

#[test]
fn a_record_that_is_stored_after_the_time_was_up_is_sent_out_all_the_same() {
    check(plan(1, &[4], &[], &[]), quorum(2), "T +1 -2 +3 +4", "here unsure >2 >3 >4/2");
    check(plan(1, &[4], &[], &[]), quorum(2), "T -1", "here unsure");
}

/// What an onlooker knows, reckoned from events and effects alone.
#[derive(Clone, Default, Debug)]
struct Onlooker {
    sent: BTreeMap<NodeId, Option<NodeId>>,
    waiting: BTreeSet<NodeId>,
    yes: BTreeMap<NodeId, bool>,
    failed: BTreeSet<NodeId>,
    own_hint: Option<NodeId>,
    kept: BTreeSet<NodeId>,
    stored_here: Option<bool>,
    late: Vec<NodeId>,
    reply: Option<Reply>,
}

impl Onlooker {
    fn count(
        &self,
        plan: &Plan,
        quorum: &WriteQuorum,
        set: &[NodeId],
        of: impl Iterator<Item = NodeId>,
    ) -> (usize, usize, usize) {
        // Where it is once all hints are delivered.
        let (mut disks, mut synced, mut owners) = (BTreeSet::new(), BTreeSet::new(), 0);
        for node in of {
            let hint = if node == plan.me { self.own_hint } else { self.sent[&node] };
            let elsewhere = plan.owners.contains(&node) || plan.pending.contains(&node);
            let fallback = !elsewhere && (node == plan.me || plan.fallbacks.contains(&node));
            if set.contains(&node) || (quorum.sloppy && fallback) {
                owners += usize::from(set.contains(&node));
                // Who owns the key by now is a disk of its own, for whomever it stood in.
                let disk = hint.filter(|_| !set.contains(&node)).unwrap_or(node);
                disks.insert(disk);
                if self.yes.get(&node).copied().unwrap_or(true) {
                    synced.insert(disk);
                }
            }
        }
        (disks.len(), owners, synced.len())
    }

    fn reaches(&self, plan: &Plan, quorum: &WriteQuorum, of: &BTreeSet<NodeId>) -> bool {
        plan.sets().all(|set| {
            let (all, owners, durable) = self.count(plan, quorum, set, of.iter().copied());
            all >= quorum.w && owners >= quorum.pw && durable >= quorum.dw
        })
    }

    fn sees(&mut self, plan: &Plan, quorum: &WriteQuorum, event: Option<&Event>, effects: &[Effect]) {
        match event {
            Some(Event::StoredHere { durable }) => {
                self.stored_here = Some(true);
                self.yes.insert(plan.me, *durable);
            }
            Some(Event::FailedHere) => self.stored_here = Some(false),
            Some(Event::Stored { by, durable }) => {
                self.waiting.remove(by);
                self.yes.insert(*by, *durable);
            }
            Some(Event::Failed { by }) => {
                self.waiting.remove(by);
                self.failed.insert(*by);
            }
            Some(Event::Late(late)) => self.late.clone_from(late),
            Some(Event::Replanned(plan)) => self.late.clone_from(&plan.late),
            Some(Event::TimedOut) | None => {}
        }
        for effect in effects {
            match effect {
                Effect::StoreHere { hint_for } => {
                    assert!(event.is_none(), "storing here draws the dot: once, at the start");
                    self.own_hint = *hint_for;
                }
                Effect::Store { to, hint_for } => {
                    assert_eq!(
                        self.stored_here,
                        Some(true),
                        "nothing leaves before the own record is stored"
                    );
                    assert!(*to != plan.me, "nobody sends to itself");
                    let before = self.sent.insert(*to, *hint_for);
                    let was_an_owner = before == Some(None) && hint_for.is_some() && self.failed.remove(to);
                    assert!(before.is_none() || was_an_owner, "{to:?} is sent it once by the same tables");
                    assert_eq!(hint_for.is_some(), plan.fallbacks.contains(to), "fallbacks keep hints");
                    assert!(hint_for.is_none_or(|owner| plan.concerns(owner)), "hints are for owners");
                    assert!(quorum.sloppy || hint_for.is_none(), "a strict quorum asks no fallback");
                    self.waiting.insert(*to);
                }
                Effect::KeepHint { owner } => {
                    assert!(*owner != plan.me, "nobody keeps a hint for itself");
                    assert!(self.kept.insert(*owner), "a hint for {owner:?} is kept once");
                }
                Effect::Reply(reply) => {
                    assert!(self.reply.is_none(), "the reply is said once");
                    self.reply = Some(*reply);
                    self.judge(plan, quorum, event, *reply);
                }
            }
        }
        assert!(
            self.reply.is_some() || !self.waiting.is_empty() || self.stored_here.is_none(),
            "somebody hangs"
        );
        assert!(
            !self.waits_in_vain(plan, quorum),
            "only the late are waited for: {self:?} {plan:?} {quorum:?}"
        );
    }

    /// Whether those who are late are needed though a fallback could be asked who is not.
    fn waits_in_vain(&self, plan: &Plan, quorum: &WriteQuorum) -> bool {
        let prompt = self.waiting.iter().filter(|node| !self.late.contains(node));
        let hoped = self.yes.keys().chain(prompt).copied().collect();
        let free = |n: &NodeId| *n != plan.me && !self.sent.contains_key(n) && !plan.doubts(*n);
        let replicas = WriteQuorum { pw: 0, ..*quorum };
        let waits = self.stored_here == Some(true) && self.reply.is_none() && quorum.sloppy;
        // For an owner who has it nobody stands in, synced or not; those who are asked to sync do.
        waits
            && self.yes.values().all(|durable| *durable)
            && !self.reaches(plan, &replicas, &hoped)
            && plan.fallbacks.iter().any(|n| free(n) && !self.late.contains(n))
    }

    fn judge(&self, plan: &Plan, quorum: &WriteQuorum, event: Option<&Event>, reply: Reply) {
        let yes: BTreeSet<NodeId> = self.yes.keys().copied().collect();
        let (all, owners, durable) = self.count(plan, quorum, &plan.owners, yes.iter().copied());
        assert_eq!(reply.tally, Tally { all, owners, durable }, "the receipt is true");
        assert_eq!(reply.fallbacks, all - owners, "the receipt is true");
        assert_eq!(reply.timed_out, event == Some(&Event::TimedOut));
        match reply.outcome {
            Outcome::Applied => assert!(self.reaches(plan, quorum, &yes), "{yes:?} are not enough"),
            Outcome::NotApplied => assert_eq!(event, Some(&Event::FailedHere)),
            Outcome::Indeterminate if reply.timed_out => {}
            Outcome::Indeterminate => {
                let hoped = yes.iter().chain(&self.waiting).copied().collect();
                assert!(
                    !self.reaches(plan, quorum, &hoped),
                    "gave up with {:?} still to answer",
                    self.waiting
                );
                let asked = |n: &NodeId| *n == plan.me || self.sent.contains_key(n);
                assert!(plan.concerned().iter().all(asked), "gave up without asking every owner");
            }
        }
    }

    /// Once everybody has answered.
    fn ends(&self, plan: &Plan, put: &Put) {
        assert!(self.reply.is_some() && put.is_done(), "nothing is left to wait for");
        if self.stored_here != Some(true) {
            return assert!(self.sent.is_empty(), "what is not stored here is sent nowhere");
        }
        for owner in plan.owners.iter().chain(&plan.pending).filter(|o| !self.yes.contains_key(o)) {
            let by_fallback = self.sent.iter().any(|(n, of)| *of == Some(*owner) && self.yes.contains_key(n));
            let here = self.own_hint == Some(*owner) || self.kept.contains(owner);
            assert!(by_fallback || here, "nobody keeps a hint for {owner:?}: {self:?} {put:?}");
        }
    }
}

/// What may happen once in a history.
#[derive(Clone)]
struct Once {
    time_out: bool,
    late: Option<Vec<NodeId>>,
    replanned: Option<Plan>,
}

/// Walks every history from here and counts them.
fn walk(plan: &Plan, quorum: &WriteQuorum, put: &Put, onlooker: &Onlooker, left: usize, once: &Once) -> u64 {
    let mut next: Vec<Event> = Vec::new();
    if onlooker.stored_here.is_none() {
        next.extend([Event::StoredHere { durable: true }, Event::FailedHere]);
        if quorum.dw > 0 {
            next.push(Event::StoredHere { durable: false });
        }
    }
    for by in onlooker.waiting.iter().copied() {
        next.extend([Event::Stored { by, durable: true }, Event::Failed { by }]);
        if quorum.dw > 0 {
            next.push(Event::Stored { by, durable: false });
        }
    }
    if next.is_empty() {
        onlooker.ends(plan, put);
        return 1;
    }
    assert!(!put.is_done(), "somebody is still to answer");
    if left == 0 {
        return 1;
    }
    if once.time_out && onlooker.reply.is_none() {
        next.push(Event::TimedOut);
    }
    next.extend(once.late.iter().cloned().map(Event::Late));
    next.extend(once.replanned.iter().cloned().map(Event::Replanned));
    let mut histories = 0;
    for event in next {
        let (mut put, mut onlooker, mut effects) = (put.clone(), onlooker.clone(), Vec::new());
        put.on(event.clone(), &mut effects);
        let plan = if let Event::Replanned(plan) = &event { plan } else { plan };
        onlooker.sees(plan, quorum, Some(&event), &effects);
        // Who has failed as an owner of before is asked to stand in, and may fail once more.
        let asked_anew = |effect: &Effect| matches!(effect, Effect::Store { to, .. } if event == Event::Failed { by: *to });
        if !effects.iter().any(asked_anew) {
            let (before, said) = (put.clone(), effects.len());
            put.on(event.clone(), &mut effects);
            if event != Event::TimedOut || onlooker.reply.is_some() {
                assert!(effects.len() == said && put == before, "{event:?} again changes nothing");
            }
        }
        let once = Once {
            time_out: once.time_out && event != Event::TimedOut,
            late: once.late.clone().filter(|_| !matches!(event, Event::Late(_))),
            replanned: once.replanned.clone().filter(|_| !matches!(event, Event::Replanned(_))),
        };
        histories += walk(plan, quorum, &put, &onlooker, left - 1, &once);
    }
    histories
}

/// Of who is late at first, and who is so from some moment on.
fn every_history(me: u128, length: usize, first: &[u128], then: Option<&[u128]>) -> u64 {
    let once = Once { time_out: true, late: then.map(ids), replanned: None };
    let mut histories = 0;
    let fallbacks: &[&[u128]] = if me == 1 { &[&[], &[4], &[4, 5]] } else { &[&[4], &[4, 5]] };
    for (fallbacks, pending) in fallbacks.iter().flat_map(|f| [(*f, &[][..]), (*f, &[9][..])]) {
        for doubted in [&[][..], &[2], &[2, 3], &[1, 2, 3], &[4], &[2, 5], &[3, 4, 5], &[1, 2, 3, 4, 5]] {
            for (w, pw, dw, sloppy) in [
                (1, 0, 0, true),
                (2, 0, 0, true),
                (3, 0, 0, true),
                (2, 2, 0, true),
                (3, 1, 0, true),
                (2, 0, 0, false),
                (3, 3, 0, false),
                (2, 0, 2, true),
            ] {
                let plan = late(plan(me, fallbacks, pending, doubted), first);
                let quorum = WriteQuorum { w, pw, dw, sloppy };
                let (mut effects, mut onlooker) =
                    (Vec::new(), Onlooker { late: plan.late.clone(), ..Onlooker::default() });
                let put = Put::start(plan.clone(), quorum, &mut effects);
                onlooker.sees(&plan, &quorum, None, &effects);
                histories += walk(&plan, &quorum, &put, &onlooker, length, &once);
            }
        }
    }
    histories
}

#[test]
fn every_short_history_of_an_owner_ends_well() {
    let histories = every_history(1, 7, &[], None);
    assert!(histories > 100_000, "{histories}");
}

#[test]
fn every_short_history_of_a_fallback_that_coordinates_ends_well() {
    let histories = every_history(4, 7, &[], None);
    assert!(histories > 100_000, "{histories}");
}

/// Fallbacks come and go, nodes are to be filled, and are filled.
#[test]
fn every_short_history_in_which_the_tables_change_ends_well() {
    let settled = || plan(1, &[4, 5], &[], &[]);
    let moving = || plan(1, &[4, 5], &[9], &[]);
    let moved = || Plan { owners: ids(&[1, 2, 9]), ..plan(1, &[4, 3], &[], &[]) };
    let fewer = || plan(1, &[5, 6], &[], &[]);
    let promoted = || Plan { owners: ids(&[1, 2, 4]), ..plan(1, &[5, 3], &[], &[]) };
    let to_fill = || plan(1, &[5], &[4], &[]);
    let mut histories = 0;
    for (first, then) in [
        (settled(), moving()),
        (moving(), moved()),
        (settled(), fewer()),
        (moving(), settled()),
        (settled(), promoted()),
        (settled(), to_fill()),
    ] {
        for (nodes, w) in [(&[][..], 2), (&[2, 3], 2), (&[2, 3], 3), (&[2, 4], 3)] {
            for doubts in [false, true] {
                let nodes = |plan: Plan| {
                    let nodes = ids(nodes);
                    if doubts { Plan { doubted: nodes, ..plan } } else { Plan { late: nodes, ..plan } }
                };
                let (plan, quorum) = (nodes(first.clone()), quorum(w));
                let (mut effects, mut onlooker) =
                    (Vec::new(), Onlooker { late: plan.late.clone(), ..Onlooker::default() });
                let put = Put::start(plan.clone(), quorum, &mut effects);
                onlooker.sees(&plan, &quorum, None, &effects);
                let once = Once { time_out: false, late: None, replanned: Some(nodes(then.clone())) };
                histories += walk(&plan, &quorum, &put, &onlooker, 7, &once);
            }
        }
    }
    assert!(histories > 100_000, "{histories}");
}

#[test]
fn every_short_history_with_late_nodes_ends_well() {
    for me in [1, 4] {
        for (first, then) in [(&[][..], &[2, 3][..]), (&[2, 3], &[4]), (&[2, 9], &[]), (&[4], &[2, 3, 9])] {
            let histories = every_history(me, 5, first, Some(then));
            assert!(histories > 100_000, "{histories}");
        }
    }
}
