//! The query, taken strictly: what is not known, or said twice, is refused and not ignored.
//!
//! `?w=2&timeuot_ms=50` must not write with the default time-out: a misspelt parameter is a `400` that names it and
//! lists what is allowed. Names and values are percent-decoded once; `+` is a plus sign, as everywhere in this API.
//! A request without a query, which is most of them, allocates nothing; with one, a value is borrowed unless
//! something in it is escaped.

use super::path::decode;
use super::problem::Problem;
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// The most parameters in one query; no route has as many.
const PARAMS_MAX: usize = 32;

/// A parsed query.
#[derive(Debug, Default)]
pub struct Params<'a> {
    pairs: Vec<(&'static str, Cow<'a, [u8]>)>,
}

/// How many replicas: a number or a word, before it is known how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One replica.
    One,
    /// A majority.
    Quorum,
    /// All of them.
    All,
    /// So many.
    Count(u32),
}

impl<'a> Params<'a> {
    /// Parses a query; every name must be `allowed`, and stand there once.
    pub fn parse(query: Option<&'a str>, allowed: &[&'static str]) -> Result<Params<'a>, Problem> {
        let mut params = Params::default();
        let Some(query) = query else { return Ok(params) };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decode(name)?;
            let Some(known) = allowed.iter().find(|known| known.as_bytes() == &*name) else {
                return Err(unknown(&name, allowed));
            };
            if params.raw(known).is_some() || params.pairs.len() == PARAMS_MAX {
                return Err(Problem::parameter(known, "it twice", "once"));
            }
            params.pairs.push((known, decode(value)?));
        }
        Ok(params)
    }

    fn raw(&self, name: &str) -> Option<&[u8]> {
        self.pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }

    /// Any octets, as keys are.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.raw(name)
    }

    /// Text.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Problem> {
        self.read(name, "text in UTF-8", Some)
    }

    /// A number within a range.
    pub fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let allowed = || format!("an integer from {} to {}", range.start(), range.end());
        self.read_with(name, allowed, |text| digits(text).filter(|n| range.contains(n)))
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Problem> {
        self.read(name, "true or false", |text| match text {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        })
    }

    /// A count of replicas, from `min` on; whether there are so many is checked where the bucket is known.
    pub fn level(&self, name: &str, min: u32) -> Result<Option<Level>, Problem> {
        self.read_with(
            name,
            || format!("an integer from {min} to n, or one, quorum, all"),
            |text| Level::parse(text).filter(|level| !matches!(level, Level::Count(n) if *n < min)),
        )
    }

    /// One of some words; the answer is the word's place in the list.
    pub fn word(&self, name: &str, words: &[&str]) -> Result<Option<usize>, Problem> {
        self.read_with(name, || words.join(", "), |text| words.iter().position(|word| *word == text))
    }

    fn read<'s, T>(
        &'s self,
        name: &str,
        allowed: &str,
        parse: impl FnOnce(&'s str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        self.read_with(name, || allowed.to_owned(), parse)
    }

    fn read_with<'s, T>(
        &'s self,
        name: &str,
        allowed: impl FnOnce() -> String,
        parse: impl FnOnce(&'s str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        match std::str::from_utf8(raw).ok().and_then(parse) {
            Some(value) => Ok(Some(value)),
            None => Err(Problem::parameter(name, &shown(raw), &allowed())),
        }
    }
}

impl Level {
    /// Reads a word or a number.
    pub fn parse(text: &str) -> Option<Level> {
        match text {
            "one" => Some(Level::One),
            "quorum" => Some(Level::Quorum),
            "all" => Some(Level::All),
            _ => digits(text).and_then(|n| u32::try_from(n).ok()).map(Level::Count),
        }
    }
}

/// Digits and nothing else: `str::parse` would take a sign.
pub(super) fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What was found, cut short: an answer need not repeat kilobytes.
fn shown(raw: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 64;
    String::from_utf8_lossy(raw.get(..SHOWN_BYTES_MAX).unwrap_or(raw)).into_owned()
}

fn unknown(name: &[u8], allowed: &[&str]) -> Problem {
    let allowed = if allowed.is_empty() { "no parameters".to_owned() } else { allowed.join(", ") };
    Problem::parameter(&shown(name), "an unknown parameter", &allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::problem::Code;

    const ALLOWED: &[&str] = &["r", "pr", "sloppy", "timeout_ms", "prefix", "return"];

    fn parse(query: &str) -> Result<Params<'_>, Problem> {
        Params::parse(Some(query), ALLOWED)
    }

    fn refused<T>(result: Result<T, Problem>) -> String {
        let problem = result.err().expect("it must be refused");
        assert_eq!(problem.code(), Code::InvalidParameter);
        problem.detail().to_owned()
    }

    #[test]
    fn a_misspelt_parameter_is_named() {
        let detail = refused(parse("r=1&timeuot_ms=5"));
        assert!(detail.starts_with("timeuot_ms: "), "{detail}");
        assert!(detail.contains("timeout_ms"), "{detail}");
        assert!(refused(Params::parse(Some("x"), &[])).contains("no parameters"));
    }

    #[test]
    fn a_repeated_parameter_is_refused_even_when_one_is_escaped() {
        assert!(refused(parse("r=1&r=1")).starts_with("r: "));
        assert!(refused(parse("r=1&%72=1")).starts_with("r: "));
    }

    #[test]
    fn values_are_decoded_once_and_a_plus_is_a_plus() {
        let params = parse("prefix=a+b%2Bc%2520%00%ff").unwrap();
        assert_eq!(params.bytes("prefix"), Some(&b"a+b+c%20\0\xff"[..]));
        assert!(refused(params.text("prefix")).starts_with("prefix: "));
        refused(parse("prefix=%z1"));
        refused(parse("prefix=%1"));
    }

    #[test]
    fn an_unescaped_value_is_borrowed() {
        let params = parse("prefix=plain").unwrap();
        assert!(matches!(params.pairs[0].1, Cow::Borrowed(_)));
    }

    #[test]
    fn levels_are_numbers_or_words() {
        for (text, level) in [
            ("1", Some(Level::Count(1))),
            ("9", Some(Level::Count(9))),
            ("one", Some(Level::One)),
            ("quorum", Some(Level::Quorum)),
            ("all", Some(Level::All)),
            ("0", None),
            ("-1", None),
            ("+1", None),
            ("", None),
            ("most", None),
            ("99999999999999999999", None),
        ] {
            let query = format!("r={text}");
            let found = parse(&query).unwrap().level("r", 1);
            assert_eq!(found.ok().flatten(), level, "{text}");
        }
        assert_eq!(parse("pr=0").unwrap().level("pr", 0).unwrap(), Some(Level::Count(0)));
        assert_eq!(parse("").unwrap().level("r", 1).unwrap(), None);
    }

    #[test]
    fn numbers_flags_and_words_have_their_ranges() {
        let params = parse("timeout_ms=50&sloppy=false&return=versions").unwrap();
        assert_eq!(params.number("timeout_ms", 1..=60_000).unwrap(), Some(50));
        assert!(refused(params.number("timeout_ms", 1..=49)).contains("1 to 49"));
        assert_eq!(params.flag("sloppy").unwrap(), Some(false));
        assert!(refused(parse("sloppy").unwrap().flag("sloppy")).contains("true or false"));
        assert_eq!(params.word("return", &["none", "versions"]).unwrap(), Some(1));
        refused(params.word("return", &["none"]));
    }
}
