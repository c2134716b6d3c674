//! Shop events from CSV, plain or gzipped by its extension, one row at a time: memory does not grow with the file.
//!
//! ```text
//! time,customer,invoice,item,description,quantity,unit_price
//! 2010-12-01T08:26:00,17850,536365,85123A,WHITE HANGING HEART T-LIGHT HOLDER,6,2.55   → cart 17850, 85123A +6
//! 2010-12-01T11:52:00,,536414,22139,,56,0.0                                           → cart 536414, a guest's
//! 2010-12-02T09:41:00,14527,C536379,22557,PLASTERS IN TIN,-1,1.65                     → a return: −1
//! ```
//!
//! A row without a customer is a guest, and the guest's cart is named after the invoice. A row that can't be read ends
//! the replay with its line: skipping it would make the model and the carts agree about a file that nobody has.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use csv::ByteRecord;
use flate2::read::MultiGzDecoder;

/// The columns, in this order and no other.
pub(super) const HEADER: [&str; 7] =
    ["time", "customer", "invoice", "item", "description", "quantity", "unit_price"];

/// One change to one cart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The number of its row, from 1 for the first one below the header; unique, and so its `op_id`.
    pub(super) row: u64,
    /// The customer, or the invoice of a guest.
    pub(super) cart: String,
    pub(super) sku: String,
    /// What is added; negative for a return.
    pub(super) quantity: i64,
}

/// Why a file can't be replayed. Nothing has been written by then; all of these are wrong usage.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadFile {
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("{}: the header has to be `{}`, found `{found}`", path.display(), HEADER.join(","))]
    Header { path: PathBuf, found: String },
    #[error("{}, line {line}: {why}", path.display())]
    Row { path: PathBuf, line: u64, why: String },
}

/// Which part of a file is replayed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    /// At most so many events.
    pub(super) events: Option<u64>,
    /// Only the events of the first so many carts.
    pub(super) carts: Option<usize>,
}

/// The events of one file, in its order.
pub(super) struct Events {
    path: PathBuf,
    rows: csv::Reader<Box<dyn Read + Send>>,
    record: ByteRecord,
    row: u64,
    given: u64,
    part: Part,
    /// The carts taken so far; kept only when their number is limited.
    carts: BTreeSet<String>,
}

impl Events {
    /// Opens a file and checks its header.
    pub(super) fn open(path: &Path, part: Part) -> Result<Self, BadFile> {
        let unreadable = |why: String| BadFile::Unreadable { path: path.to_owned(), why };
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let is_gzip = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"));
        let bytes: Box<dyn Read + Send> = if is_gzip {
            // Several members one after the other are one file, as for zcat.
            Box::new(MultiGzDecoder::new(BufReader::new(file)))
        } else {
            Box::new(file)
        };
        let mut rows = csv::ReaderBuilder::new().has_headers(true).from_reader(bytes);
        let header = rows.byte_headers().map_err(|error| unreadable(error.to_string()))?;
        if !header.iter().eq(HEADER.iter().map(|name| name.as_bytes())) {
            let found = header.iter().map(String::from_utf8_lossy).collect::<Vec<_>>().join(",");
            let found = found.chars().take(200).collect();
            return Err(BadFile::Header { path: path.to_owned(), found });
        }
        let record = ByteRecord::new();
        Ok(Self { path: path.to_owned(), rows, record, row: 0, given: 0, part, carts: BTreeSet::new() })
    }

    /// Reads a whole file without keeping it, and returns how many events it has. Every bad row is found here, before
    /// anything is written anywhere.
    pub(super) fn count(path: &Path, part: Part) -> Result<u64, BadFile> {
        Self::open(path, part)?.try_fold(0, |count, event| event.map(|_| count + 1))
    }

    fn read(&mut self) -> Result<Option<Event>, BadFile> {
        match self.rows.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(self.bad(error.position().map(csv::Position::line), error.to_string())),
        }
        self.row += 1;
        let event = event_of(self.row, &self.record);
        event.map(Some).map_err(|why| self.bad(self.record.position().map(csv::Position::line), why))
    }

    fn bad(&self, line: Option<u64>, why: String) -> BadFile {
        // A stream that breaks off (a cut gzip) has no position of its own; it broke after the last good row.
        let line = line.unwrap_or_else(|| self.rows.position().line());
        BadFile::Row { path: self.path.clone(), line, why }
    }

    fn wants(&mut self, event: &Event) -> bool {
        match self.part.carts {
            None => true,
            Some(_) if self.carts.contains(&event.cart) => true,
            Some(most) => self.carts.len() < most && self.carts.insert(event.cart.clone()),
        }
    }
}

impl Iterator for Events {
    type Item = Result<Event, BadFile>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.part.events.is_some_and(|most| self.given >= most) {
            return None;
        }
        loop {
            match self.read().transpose()? {
                Ok(event) if !self.wants(&event) => {}
                Ok(event) => {
                    self.given += 1;
                    return Some(Ok(event));
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn event_of(row: u64, record: &ByteRecord) -> Result<Event, String> {
    let customer = field(record, 1)?;
    let invoice = field(record, 2)?;
    let sku = field(record, 3)?;
    let quantity = field(record, 5)?;
    let cart = if customer.is_empty() { invoice } else { customer };
    match cart {
        "" => return Err("neither `customer` nor `invoice` is given".to_owned()),
        "." | ".." => return Err(format!("`{cart}` can't name a cart: no URL can carry it")),
        _ => {}
    }
    if sku.is_empty() {
        return Err("`item` is empty".to_owned());
    }
    let quantity = quantity
        .parse()
        .map_err(|_| format!("`quantity` has to be a whole number of at most 64 bits, found `{quantity}`"))?;
    Ok(Event { row, cart: cart.to_owned(), sku: sku.to_owned(), quantity })
}

/// A field as text. Only the four that matter are looked at: a description in another encoding does no harm.
fn field(record: &ByteRecord, column: usize) -> Result<&str, String> {
    let bytes = record.get(column).unwrap_or_default();
    std::str::from_utf8(bytes).map_err(|_| format!("`{}` is not UTF-8", HEADER[column]))
}

#[cfg(test)]
mod tests;
