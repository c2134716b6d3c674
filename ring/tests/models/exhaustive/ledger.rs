//! What was written, and what may be gone: known from the writers alone, without a look at a dot.

use super::search::Broken;
use bytes::Bytes;
use ring::record::{Content, Object, Record};
use std::fmt;

/// Values by their numbers, which begin with 1.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Values(u16);

impl Values {
    pub(crate) fn of(record: &Record) -> Values {
        let values = record.siblings.iter().filter_map(|s| match &s.content {
            Content::Object(object) => Some(number(object)),
            _ => None,
        });
        values.fold(Values::default(), |all, value| all.with(value))
    }

    #[must_use]
    pub(crate) fn with(self, value: u8) -> Values {
        Values(self.0 | 1 << value)
    }

    #[must_use]
    pub(crate) fn and(self, others: Values) -> Values {
        Values(self.0 | others.0)
    }

    #[must_use]
    pub(crate) fn without(self, others: Values) -> Values {
        Values(self.0 & !others.0)
    }

    #[must_use]
    pub(crate) fn common(self, others: Values) -> Values {
        Values(self.0 & others.0)
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u8> {
        (0..16).filter(move |value| self.0 & 1 << value != 0)
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|value| format!("v{value}")).collect();
        write!(f, "{{{}}}", names.join(", "))
    }
}

static NUMBERS: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// The body of a value.
pub(crate) fn body(value: u8) -> Bytes {
    Bytes::from_static(&NUMBERS[usize::from(value)..][..1])
}

/// The number of a value.
pub(crate) fn number(object: &Object) -> u8 {
    object.body[0]
}

/// A value may be gone if somebody who had seen it wrote, and must be gone then.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Ledger {
    written: Values,
    pub(crate) superseded: Values,
    last: u8,
}

impl Ledger {
    /// The number of a value that is written now.
    pub(crate) fn write(&mut self) -> u8 {
        self.last += 1;
        self.written = self.written.with(self.last);
        self.last
    }

    pub(crate) fn supersede(&mut self, seen: Values) {
        self.superseded = self.superseded.and(seen);
    }

    /// Compares with what is left when everybody has heard of everything.
    pub(crate) fn compare(&self, there: Values) -> Result<(), Broken> {
        let lost = self.written.without(self.superseded).without(there);
        let revived = there.common(self.superseded);
        match (lost.iter().next(), revived.iter().next()) {
            (Some(value), _) => {
                Err(Broken("a value is lost", format!("v{value} was acknowledged, and superseded by nobody")))
            }
            (_, Some(value)) => Err(Broken("a value is back", format!("v{value} was superseded"))),
            _ => Ok(()),
        }
    }
}
