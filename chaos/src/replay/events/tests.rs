//! Rows in, events out; and every kind of file that is refused, with what the refusal names.

use std::io::Write;

use super::*;

const HEAD: &str = "time,customer,invoice,item,description,quantity,unit_price\n";

fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn events(rows: &str, part: Part) -> Vec<Event> {
    let (_dir, path) = file("events.csv", format!("{HEAD}{rows}").as_bytes());
    Events::open(&path, part).unwrap().collect::<Result<_, _>>().unwrap()
}

fn refusal(rows: &[u8]) -> String {
    let (_dir, path) = file("events.csv", &[HEAD.as_bytes(), rows].concat());
    Events::count(&path, Part::default()).unwrap_err().to_string()
}

fn event(row: u64, cart: &str, sku: &str, quantity: i64) -> Event {
    Event { row, cart: cart.to_owned(), sku: sku.to_owned(), quantity }
}

const ROWS: &str = "2010-12-01T08:26:00,17850,536365,85123A,\"LANTERN, 7\"\"\",6,2.55\n\
                    2010-12-01T11:52:00,,536414,22139,,56,0.0\n\
                    2010-12-02T09:41:00,17850,C536379,85123A,HOLDER,-1,2.55\n";

#[test]
fn a_row_without_a_customer_is_a_guest_keyed_by_the_invoice_and_a_return_is_negative() {
    let expected =
        [event(1, "17850", "85123A", 6), event(2, "536414", "22139", 56), event(3, "17850", "85123A", -1)];
    assert_eq!(events(ROWS, Part::default()), expected);
}

#[test]
fn a_gzipped_file_holds_the_same_events() {
    let mut zip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zip.write_all(format!("{HEAD}{ROWS}").as_bytes()).unwrap();
    let zipped = zip.finish().unwrap();
    let (_dir, path) = file("events.csv.gz", &zipped);
    let all: Vec<Event> = Events::open(&path, Part::default()).unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(all, events(ROWS, Part::default()));

    let (_dir, path) = file("cut.csv.gz", &zipped[..zipped.len() - 20]);
    let error = Events::count(&path, Part::default()).unwrap_err().to_string();
    assert!(error.contains("cut.csv.gz"), "{error}");
}

#[test]
fn a_part_is_the_first_events_or_the_events_of_the_first_carts() {
    let first = Part { events: Some(2), carts: None };
    assert_eq!(events(ROWS, first).iter().map(|event| event.row).collect::<Vec<_>>(), [1, 2]);
    let one_cart = Part { events: None, carts: Some(1) };
    assert_eq!(events(ROWS, one_cart).iter().map(|event| event.row).collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_description_in_another_encoding_does_no_harm() {
    let (_dir, path) = file("e.csv", &[HEAD.as_bytes(), b"t,1,2,A,caf\xe9,1,1\n"].concat());
    assert_eq!(Events::count(&path, Part::default()).unwrap(), 1);
}

#[test]
fn a_bad_row_is_named_by_its_line() {
    let good = "t,1,2,A,d,1,1\n";
    for (row, why) in [
        ("t,1,2,A,d,one,1\n", "`quantity` has to be a whole number"),
        ("t,1,2,A,d,1.5,1\n", "found `1.5`"),
        ("t,1,2,A,d,9223372036854775808,1\n", "at most 64 bits"),
        ("t,1,2,,d,1,1\n", "`item` is empty"),
        ("t,,,A,d,1,1\n", "neither `customer` nor `invoice`"),
        ("t,..,2,A,d,1,1\n", "`..` can't name a cart"),
        ("t,1,2,A,d,1\n", "6 fields"),
    ] {
        let error = refusal(format!("{good}{row}{good}").as_bytes());
        assert!(error.contains("line 3"), "{error}");
        assert!(error.contains(why), "{error}");
    }
    let error = refusal(b"t,1,2,\xff,d,1,1\n");
    assert!(error.contains("line 2: `item` is not UTF-8"), "{error}");
}

#[test]
fn a_wrong_header_and_a_missing_file_are_named() {
    let (_dir, path) = file("h.csv", b"time,customer\n1,2\n");
    let error = Events::count(&path, Part::default()).unwrap_err().to_string();
    assert!(error.contains("found `time,customer`"), "{error}");
    let (_dir, path) = file("empty.csv", b"");
    assert!(matches!(Events::count(&path, Part::default()), Err(BadFile::Header { .. })));
    let error = Events::count(Path::new("/nowhere.csv"), Part::default()).unwrap_err().to_string();
    assert!(error.contains("cannot read /nowhere.csv"), "{error}");
}

#[test]
fn the_extract_has_customers_guests_and_returns() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/online-retail-extract.csv");
    let all: Vec<Event> = Events::open(&path, Part::default()).unwrap().collect::<Result<_, _>>().unwrap();
    assert!(all.len() >= 300);
    assert!(all.iter().any(|event| event.cart.len() == 5), "customers have five digits");
    assert!(all.iter().any(|event| event.cart.len() == 6), "guests go by invoices of six");
    assert!(all.iter().any(|event| event.quantity < 0));
}
