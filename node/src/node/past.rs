//! Whether this node's directory is the one that the others remember.
//!
//! A description of this node that this process did not give was given by another start of it. One with a lower number is
//! old, unless no start since has come as far as asking: a start that was killed before that has only counted. One with the same number or a higher one is a start that this directory knows nothing of: it was put back from a
//! copy and has gone back in time, or a copy of it runs somewhere at this moment. In the first case going on under a lease
//! beyond the remembered one is enough, and happens once; who is contradicted again after that has a twin, and the two of
//! them take no more writes until a person has stopped one.

use ring::members::Description;
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
    standing: Standing,
    jumped: bool,
    answered_twin: bool,
}

/// Whether this node may hand out dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has been asked yet.
    Unasked,
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
    /// What this start says of itself, and the number of the last start of this directory that has asked the others.
    pub fn new(said: Description, last_asked: u64) -> Past {
        Past {
            state: Mutex::new(State {
                said,
                since: last_asked + 1,
                standing: Standing::Unasked,
                jumped: false,
                answered_twin: false,
            }),
        }
    }

    /// Compares what a view holds of this node with what it said.
    pub fn hear(&self, known: &Description) {
        let mut state = self.lock();
        if known.boot_id == state.said.boot_id || known.starts < state.since {
            return;
        }
        let remembered = match state.standing {
            Standing::Behind { remembered } => remembered.max(known.starts),
            _ => known.starts,
        };
        state.standing = if state.jumped { Standing::Twin } else { Standing::Behind { remembered } };
    }

    /// Everybody who can be reached has been asked.
    pub fn asked(&self) {
        let mut state = self.lock();
        if state.standing == Standing::Unasked {
            state.standing = Standing::Clear;
        }
    }

    /// The lease beyond what is remembered has been taken; gives back what to say from now on.
    pub fn jumped(&self, lease: u64) -> Description {
        let mut state = self.lock();
        state.said.starts = lease;
        state.since = lease;
        state.jumped = true;
        match state.standing {
            Standing::Twin => state.answered_twin = true,
            _ => state.standing = Standing::Clear,
        }
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

    /// Whether this node may hand out dots.
    pub fn standing(&self) -> Standing {
        self.lock().standing
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Standing {
    /// Why the node takes no writes, if it takes none.
    pub fn objection(self) -> Option<&'static str> {
        match self {
            Standing::Clear => None,
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

    #[test]
    fn an_older_start_is_the_usual_case() {
        let past = Past::new(said(7, 70), 6);
        past.hear(&said(6, 60));
        past.hear(&said(7, 70));
        assert_eq!(past.standing(), Standing::Unasked);
        past.asked();
        assert_eq!(past.standing(), Standing::Clear);
    }

    #[test]
    fn a_start_that_the_directory_has_forgotten_is_jumped_over_once() {
        let past = Past::new(said(3, 30), 2);
        past.hear(&said(5, 50));
        past.hear(&said(4, 40));
        past.asked();
        assert_eq!(past.standing(), Standing::Behind { remembered: 5 });
        assert_eq!(past.jumped(1029).starts, 1029);
        past.hear(&said(5, 50));
        assert_eq!(past.standing(), Standing::Clear, "that is old now");
    }

    /// Put back, started as number 3, killed before it could ask, started again as number 4: the others remember a 3 that
    /// this directory has forgotten, and its own 3 has told nobody anything.
    #[test]
    fn starts_that_never_asked_do_not_hide_what_is_remembered() {
        let past = Past::new(said(4, 40), 2);
        past.hear(&said(2, 20));
        assert_eq!(past.standing(), Standing::Unasked);
        past.hear(&said(3, 31));
        assert_eq!(past.standing(), Standing::Behind { remembered: 3 });
    }

    #[test]
    fn who_is_contradicted_again_has_a_twin() {
        let past = Past::new(said(3, 30), 2);
        past.hear(&said(3, 31));
        past.jumped(1027);
        past.hear(&said(2051, 31));
        assert_eq!(past.standing(), Standing::Twin);
        past.jumped(3075);
        assert_eq!(past.standing(), Standing::Twin, "until a person has stopped one");
    }
}
