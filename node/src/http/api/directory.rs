//! `GET /`: what there is, as JSON for programs and as a page for browsers.

use super::reply;
use crate::http::body::ReplyBody;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, Response};
use serde_json::{Map, Value, json};

/// Every path with its methods and what it is for.
const PATHS: &[(&str, &str, &str)] = &[
    ("/v1/buckets/{bucket}/keys/{key}", "GET, HEAD, PUT, DELETE", "one object"),
    ("/v1/buckets/{bucket}/keys", "GET, POST", "the keys of a bucket; an object under a new key"),
    ("/v1/buckets", "GET", "the buckets"),
    ("/v1/buckets/{bucket}", "GET, PUT, PATCH, DELETE", "the settings of a bucket"),
    ("/v1/carts/{bucket}/{id}", "GET, DELETE", "a cart"),
    ("/v1/carts/{bucket}/{id}/items", "POST", "add to a cart"),
    ("/v1/carts/{bucket}/{id}/items/{sku}", "PUT, DELETE", "set or remove an item"),
    ("/v1/carts/{bucket}/{id}/merge", "POST", "move another cart into this one"),
    ("/v1/cluster", "GET", "the members"),
    ("/v1/ring", "GET", "who owns which partition"),
    ("/v1/explain?bucket=&key=", "GET", "one key on every replica"),
    ("/v1/hints", "GET", "what waits here for other nodes"),
    ("/v1/aae", "GET", "how far replicas were seen to agree"),
    ("/v1/set-aside", "GET", "old copies that were set aside here"),
    ("/v1/repair", "POST", "compare replicas now"),
    ("/v1/repair/{id}", "GET", "how far that is"),
    ("/health/live", "GET", "whether this node answers"),
    ("/health/ready", "GET", "whether it can serve"),
    ("/metrics", "GET", "numbers for Prometheus"),
    ("/ping", "GET", "OK"),
];

/// The directory, in the form that the client takes.
pub(super) fn answer(headers: &HeaderMap) -> Response<ReplyBody> {
    if wants_html(headers) {
        return reply::typed(page().into_bytes(), "text/html; charset=utf-8");
    }
    let entry = |(path, methods, what): &(&str, &str, &str)| {
        let methods: Vec<&str> = methods.split(", ").collect();
        ((*path).to_owned(), json!({ "methods": methods, "what": what }))
    };
    let paths: Map<String, Value> = PATHS.iter().map(entry).collect();
    reply::value(&json!({ "name": "cartwheel", "version": env!("CARGO_PKG_VERSION"), "paths": paths }))
}

/// Browsers name HTML; programs, and curl with its `*/*`, do not.
fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().filter_map(|value| HeaderValue::to_str(value).ok()).any(|text| {
        text.split(',').any(|range| {
            range.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html"))
        })
    })
}

fn page() -> String {
    let mut rows = String::new();
    for (path, methods, what) in PATHS {
        let shown = if *methods == "GET" && !path.contains('{') && !path.contains('?') {
            format!("<a href=\"{path}\">{path}</a>")
        } else {
            (*path).to_owned()
        };
        rows.push_str(&format!("<tr><td><code>{shown}</code><td>{methods}<td>{what}\n"));
    }
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Cartwheel</title>\n\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60em;margin:3em auto;padding:0 1em}}\
         td{{padding:.2em 1em .2em 0}}</style>\n\
         <h1>Cartwheel {}</h1><p>This node speaks HTTP and JSON.\n<table>\n{rows}</table></html>\n",
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::CONTENT_TYPE;

    fn content_type(accept: &'static str) -> String {
        let headers = [(ACCEPT, HeaderValue::from_static(accept))].into_iter().collect();
        answer(&headers).headers()[CONTENT_TYPE].to_str().unwrap().to_owned()
    }

    #[test]
    fn browsers_get_a_page_and_programs_get_json() {
        assert_eq!(content_type("text/html,application/xhtml+xml;q=0.9"), "text/html; charset=utf-8");
        assert_eq!(content_type("*/*"), "application/json");
        assert!(page().contains("<a href=\"/v1/cluster\">"));
    }
}
