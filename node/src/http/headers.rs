//! The request's headers that mean something here, each parsed once and strictly.
//!
//! A header that can't be understood is refused: a TTL that was meant and not kept, or a condition that was ignored,
//! would lose data in silence. The one lenient place is `Accept`, where HTTP asks for it: something is sent unless
//! the client ruled out everything. Whatever is stored from here is bounded, because it is repeated to every reader.

use super::params::digits;
use super::problem::{Code, Outcome, Problem, Retry};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};

/// The prefix of user metadata, lower case as HTTP libraries keep names.
pub const META_PREFIX: &str = "cartwheel-meta-";
/// The most metadata headers of one value.
pub const META_COUNT_MAX: usize = 64;
/// Names and values of one value's metadata together: it is read with every get, so it stays far below the value.
pub const META_BYTES_MAX: usize = 8 * 1024;
/// The longest content type.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// The longest time to live: a hundred years, so that no sum with the calendar overflows.
pub const TTL_SECONDS_MAX: u64 = 100 * 365 * 86_400;
/// The most entity tags in one condition.
const TAGS_MAX: usize = 64;
/// The media type of the versions envelope.
pub const VERSIONS_JSON: &str = "application/vnd.cartwheel.versions+json";

/// `Cartwheel-TTL` in seconds.
pub fn ttl_seconds(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    const NAME: &str = "cartwheel-ttl";
    let Some(text) = one(headers, NAME)? else { return Ok(None) };
    match digits(text).filter(|seconds| (1..=TTL_SECONDS_MAX).contains(seconds)) {
        Some(seconds) => Ok(Some(seconds)),
        None => {
            Err(Problem::parameter(NAME, text, &format!("an integer from 1 to {TTL_SECONDS_MAX} seconds")))
        }
    }
}

/// User metadata: names without the prefix, in lower case and sorted, so that equal sets are stored equally.
pub fn meta(headers: &HeaderMap) -> Result<Vec<(String, HeaderValue)>, Problem> {
    let mut all: Vec<(String, HeaderValue)> = Vec::new();
    let mut size = 0;
    for (name, value) in headers {
        let Some(short) = name.as_str().strip_prefix(META_PREFIX) else { continue };
        if short.is_empty() || value.to_str().is_err() {
            return Err(Problem::parameter(
                name.as_str(),
                "this",
                "a name after the prefix, a value of visible ascii",
            ));
        }
        if all.iter().any(|(known, _)| known == short) {
            return Err(Problem::parameter(name.as_str(), "it twice", "once"));
        }
        size += short.len() + value.len();
        if all.len() == META_COUNT_MAX || size > META_BYTES_MAX {
            let detail = format!("metadata has at most {META_COUNT_MAX} headers and {META_BYTES_MAX} bytes");
            return Err(Problem::new(Code::HeadersTooLarge, detail)
                .outcome(Outcome::NotApplied)
                .retry(Retry::No));
        }
        all.push((short.to_owned(), value.clone()));
    }
    all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// `*`: any value at all.
    Any,
    /// One of these tags.
    Tags(Vec<Tag<'a>>),
}

/// An entity tag without its quotes.
#[derive(Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// `W/"…"`
    pub weak: bool,
    /// What stands between the quotes.
    pub opaque: &'a str,
}

impl<'a> Condition<'a> {
    /// Reads a condition, which may be spread over several headers of that name.
    pub fn parse(headers: &'a HeaderMap, name: &'static str) -> Result<Option<Condition<'a>>, Problem> {
        let mut values = headers.get_all(name).iter().peekable();
        if values.peek().is_none() {
            return Ok(None);
        }
        let mut tags = Vec::new();
        for value in values {
            let text = value.to_str().map_err(|_| bad_tag(name, "other than ascii"))?.trim();
            if text == "*" && headers.get_all(name).iter().count() == 1 {
                return Ok(Some(Condition::Any));
            }
            read_tags(name, text, &mut tags)?;
        }
        Ok(Some(Condition::Tags(tags)))
    }

    /// For `If-Match`: tags are compared strongly, a weak one matches nothing. `None`: there is no value.
    pub fn holds_strongly(&self, etag: Option<&str>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (Condition::Any, Some(_)) => true,
            (Condition::Tags(tags), Some(etag)) => tags.iter().any(|tag| !tag.weak && tag.opaque == etag),
        }
    }

    /// For `If-None-Match`, which is fulfilled when this is false: tags are compared weakly.
    pub fn holds_weakly(&self, etag: Option<&str>) -> bool {
        match (self, etag) {
            (_, None) => false,
            (Condition::Any, Some(_)) => true,
            (Condition::Tags(tags), Some(etag)) => tags.iter().any(|tag| tag.opaque == etag),
        }
    }
}

fn read_tags<'a>(name: &str, text: &'a str, tags: &mut Vec<Tag<'a>>) -> Result<(), Problem> {
    let mut rest = text;
    loop {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let tag = quoted.strip_prefix('"').and_then(|open| open.split_once('"'));
        let Some((opaque, after)) = tag else { return Err(bad_tag(name, text)) };
        if tags.len() == TAGS_MAX {
            return Err(bad_tag(name, "too many tags"));
        }
        tags.push(Tag { weak, opaque });
        rest = after.trim_start();
        if rest.is_empty() {
            return Ok(());
        }
        rest = rest.strip_prefix(',').ok_or_else(|| bad_tag(name, text))?.trim_start();
    }
}

fn bad_tag(name: &str, found: &str) -> Problem {
    let shown: String = found.chars().take(64).collect();
    Problem::parameter(
        name,
        &shown,
        &format!("* or at most {TAGS_MAX} quoted entity tags, separated by commas"),
    )
}

/// The form of the answer to a GET of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The value's own bytes; several values as the envelope.
    Raw,
    /// Always the envelope.
    Versions,
    /// Several values as one part each.
    Multipart,
}

/// Chooses the form by `Accept`. The two special ones must be named; every other media range, and every wildcard,
/// stands for the value itself, whose type is not known yet. `406` only when the client ruled out all three.
pub fn accept(headers: &HeaderMap) -> Result<Form, Problem> {
    let mut values = headers.get_all(ACCEPT).iter();
    match (values.next(), values.next()) {
        (None, _) => return Ok(Form::Raw),
        (Some(value), None) if value == "*/*" => return Ok(Form::Raw),
        _ => {}
    }
    let (mut versions, mut multipart, mut raw) = (0, 0, 0);
    for value in headers.get_all(ACCEPT) {
        let Ok(text) = value.to_str() else { continue };
        for range in text.split(',') {
            let (kind, q) = media_range(range);
            let place = if kind.eq_ignore_ascii_case(VERSIONS_JSON) {
                &mut versions
            } else if kind.eq_ignore_ascii_case("multipart/mixed") {
                &mut multipart
            } else {
                &mut raw
            };
            *place = q.max(*place);
        }
    }
    match versions.max(multipart).max(raw) {
        0 => Err(Problem::new(
            Code::NotAcceptable,
            format!("an object comes as it was stored, as {VERSIONS_JSON} or as multipart/mixed"),
        )),
        best if best == versions => Ok(Form::Versions),
        best if best == multipart => Ok(Form::Multipart),
        _ => Ok(Form::Raw),
    }
}

/// A media range and its weight in thousandths. A weight that can't be read counts as 1, as if it were not there.
fn media_range(range: &str) -> (&str, u16) {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    if kind.is_empty() {
        return (kind, 0);
    }
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    (kind, weight.and_then(thousandths).unwrap_or(1000))
}

fn thousandths(text: &str) -> Option<u16> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    if rest.len() > 3 || !rest.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let parts: u16 = format!("{rest:0<3}").parse().ok()?;
    match (whole, parts) {
        ("0", parts) => Some(parts),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

/// `415` unless the body comes as it is: a value is opaque, and storing it encoded would hand it out as another.
pub fn check_content_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    for value in headers.get_all(CONTENT_ENCODING) {
        if !value.as_bytes().eq_ignore_ascii_case(b"identity") {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "Content-Encoding: only identity is supported",
            )
            .outcome(Outcome::NotApplied)
            .retry(Retry::No));
        }
    }
    Ok(())
}

/// The content type to be stored, if there is one. It is not interpreted, only kept within its bounds.
pub fn content_type(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Problem> {
    let Some(text) = one(headers, "content-type")? else { return Ok(None) };
    if text.is_empty()
        || text.len() > CONTENT_TYPE_BYTES_MAX
        || !text.bytes().all(|b| (b' '..=b'~').contains(&b))
    {
        let shown: String = text.chars().take(64).collect();
        let allowed = format!("1 to {CONTENT_TYPE_BYTES_MAX} characters of visible ascii");
        return Err(Problem::parameter("content-type", &shown, &allowed));
    }
    Ok(headers.get(CONTENT_TYPE))
}

/// The value of a header that may stand there once.
pub fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::parameter(name, "it twice", "once"));
    }
    match value.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Problem::parameter(name, "other bytes", "visible ascii")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_ttl_is_a_positive_number_of_seconds() {
        assert_eq!(ttl_seconds(&map(&[])).unwrap(), None);
        assert_eq!(ttl_seconds(&map(&[("cartwheel-ttl", "60")])).unwrap(), Some(60));
        for bad in ["0", "-1", "1.5", "60s", "", "99999999999"] {
            let problem = ttl_seconds(&map(&[("cartwheel-ttl", bad)])).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidParameter, "{bad}");
        }
        assert!(ttl_seconds(&map(&[("cartwheel-ttl", "1"), ("cartwheel-ttl", "2")])).is_err());
    }

    #[test]
    fn metadata_is_sorted_and_bounded() {
        let found =
            meta(&map(&[("cartwheel-meta-b", "2"), ("accept", "x"), ("cartwheel-meta-a", "1")])).unwrap();
        let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(meta(&map(&[("cartwheel-meta-a", "1"), ("cartwheel-meta-a", "2")])).is_err());
        assert!(meta(&map(&[("cartwheel-meta-", "1")])).is_err());
        assert!(meta(&map(&[("cartwheel-meta-a", "\u{e9}")])).is_err());
        let large = "x".repeat(META_BYTES_MAX);
        let problem = meta(&map(&[("cartwheel-meta-a", &large)])).unwrap_err();
        assert_eq!(problem.code(), Code::HeadersTooLarge);
        let mut many = HeaderMap::new();
        for n in 0..=META_COUNT_MAX {
            let name = http::HeaderName::try_from(format!("cartwheel-meta-{n}")).unwrap();
            many.insert(name, HeaderValue::from_static("v"));
        }
        assert_eq!(meta(&many).unwrap_err().code(), Code::HeadersTooLarge);
        many.remove("cartwheel-meta-0");
        assert_eq!(meta(&many).unwrap().len(), META_COUNT_MAX);
    }

    #[test]
    fn conditions_are_lists_of_tags_or_a_star() {
        let headers =
            map(&[("if-match", r#""a", W/"b,c" ,"""#), ("if-match", r#""d""#), ("if-none-match", "*")]);
        let tags = Condition::parse(&headers, "if-match").unwrap().unwrap();
        assert!(
            tags.holds_strongly(Some("a")) && tags.holds_strongly(Some("")) && tags.holds_strongly(Some("d"))
        );
        assert!(!tags.holds_strongly(Some("b,c")) && tags.holds_weakly(Some("b,c")));
        assert!(!tags.holds_weakly(Some("e")) && !tags.holds_strongly(None));
        let any = Condition::parse(&headers, "if-none-match").unwrap().unwrap();
        assert!(any.holds_weakly(Some("x")) && !any.holds_weakly(None));
        assert!(Condition::parse(&headers, "if-range").unwrap().is_none());
        for bad in ["", "a", r#""a"#, r#""a" "b""#, r#""a","#, "*,*", r#"w/"a""#] {
            assert!(Condition::parse(&map(&[("if-match", bad)]), "if-match").is_err(), "{bad}");
        }
    }

    #[test]
    fn the_form_follows_accept() {
        let browser = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
        for (text, form) in [
            ("*/*", Some(Form::Raw)),
            (browser, Some(Form::Raw)),
            ("image/png", Some(Form::Raw)),
            ("application/json", Some(Form::Raw)),
            (VERSIONS_JSON, Some(Form::Versions)),
            ("Application/vnd.cartwheel.VERSIONS+json; q=1.000, */*", Some(Form::Versions)),
            ("application/vnd.cartwheel.versions+json;q=0.5, */*;q=0.9", Some(Form::Raw)),
            ("application/vnd.cartwheel.versions+json;q=0, text/plain", Some(Form::Raw)),
            ("multipart/mixed", Some(Form::Multipart)),
            ("multipart/mixed;q=0.2, application/vnd.cartwheel.versions+json;q=0.1", Some(Form::Multipart)),
            ("multipart/mixed, */*;q=0.1", Some(Form::Multipart)),
            ("*/*;q=0", None),
            ("multipart/mixed;q=0.000, */*; q=0", None),
        ] {
            assert_eq!(accept(&map(&[("accept", text)])).ok(), form, "{text}");
        }
        assert_eq!(accept(&map(&[])).unwrap(), Form::Raw);
        assert_eq!(accept(&map(&[("accept", "*/*;q=0")])).unwrap_err().code(), Code::NotAcceptable);
        assert_eq!(
            accept(&map(&[("accept", "text/plain;q=0"), ("accept", VERSIONS_JSON)])).unwrap(),
            Form::Versions
        );
    }

    #[test]
    fn only_the_identity_encoding_is_taken() {
        assert!(check_content_encoding(&map(&[])).is_ok());
        assert!(check_content_encoding(&map(&[("content-encoding", "Identity")])).is_ok());
        let problem = check_content_encoding(&map(&[("content-encoding", "gzip")])).unwrap_err();
        assert_eq!(problem.code(), Code::UnsupportedMediaType);
    }

    #[test]
    fn a_content_type_is_short_ascii() {
        let headers = map(&[("content-type", "text/plain; charset=utf-8")]);
        assert_eq!(content_type(&headers).unwrap().unwrap(), "text/plain; charset=utf-8");
        assert!(content_type(&map(&[])).unwrap().is_none());
        let longest = "x".repeat(CONTENT_TYPE_BYTES_MAX);
        assert!(content_type(&map(&[("content-type", &longest)])).is_ok());
        for bad in ["", "text/\u{e9}", "a\tb", &format!("{longest}x")] {
            assert!(content_type(&map(&[("content-type", bad)])).is_err(), "{bad}");
        }
    }
}
