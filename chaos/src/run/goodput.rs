//! How much is done while no node is owed an answer of: a trouble that excuses all of them must still leave a part of what was done before.

use std::fmt;

/// What was done during such a trouble, once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Goodput {
    /// The scenario that it is of.
    pub(super) trouble: &'static str,
    /// Operations a second before the first one.
    pub(super) before: f64,
    /// And while it lasted.
    pub(super) meanwhile: f64,
    /// One of so many has to be done still.
    pub(super) one_of: u32,
}

impl Goodput {
    /// What was done is less than is owed.
    pub(super) fn is_too_little(&self) -> bool {
        self.meanwhile * f64::from(self.one_of) < self.before
    }

    /// As a part of what was done before.
    fn part(&self) -> f64 {
        self.meanwhile / self.before.max(1.0)
    }
}

impl fmt::Display for Goodput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Goodput { trouble, before, meanwhile, one_of } = self;
        write!(
            f,
            "{trouble} excuses all nodes, and {meanwhile:.0} operations a second of {before:.0} before were done (one of {one_of} is owed)"
        )
    }
}

/// The least of each trouble.
pub(super) fn least(all: &[Goodput]) -> Vec<&Goodput> {
    let mut least: Vec<&Goodput> = Vec::new();
    for one in all {
        match least.iter_mut().find(|known| known.trouble == one.trouble) {
            Some(known) if one.part() < known.part() => *known = one,
            Some(_) => {}
            None => least.push(one),
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_each_trouble_is_told_and_a_part_of_before_is_owed() {
        let of = |trouble, meanwhile| Goodput { trouble, before: 900.0, meanwhile, one_of: 3 };
        let all = [of("a", 400.0), of("b", 300.0), of("a", 299.0), of("a", 500.0)];
        assert_eq!(least(&all), [&all[2], &all[1]]);
        assert_eq!(all.iter().map(Goodput::is_too_little).collect::<Vec<_>>(), [false, false, true, false]);
        let told =
            "a excuses all nodes, and 299 operations a second of 900 before were done (one of 3 is owed)";
        assert_eq!(all[2].to_string(), told);
    }
}
