//! The laws of the merge, for records that stand beside each other in one state.

use super::search::Broken;
use ring::record::{Record, merge};
use std::rc::Rc;

/// That all of these may be merged in any order, and any number of times. The old ones were checked before.
pub(crate) fn check(new: &[&Rc<Record>], old: &[&Rc<Record>]) -> Result<(), Broken> {
    for (at, a) in new.iter().enumerate() {
        // Each pair and triple with a new one in it, once.
        let others: Vec<&Record> = new[at + 1..].iter().chain(old).map(|record| record.as_ref()).collect();
        if merge(a, a) != ***a {
            return Err(Broken("the merge is not idempotent", format!("{a:?}")));
        }
        let with_a: Vec<Record> = others.iter().map(|b| merge(a, b)).collect();
        for (behind, b) in others.iter().enumerate() {
            let ab = &with_a[behind];
            pair(a, b, ab)?;
            for (c, ac) in others[behind + 1..].iter().zip(&with_a[behind + 1..]) {
                let whole = merge(ab, c);
                if whole != merge(a, &merge(b, c)) || whole != merge(b, ac) {
                    return Err(Broken("the merge is not associative", format!("{a:?} {b:?} {c:?}")));
                }
            }
        }
    }
    Ok(())
}

fn pair(a: &Record, b: &Record, ab: &Record) -> Result<(), Broken> {
    let law = |holds: bool, what| match holds {
        true => Ok(()),
        false => Err(Broken(what, format!("{a:?} {b:?}"))),
    };
    law(*ab == merge(b, a), "the merge is not commutative")?;
    law(merge(ab, b) == *ab && merge(a, ab) == *ab, "the merge is not idempotent")?;
    law(
        ab.clock.covers(&a.clock) && ab.clock.covers(&b.clock),
        "the merge forgets what one of them has seen",
    )?;
    for (one, other) in [(a, b), (b, a)] {
        let right =
            |dot| ab.sibling(dot).is_some() == (other.sibling(dot).is_some() || !other.clock.has(dot));
        law(one.siblings.iter().all(|s| right(&s.dot)), "the merge drops or keeps a sibling wrongly")?;
    }
    let known = |dot| a.sibling(dot).or(b.sibling(dot));
    law(ab.siblings.iter().all(|s| known(&s.dot) == Some(s)), "the merge makes something up")
}
