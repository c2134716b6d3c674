//! From a raw path to a route: own, because keys are octets.
//!
//! ```text
//!   /v1/buckets/{b}/keys/{k}      split at '/' first, decode each segment once, into bytes
//!   /v1/buckets/a%2Fb/keys/%00    bucket "a/b", key "\0"
//! ```
//!
//! axum's router would want UTF-8 and allocates a map of parameters; here a path is matched in place, and a segment
//! is borrowed unless something in it is escaped. Only variable segments are decoded: `/v1/%62uckets` is no route.
//! An empty segment is an empty name, which the name's own check refuses with a reason.

use super::problem::{Code, Outcome, Problem, Retry};
use http::Method;
use ring::ids::NameError;
use std::borrow::Cow;

/// A percent-decoded segment.
pub type Segment<'a> = Cow<'a, [u8]>;

/// The most segments that any route has.
const SEGMENTS_MAX: usize = 7;

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "a route is described by the path beside it in `route`")]
pub enum Route<'a> {
    Object { bucket: Segment<'a>, key: Segment<'a> },
    ObjectUpdate { bucket: Segment<'a>, key: Segment<'a> },
    Keys { bucket: Segment<'a> },
    Batch { bucket: Segment<'a> },
    Watch { bucket: Segment<'a> },
    Buckets,
    Bucket { bucket: Segment<'a> },
    Cart { bucket: Segment<'a>, id: Segment<'a> },
    CartItems { bucket: Segment<'a>, id: Segment<'a> },
    CartItem { bucket: Segment<'a>, id: Segment<'a>, sku: Segment<'a> },
    CartMerge { bucket: Segment<'a>, id: Segment<'a> },
    Cluster,
    Plan,
    Commit,
    Ring,
    Transfers,
    Hints,
    Aae,
    SetAside,
    Explain,
    Repair,
    RepairJob { id: Segment<'a> },
    Faults,
    Live,
    Ready,
    Ping,
    Metrics,
    Root,
}

macro_rules! kinds {
    ($($kind:ident $name:literal $allow:literal;)*) => {
        /// A route without its names: what metrics are labelled with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "as in `Route`")]
        pub enum Kind { $($kind),* }

        impl Kind {
            /// All kinds; a kind's number is its place here.
            pub const ALL: &[Kind] = &[$(Kind::$kind),*];
            /// The label.
            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),* }
            }
            /// The methods that are allowed, as the header `Allow` says them.
            pub fn allow(self) -> &'static str {
                match self { $(Kind::$kind => $allow),* }
            }
        }
    };
}

kinds! {
    Object "object" "GET, HEAD, PUT, DELETE";
    ObjectUpdate "object_update" "POST";
    Keys "keys" "GET, HEAD, POST";
    Batch "batch" "POST";
    Watch "watch" "GET";
    Buckets "buckets" "GET, HEAD";
    Bucket "bucket" "GET, HEAD, PUT, PATCH, DELETE";
    Cart "cart" "GET, HEAD, DELETE";
    CartItems "cart_items" "POST";
    CartItem "cart_item" "PUT, DELETE";
    CartMerge "cart_merge" "POST";
    Cluster "cluster" "GET, HEAD";
    Plan "plan" "GET, HEAD, POST, DELETE";
    Commit "commit" "POST";
    Ring "ring" "GET, HEAD";
    Transfers "transfers" "GET, HEAD";
    Hints "hints" "GET, HEAD";
    Aae "aae" "GET, HEAD";
    SetAside "set_aside" "GET, HEAD";
    Explain "explain" "GET, HEAD";
    Repair "repair" "POST";
    RepairJob "repair_job" "GET, HEAD";
    Faults "faults" "GET, HEAD, POST, DELETE";
    Live "live" "GET, HEAD";
    Ready "ready" "GET, HEAD";
    Ping "ping" "GET, HEAD";
    Metrics "metrics" "GET, HEAD";
    Root "root" "GET, HEAD";
    Unknown "unknown" "";
}

/// Finds the route of a raw path (as `Uri::path` gives it): `404` when there is none, `400` for a bad escape.
pub fn route(path: &str) -> Result<Route<'_>, Problem> {
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    for segment in path.strip_prefix('/').ok_or_else(Problem::no_route)?.split('/') {
        *segments.get_mut(count).ok_or_else(Problem::no_route)? = segment;
        count += 1;
    }
    Ok(match &segments[..count] {
        ["v1", "buckets", b, "keys", k] => Route::Object { bucket: decode(b)?, key: decode(k)? },
        ["v1", "carts", b, id] => Route::Cart { bucket: decode(b)?, id: decode(id)? },
        ["v1", "carts", b, id, "items"] => Route::CartItems { bucket: decode(b)?, id: decode(id)? },
        ["v1", "carts", b, id, "items", sku] => {
            Route::CartItem { bucket: decode(b)?, id: decode(id)?, sku: decode(sku)? }
        }
        ["v1", "carts", b, id, "merge"] => Route::CartMerge { bucket: decode(b)?, id: decode(id)? },
        ["v1", "buckets", b, "keys", k, "update"] => {
            Route::ObjectUpdate { bucket: decode(b)?, key: decode(k)? }
        }
        ["v1", "buckets"] => Route::Buckets,
        ["v1", "buckets", b] => Route::Bucket { bucket: decode(b)? },
        ["v1", "buckets", b, "keys"] => Route::Keys { bucket: decode(b)? },
        ["v1", "buckets", b, "batch"] => Route::Batch { bucket: decode(b)? },
        ["v1", "buckets", b, "watch"] => Route::Watch { bucket: decode(b)? },
        ["v1", "cluster"] => Route::Cluster,
        ["v1", "cluster", "plan"] => Route::Plan,
        ["v1", "cluster", "commit"] => Route::Commit,
        ["v1", "ring"] => Route::Ring,
        ["v1", "transfers"] => Route::Transfers,
        ["v1", "hints"] => Route::Hints,
        ["v1", "aae"] => Route::Aae,
        ["v1", "set-aside"] => Route::SetAside,
        ["v1", "explain"] => Route::Explain,
        ["v1", "repair"] => Route::Repair,
        ["v1", "repair", id] => Route::RepairJob { id: decode(id)? },
        ["v1", "faults"] => Route::Faults,
        ["health", "live"] => Route::Live,
        ["health", "ready"] => Route::Ready,
        ["ping"] => Route::Ping,
        ["metrics"] => Route::Metrics,
        [""] => Route::Root,
        _ => return Err(Problem::no_route()),
    })
}

impl Route<'_> {
    /// The route without its names.
    pub fn kind(&self) -> Kind {
        match self {
            Route::Object { .. } => Kind::Object,
            Route::ObjectUpdate { .. } => Kind::ObjectUpdate,
            Route::Keys { .. } => Kind::Keys,
            Route::Batch { .. } => Kind::Batch,
            Route::Watch { .. } => Kind::Watch,
            Route::Buckets => Kind::Buckets,
            Route::Bucket { .. } => Kind::Bucket,
            Route::Cart { .. } => Kind::Cart,
            Route::CartItems { .. } => Kind::CartItems,
            Route::CartItem { .. } => Kind::CartItem,
            Route::CartMerge { .. } => Kind::CartMerge,
            Route::Cluster => Kind::Cluster,
            Route::Plan => Kind::Plan,
            Route::Commit => Kind::Commit,
            Route::Ring => Kind::Ring,
            Route::Transfers => Kind::Transfers,
            Route::Hints => Kind::Hints,
            Route::Aae => Kind::Aae,
            Route::SetAside => Kind::SetAside,
            Route::Explain => Kind::Explain,
            Route::Repair => Kind::Repair,
            Route::RepairJob { .. } => Kind::RepairJob,
            Route::Faults => Kind::Faults,
            Route::Live => Kind::Live,
            Route::Ready => Kind::Ready,
            Route::Ping => Kind::Ping,
            Route::Metrics => Kind::Metrics,
            Route::Root => Kind::Root,
        }
    }

    /// `405` with the header `Allow` unless the route takes this method.
    pub fn check_method(&self, method: &Method) -> Result<(), Problem> {
        let allow = self.kind().allow();
        if allow.split(", ").any(|allowed| allowed == method.as_str()) {
            Ok(())
        } else {
            Err(Problem::method_not_allowed(allow))
        }
    }
}

/// Percent-decodes once. `+` is a plus sign; an escape that is none is `400`.
pub fn decode(text: &str) -> Result<Segment<'_>, Problem> {
    let raw = text.as_bytes();
    if !raw.contains(&b'%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let &[high, low, ref after @ ..] = rest else { return Err(bad_escape(text)) };
        match (hex(high), hex(low)) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(bad_escape(text)),
        }
        rest = after;
    }
    Ok(Cow::Owned(bytes))
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|n| u8::try_from(n).ok())
}

fn bad_escape(text: &str) -> Problem {
    let shown: String = text.chars().take(64).collect();
    Problem::parameter("url", &shown, "'%' followed by two hexadecimal digits")
        .outcome(Outcome::NotApplied)
        .retry(Retry::No)
}

/// A bucket or key of a wrong length: `413 key_too_large`, otherwise `400`.
pub fn name_problem(error: NameError) -> Problem {
    let code = match error {
        NameError::KeyTooLarge(_) => Code::KeyTooLarge,
        NameError::Bucket(_) | NameError::KeyEmpty => Code::InvalidParameter,
    };
    Problem::new(code, error.to_string()).outcome(Outcome::NotApplied).retry(Retry::No)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object<'a>(bucket: &'a [u8], key: &'a [u8]) -> Route<'a> {
        Route::Object { bucket: Cow::Borrowed(bucket), key: Cow::Borrowed(key) }
    }

    #[test]
    fn a_segment_is_split_first_and_decoded_once() {
        for (path, bucket, key) in [
            ("/v1/buckets/b/keys/k", &b"b"[..], &b"k"[..]),
            ("/v1/buckets/a%2Fb/keys/%00", b"a/b", b"\0"),
            ("/v1/buckets/b/keys/%252F", b"b", b"%2F"),
            ("/v1/buckets/b/keys/a+b", b"b", b"a+b"),
            ("/v1/buckets/%ff/keys/%C3%a9", b"\xff", "é".as_bytes()),
            ("/v1/buckets/keys/keys/update", b"keys", b"update"),
            ("/v1/buckets/b/keys/..", b"b", b".."),
            ("/v1/buckets/b/keys/", b"b", b""),
        ] {
            assert_eq!(route(path).unwrap(), object(bucket, key), "{path}");
        }
    }

    #[test]
    fn nothing_is_allocated_when_nothing_is_escaped() {
        let Route::Object { bucket: Cow::Borrowed(_), key: Cow::Borrowed(_) } =
            route("/v1/buckets/b/keys/k").unwrap()
        else {
            panic!("both must be borrowed");
        };
    }

    #[test]
    fn a_bad_escape_is_refused() {
        for path in
            ["/v1/buckets/b/keys/%zz", "/v1/buckets/%/keys/k", "/v1/buckets/b/keys/k%4", "/v1/buckets/%+1"]
        {
            assert_eq!(route(path).unwrap_err().code(), Code::InvalidParameter, "{path}");
        }
    }

    #[test]
    fn what_is_no_route_is_not_found() {
        for path in [
            "",
            "*",
            "//",
            "/v1",
            "/v1/",
            "/v2/buckets",
            "/v1/%62uckets",
            "/v1/buckets/b/keys/a/b",
            "/a/b/c/d/e/f/g/h/i",
            "/ping/",
        ] {
            assert_eq!(route(path).unwrap_err().code(), Code::NotFound, "{path:?}");
        }
    }

    #[test]
    fn carts_and_the_plain_routes_are_found() {
        let Route::CartItem { bucket, id, sku } = route("/v1/carts/shop/7/items/85123A%20").unwrap() else {
            panic!("it names an item");
        };
        assert_eq!((&*bucket, &*id, &*sku), (&b"shop"[..], &b"7"[..], &b"85123A "[..]));
        for (path, kind) in [
            ("/", Kind::Root),
            ("/ping", Kind::Ping),
            ("/health/live", Kind::Live),
            ("/v1/buckets", Kind::Buckets),
            ("/v1/carts/b/id/merge", Kind::CartMerge),
            ("/v1/carts/b/id/items", Kind::CartItems),
            ("/v1/buckets/b/keys/k/update", Kind::ObjectUpdate),
            ("/v1/cluster/plan", Kind::Plan),
        ] {
            assert_eq!(route(path).unwrap().kind(), kind, "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_told_the_right_ones() {
        let route = route("/v1/buckets/b/keys/k").unwrap();
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
            assert!(route.check_method(&method).is_ok(), "{method}");
        }
        for method in [Method::POST, Method::PATCH, Method::from_bytes(b"GE").unwrap()] {
            let problem = route.check_method(&method).unwrap_err();
            assert_eq!(problem.code(), Code::MethodNotAllowed);
            assert!(problem.detail().contains("GET, HEAD, PUT, DELETE"));
        }
    }

    #[test]
    fn names_of_wrong_length_have_their_own_codes() {
        assert_eq!(name_problem(NameError::KeyEmpty).code(), Code::InvalidParameter);
        assert_eq!(name_problem(NameError::Bucket(0)).code(), Code::InvalidParameter);
        assert_eq!(name_problem(NameError::KeyTooLarge(1025)).code(), Code::KeyTooLarge);
    }
}
