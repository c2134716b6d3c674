//! From bytes to the text of a URL, and nothing lost on the way.
//!
//! `/v1/buckets/{b}/keys/{k}` takes any octets: `a/b` is one key and travels as `a%2Fb`, a zero byte as `%00`, a plus
//! as `%2B` (a plus that is sent bare is a plus too, but some proxies think otherwise). Only the unreserved characters
//! of RFC 3986 stay as they are, so that no parser between here and the node finds anything to interpret.
//!
//! `.` and `..` are segments that URL parsers resolve. They are sent as `%2E` and `%2E%2E`; a transport whose library
//! resolves even these must refuse the request (see `transport`), because `DELETE …/keys/..` would mean the bucket.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// Everything but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path and query of a request, built segment by segment.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    text: String,
    has_query: bool,
}

impl Target {
    /// Starts at a fixed path such as `/v1/buckets`.
    pub(crate) fn at(fixed: &str) -> Self {
        Self { text: fixed.to_owned(), has_query: false }
    }

    /// Appends one segment that is part of the API and needs no escaping.
    pub(crate) fn then(mut self, fixed: &str) -> Self {
        self.text.push('/');
        self.text.push_str(fixed);
        self
    }

    /// Appends one segment of arbitrary bytes.
    pub(crate) fn segment(mut self, bytes: &[u8]) -> Self {
        self.text.push('/');
        match bytes {
            b"." => self.text.push_str("%2E"),
            b".." => self.text.push_str("%2E%2E"),
            _ => self.text.push_str(&encode(bytes)),
        }
        self
    }

    /// Appends a query parameter of arbitrary bytes.
    pub(crate) fn query(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.text.push(if self.has_query { '&' } else { '?' });
        self.has_query = true;
        self.text.push_str(name);
        self.text.push('=');
        self.text.push_str(&encode(value.as_ref()));
        self
    }

    /// Appends a query parameter when there is one.
    pub(crate) fn query_if<V: ToString>(self, name: &str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.query(name, value.to_string()),
            None => self,
        }
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, ESCAPED).to_string()
}

/// Brings the URL of a node into the form that targets are appended to, or says what is wrong with it.
pub(crate) fn base_url(url: &str) -> Result<String, String> {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    if scheme == "https" {
        return Err(format!("{url}: this build speaks http only"));
    }
    if scheme != "http" {
        return Err(format!("{url}: a URL starts with http://"));
    }
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() || rest.contains(['?', '#', ' ']) {
        return Err(format!("{url}: a URL looks like http://127.0.0.1:8098"));
    }
    Ok(format!("http://{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_come_back_as_they_were(bucket: Vec<u8>, key: Vec<u8>, prefix: Vec<u8>) {
            let text = Target::at("/v1/buckets")
                .segment(&bucket).then("keys").segment(&key).query("prefix", &prefix).into_text();
            let (path, query) = text.split_once('?').unwrap();
            let segments: Vec<&str> = path.split('/').collect();
            prop_assert_eq!(segments.len(), 6, "{}", path);
            prop_assert_eq!(percent_decode_str(segments[3]).collect::<Vec<u8>>(), bucket);
            prop_assert_eq!(percent_decode_str(segments[5]).collect::<Vec<u8>>(), key);
            let value = query.strip_prefix("prefix=").unwrap();
            prop_assert_eq!(percent_decode_str(value).collect::<Vec<u8>>(), prefix);
        }

        #[test]
        fn only_unreserved_characters_and_escapes_are_sent(bytes: Vec<u8>) {
            let text = Target::at("").segment(&bytes).into_text();
            prop_assert!(text[1..].bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)), "{}", text);
        }
    }

    #[test]
    fn dots_alone_are_never_sent_as_dots() {
        assert_eq!(
            Target::at("").segment(b"..").segment(b".").segment(b"...").into_text(),
            "/%2E%2E/%2E/..."
        );
    }

    #[test]
    fn a_base_url_is_tidied_or_refused() {
        assert_eq!(base_url("http://a:1/").unwrap(), "http://a:1");
        assert_eq!(base_url("localhost:8098").unwrap(), "http://localhost:8098");
        for wrong in ["https://a", "ftp://a", "", "http://", "http://a?b"] {
            assert!(base_url(wrong).is_err(), "{wrong} was taken");
        }
    }
}
