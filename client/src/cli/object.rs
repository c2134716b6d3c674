//! `get`, `put`, `delete`, `ls`: objects from a shell.
//!
//! Names come as the bytes that the shell handed over, so a name that is not UTF-8 can be typed too. A context is
//! printed on stderr after every read and write; the next write takes it as `--context`.

use super::output::Terminal;
use super::{CONFLICT, DONE, Endpoint, NOT_FOUND};
use crate::bucket::{KeyPage, ListOptions};
use crate::call::Client;
use crate::error::Result;
use crate::object::{BASE64, Context, Object, Quorum, ReadOptions, Version, WriteOptions, Written};
use base64::Engine as _;
use clap::Args;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

const GET_EXAMPLES: &str = "\
Examples:
  cartwheel get shop greeting
  cartwheel get shop logo.png > logo.png
  cartwheel put shop greeting \"good morning\" --context \"$(cartwheel get shop greeting --context-only)\"

Several concurrent values are printed one after the other, and the exit code is 4.";

const PUT_EXAMPLES: &str = "\
Examples:
  cartwheel put shop greeting hello
  cartwheel put shop logo.png --content-type image/png < logo.png
  cartwheel put shop greeting hi --context TOKEN      supersedes what TOKEN has seen
  cartwheel put shop lock me --if-none-match --ttl 60
  cartwheel put shop greeting hello -w all";

const DELETE_EXAMPLES: &str = "\
Examples:
  cartwheel delete shop greeting
  cartwheel delete shop greeting --context TOKEN      removes only what TOKEN has seen";

const LS_EXAMPLES: &str = "\
Examples:
  cartwheel ls
  cartwheel ls shop --prefix user:
  cartwheel ls shop --json";

/// `cartwheel get`
#[derive(Debug, Args)]
#[command(after_help = GET_EXAMPLES)]
pub struct GetArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    #[command(flatten)]
    name: ObjectName,
    /// Replicas that must answer: a number, one, quorum or all
    #[arg(short = 'r', long = "r", value_name = "R")]
    r: Option<Quorum>,
    /// Primary owners that must answer
    #[arg(long)]
    pr: Option<Quorum>,
    /// Let fallbacks answer
    #[arg(long)]
    sloppy: Option<bool>,
    /// How long the node may take
    #[arg(long)]
    timeout_ms: Option<u64>,
    /// The answer must have seen at least this context
    #[arg(long, value_name = "TOKEN")]
    min_context: Option<String>,
    /// Print the context on stdout instead of the value
    #[arg(long)]
    context_only: bool,
}

/// `cartwheel put`
#[derive(Debug, Args)]
#[command(after_help = PUT_EXAMPLES)]
pub struct PutArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    #[command(flatten)]
    name: ObjectName,
    /// The value; read from stdin when it is not given
    value: Option<OsString>,
    /// What the value is
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Seconds until the value ends
    #[arg(long, value_name = "SECONDS")]
    ttl: Option<u64>,
    /// Kept with the value
    #[arg(long, value_name = "NAME=VALUE", value_parser = meta_pair)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    write: WriteArgs,
}

/// `cartwheel delete`
#[derive(Debug, Args)]
#[command(after_help = DELETE_EXAMPLES)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    #[command(flatten)]
    name: ObjectName,
    #[command(flatten)]
    write: WriteArgs,
}

/// `cartwheel ls`
#[derive(Debug, Args)]
#[command(after_help = LS_EXAMPLES)]
pub struct LsArgs {
    #[command(flatten)]
    pub(crate) endpoint: Endpoint,
    /// The bucket; all buckets are listed when it is not given
    bucket: Option<OsString>,
    /// Only names that start like this
    #[arg(long)]
    prefix: Option<OsString>,
    /// At most that many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Go on without the parts of the ring that can't be read
    #[arg(long)]
    partial: bool,
}

#[derive(Debug, Args)]
struct ObjectName {
    /// The bucket
    bucket: OsString,
    /// The key
    key: OsString,
}

#[derive(Debug, Args)]
struct WriteArgs {
    /// What you have read; without it the write is concurrent with whatever is there
    #[arg(long, value_name = "TOKEN")]
    context: Option<String>,
    /// Only if there is nothing
    #[arg(long)]
    if_none_match: bool,
    /// Only if this is the version that is there
    #[arg(long, value_name = "ETAG", conflicts_with = "if_none_match")]
    if_match: Option<String>,
    /// Replicas that must have taken it: a number, one, quorum or all
    #[arg(short = 'w', long = "w", value_name = "W")]
    w: Option<Quorum>,
    /// Replicas that must have it on disk
    #[arg(long)]
    dw: Option<Quorum>,
    /// Primary owners that must have taken it
    #[arg(long)]
    pw: Option<Quorum>,
    /// Let fallbacks take it
    #[arg(long)]
    sloppy: Option<bool>,
    /// How long the node may take
    #[arg(long)]
    timeout_ms: Option<u64>,
}

impl WriteArgs {
    fn options(self) -> WriteOptions {
        WriteOptions {
            context: self.context.map(Context),
            if_none_match: self.if_none_match,
            if_match: self.if_match,
            w: self.w,
            dw: self.dw,
            pw: self.pw,
            sloppy: self.sloppy,
            timeout_ms: self.timeout_ms,
            ..WriteOptions::default()
        }
    }
}

fn meta_pair(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it looks like NAME=VALUE")?;
    Ok((name.to_ascii_lowercase(), value.to_owned()))
}

pub(crate) async fn get(args: GetArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let options = ReadOptions {
        r: args.r,
        pr: args.pr,
        sloppy: args.sloppy,
        timeout_ms: args.timeout_ms,
        min_context: args.min_context.map(Context),
    };
    let (bucket, key) = (args.name.bucket.into_vec(), args.name.key.into_vec());
    let object = client.get(&bucket, &key, &options).await?;
    let code = match object.versions.as_slice() {
        [] => NOT_FOUND,
        [_] => DONE,
        _ => CONFLICT,
    };
    if args.context_only {
        if let Some(context) = &object.context {
            terminal.line(&context.0);
        }
        return Ok(code);
    }
    if terminal.json {
        terminal.document(&envelope(&bucket, &key, &object));
        return Ok(code);
    }
    match object.versions.as_slice() {
        [] => terminal.say(&format!("not found: {}/{}", shown(&bucket), shown(&key))),
        [version] => terminal.value(&version.value),
        versions => print_siblings(versions, terminal),
    }
    if let Some(context) = &object.context {
        terminal.say(&format!("context: {context}"));
    }
    if code == CONFLICT {
        terminal.say("hint: put one value with --context and the token above to settle it");
    }
    Ok(code)
}

pub(crate) async fn put(args: PutArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let value = match args.value {
        Some(value) => value.into_vec(),
        None => terminal.read_input()?,
    };
    let mut options = args.write.options();
    options.content_type = args.content_type;
    options.ttl_seconds = args.ttl;
    options.meta = args.meta.into_iter().collect();
    let written = client.put(args.name.bucket.into_vec(), args.name.key.into_vec(), value, &options).await?;
    print_written(&written, terminal);
    Ok(DONE)
}

pub(crate) async fn delete(args: DeleteArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let options = args.write.options();
    let written = client.delete(args.name.bucket.into_vec(), args.name.key.into_vec(), &options).await?;
    print_written(&written, terminal);
    Ok(DONE)
}

pub(crate) async fn ls(args: LsArgs, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    let bucket = args.bucket.map(OsString::into_vec);
    let name = if bucket.is_some() { "key" } else { "bucket" };
    let mut options = ListOptions { partial: args.partial, ..ListOptions::default() };
    options.prefix = args.prefix.map(OsString::into_vec);
    let mut left = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let mut documents = Vec::new();
    // Ends, because every page names a new cursor or none (see `Client::keys`).
    loop {
        options.limit = args.limit.map(|_| left as u32);
        let page = match &bucket {
            Some(bucket) => client.keys(bucket, &options).await?,
            None => client.buckets(&options).await?,
        };
        let KeyPage { keys, cursor } = page;
        for key in keys.iter().take(left) {
            if terminal.json {
                documents.push(Value::Object(named(name, key)));
            } else {
                terminal.data(key);
                terminal.data(b"\n");
            }
        }
        left = left.saturating_sub(keys.len());
        if left == 0 || cursor.is_none() || terminal.is_closed() {
            break;
        }
        options.cursor = cursor;
    }
    if terminal.json {
        terminal.document(&json!({ "items": documents }));
    }
    Ok(DONE)
}

/// The receipt and the context of a write; as JSON it is the data of the command.
pub(crate) fn print_written(written: &Written, terminal: &mut Terminal<'_>) {
    let Written { context, etag, siblings, receipt, .. } = written;
    if terminal.json {
        let document = json!({ "context": context, "etag": etag, "siblings": siblings, "write": receipt });
        return terminal.document(&document);
    }
    if let Some(receipt) = receipt {
        terminal.say(&format!("written: {receipt}"));
    }
    if let Some(context) = context {
        terminal.say(&format!("context: {context}"));
    }
    if let Some(siblings @ 2..) = siblings {
        terminal
            .say(&format!("hint: there are {siblings} concurrent values now; see them with: cartwheel get"));
    }
}

fn print_siblings(versions: &[Version], terminal: &mut Terminal<'_>) {
    for (index, version) in versions.iter().enumerate() {
        let modified = version.modified.as_deref().unwrap_or("at an unknown time");
        let what = if version.deleted { "removed" } else { version.content_type.as_str() };
        terminal.line(&format!("--- {} of {}: {what}, {modified}", index + 1, versions.len()));
        if !version.deleted {
            terminal.data(&version.value);
            if !version.value.ends_with(b"\n") {
                terminal.data(b"\n");
            }
        }
    }
}

/// The same document as the server's, whichever form the answer had.
fn envelope(bucket: &[u8], key: &[u8], object: &Object) -> Value {
    let mut document = named("bucket", bucket);
    document.append(&mut named("key", key));
    document.insert("context".into(), json!(object.context));
    document.insert("versions".into(), object.versions.iter().map(version_document).collect());
    Value::Object(document)
}

fn version_document(version: &Version) -> Value {
    let mut document = Map::new();
    let is_json =
        version.content_type.split(';').next().is_some_and(|media| media.trim() == "application/json");
    match serde_json::from_slice::<Value>(&version.value) {
        _ if version.deleted => None,
        Ok(value) if is_json => document.insert("value".into(), value),
        _ => document.insert("value_base64".into(), BASE64.encode(&version.value).into()),
    };
    document.insert("content_type".into(), version.content_type.clone().into());
    document.insert("deleted".into(), version.deleted.into());
    let texts =
        [("modified", &version.modified), ("expires_at", &version.expires_at), ("etag", &version.etag)];
    for (name, text) in texts {
        if let Some(text) = text {
            document.insert(name.into(), text.clone().into());
        }
    }
    document.insert("meta".into(), json!(version.meta));
    Value::Object(document)
}

fn named(name: &str, bytes: &[u8]) -> Map<String, Value> {
    let mut document = Map::new();
    match std::str::from_utf8(bytes) {
        Ok(text) => document.insert(name.into(), text.into()),
        Err(_) => document.insert(format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
    document
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
