//! A value as bytes, so that every byte can be judged.
//!
//! ```text
//!   orders/k1/c2/7 20 +c2:4|c0:1-3;c2:1-4 ⏎ q8fk…20 bytes that follow from the name
//!   name           │  the workload's words
//!                  how many bytes follow
//! ```
//!
//! The bytes behind the first line follow from the name alone, so a value of any size costs the history one line, and a
//! flipped bit, a missing end or the end of another value are all seen when it is read.

use crate::history::Value;

/// What is shown of bytes that are no value.
const EXCERPT_BYTES: usize = 60;
/// FNV-1a's start and its factor: enough to tell names apart, and the same on every machine.
const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_FACTOR: u64 = 0x0100_0000_01b3;

/// The bytes of a value, of about so many bytes, or more if its words need more.
pub(super) fn write(value: &Value, bytes: usize) -> Vec<u8> {
    let spare = bytes.saturating_sub(value.id.len() + value.text.len() + 6);
    let mut out = format!("{} {spare} {}\n", value.id, value.text).into_bytes();
    out.extend(filling(&value.id).take(spare));
    out
}

/// The value of these bytes. What is no value gets a name that no value has.
pub(super) fn read(bytes: &[u8]) -> Value {
    parse(bytes).unwrap_or_else(|| {
        let excerpt = &bytes[..bytes.len().min(EXCERPT_BYTES)];
        let text = format!("{} bytes: {:?}", bytes.len(), String::from_utf8_lossy(excerpt));
        Value { id: "?".into(), text }
    })
}

fn parse(bytes: &[u8]) -> Option<Value> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
    let mut parts = line.splitn(3, ' ');
    let (id, spare, text) = (parts.next()?, parts.next()?, parts.next()?);
    let whole = spare.parse() == Ok(rest.len()) && filling(id).take(rest.len()).eq(rest.iter().copied());
    whole.then(|| Value { id: id.to_owned(), text: text.to_owned() })
}

/// Letters that follow from a name.
fn filling(id: &str) -> impl Iterator<Item = u8> {
    let mut state =
        id.bytes().fold(FNV_START, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_FACTOR));
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + ((state >> 33) % 26) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value() -> Value {
        Value { id: "b/k/c1/7".into(), text: "+c1:2|c1:1-2 and more".into() }
    }

    #[test]
    fn a_value_comes_back_whatever_its_size() {
        for bytes in [0, 40, 4096] {
            let written = write(&value(), bytes);
            assert!(written.len() + 3 >= bytes, "{} of {bytes}", written.len());
            assert_eq!(read(&written), value());
        }
    }

    #[test]
    fn no_byte_can_change_unseen() {
        let written = write(&value(), 100);
        for at in 0..written.len() {
            for flip in [1, 0x80] {
                let mut bytes = written.clone();
                bytes[at] ^= flip;
                assert_ne!(read(&bytes), value(), "byte {at} was changed");
            }
            assert_ne!(read(&written[..at]), value(), "cut off at {at}");
        }
        let longer = [written.as_slice(), b"x"].concat();
        assert_eq!(read(&longer).id, "?");
    }
}
