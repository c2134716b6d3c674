//! Names of states, of which there are many.
//!
//! They are hashes already: the place of each follows from its lowest bits, or is the next free one. A tree of them, the obvious
//! way, takes a seventh of a search's time.

/// A set of names.
#[derive(Default)]
pub(crate) struct Names {
    /// At least half of it is free, and 0 is.
    slots: Vec<u128>,
    len: usize,
}

impl Names {
    /// Whether it was not there before.
    pub(crate) fn insert(&mut self, name: u128) -> bool {
        if self.slots.len() < 2 * (self.len + 1) {
            let names = std::mem::replace(&mut self.slots, vec![0; (4 * self.len).next_power_of_two().max(64)]);
            self.len = 0;
            names.into_iter().filter(|name| *name != 0).for_each(|name| {
                self.insert(name);
            });
        }
        let name = name.max(1);
        let mask = self.slots.len() - 1;
        let mut at = name as usize & mask;
        while self.slots[at] != 0 {
            if self.slots[at] == name {
                return false;
            }
            at = (at + 1) & mask;
        }
        self.slots[at] = name;
        self.len += 1;
        true
    }

    /// In order.
    pub(crate) fn sorted(&self) -> Vec<u128> {
        let mut names: Vec<u128> = self.slots.iter().copied().filter(|name| *name != 0).collect();
        names.sort_unstable();
        names
    }
}
