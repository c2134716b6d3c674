//! The commands, as a shell sees them: what they print and the exit code.
//!
//! 0 done, 1 the server said no or could not, 2 wrong usage, 3 not found, 4 conflict.

use crate::support::{key_urls, put_blind};
use anyhow::{Context, Result, ensure};
use std::process::{Output, Stdio};
use std::time::Duration;
use tests::checks::Checks;
use tests::cluster::{Cluster, command, free_port};
use tokio::io::AsyncWriteExt;

const COMMAND_TIME_MAX: Duration = Duration::from_secs(30);

/// Runs a command against a node with this input and expects this exit code; returns what it printed.
pub(crate) async fn shell(url: &str, line: &[&str], input: &str, code: i32) -> Result<Vec<u8>> {
    let output = run(url, line, input).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.code() == Some(code),
        "`cartwheel {}` ended with {}, not {code}\nstdout: {printed}\nstderr: {errors}",
        line.join(" "),
        output.status
    );
    ensure!(!errors.contains("panicked"), "{errors}");
    ensure!(code == 0 || !errors.is_empty() || !printed.is_empty(), "{line:?} failed without a word");
    Ok(output.stdout)
}

async fn run(url: &str, line: &[&str], input: &str) -> Result<Output> {
    let mut command = command()?;
    command.args(line).env("CARTWHEEL_URL", url);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().context("stdin is a pipe")?;
    // A command that does not read its input may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = tokio::time::timeout(COMMAND_TIME_MAX, child.wait_with_output()).await;
    Ok(ended.with_context(|| format!("{line:?} still runs after {COMMAND_TIME_MAX:?}"))??)
}

#[tokio::test]
async fn commands_keep_the_contract() -> Result<()> {
    let cluster = Cluster::start(3).await?;
    let c = &cluster;
    let mut checks = Checks::new();
    checks.run("what was put is got, from an argument and from stdin", put_and_get(c)).await;
    checks.run("what is not there is 3", nothing_is_3(c)).await;
    checks.run("siblings are 4", siblings_are_4(c)).await;
    checks.run("wrong usage is 2", wrong_usage_is_2(c)).await;
    checks.run("a server that is not there is 1", nobody_there_is_1()).await;
    checks.run("keys are listed", keys_are_listed(c)).await;
    checks.run("a cart is filled and emptied", carts_from_a_shell(c)).await;
    checks.run("a key is explained", a_key_is_explained(c)).await;
    checks.run("the url can be given as an option", the_url_as_an_option(c)).await;
    checks.run("help and version are printed", help_and_version(c)).await;
    checks.finish(&[&cluster])
}

async fn put_and_get(c: &Cluster) -> Result<()> {
    shell(&c.url(0), &["put", "cli", "argument", "a value"], "", 0).await?;
    let printed = shell(&c.url(1), &["get", "cli", "argument"], "", 0).await?;
    ensure!(String::from_utf8_lossy(&printed).trim_end() == "a value", "{printed:?}");
    shell(&c.url(0), &["put", "cli", "stdin"], "line one\nline two\n", 0).await?;
    let printed = shell(&c.url(2), &["get", "cli", "stdin"], "", 0).await?;
    ensure!(printed == b"line one\nline two\n", "into a pipe go the bytes as they are, not {printed:?}");
    shell(&c.url(0), &["delete", "cli", "argument"], "", 0).await?;
    shell(&c.url(1), &["get", "cli", "argument"], "", 3).await.map(drop)
}

async fn nothing_is_3(c: &Cluster) -> Result<()> {
    shell(&c.url(0), &["get", "cli", "nothing"], "", 3).await.map(drop)
}

async fn siblings_are_4(c: &Cluster) -> Result<()> {
    let urls = key_urls(c, "cli", "siblings");
    put_blind(&urls[0], "one").await?;
    put_blind(&urls[1], "two").await?;
    shell(&c.url(2), &["get", "cli", "siblings"], "", 4).await.map(drop)
}

async fn wrong_usage_is_2(c: &Cluster) -> Result<()> {
    for line in
        [&["get"][..], &["get", "cli"], &["frobnicate"], &["get", "cli", "k", "--frobnicate"], &["cart"], &[]]
    {
        shell(&c.url(0), line, "", 2).await?;
    }
    Ok(())
}

async fn nobody_there_is_1() -> Result<()> {
    let url = format!("http://127.0.0.1:{}", free_port()?);
    shell(&url, &["get", "cli", "k"], "", 1).await?;
    shell(&url, &["put", "cli", "k", "v"], "", 1).await.map(drop)
}

async fn keys_are_listed(c: &Cluster) -> Result<()> {
    for key in ["b", "a", "c"] {
        shell(&c.url(0), &["put", "listed", key, "v"], "", 0).await?;
    }
    let printed = shell(&c.url(1), &["ls", "listed"], "", 0).await?;
    let lines: Vec<String> = String::from_utf8(printed)?.lines().map(|line| line.trim().to_owned()).collect();
    ensure!(lines == ["a", "b", "c"], "into a pipe goes one key a line, not {lines:?}");
    let printed = shell(&c.url(1), &["ls", "listed", "--json"], "", 0).await?;
    expect_json(&printed)?;
    Ok(())
}

/// One JSON document, or one on each line.
fn expect_json(printed: &[u8]) -> Result<String> {
    let text = String::from_utf8(printed.to_vec())?;
    ensure!(!text.trim().is_empty(), "--json printed nothing");
    let is_json = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
    ensure!(is_json(&text) || text.lines().all(is_json), "--json printed {text:?}");
    Ok(text)
}

async fn carts_from_a_shell(c: &Cluster) -> Result<()> {
    shell(&c.url(0), &["cart", "add", "cli-carts", "mine", "apple"], "", 0).await?;
    shell(&c.url(1), &["cart", "add", "cli-carts", "guest", "pear"], "", 0).await?;
    shell(&c.url(2), &["cart", "merge", "cli-carts", "mine", "guest"], "", 0).await?;
    let printed = String::from_utf8(shell(&c.url(0), &["cart", "show", "cli-carts", "mine"], "", 0).await?)?;
    ensure!(printed.contains("apple") && printed.contains("pear"), "{printed}");
    shell(&c.url(1), &["cart", "remove", "cli-carts", "mine", "apple"], "", 0).await?;
    let text =
        expect_json(&shell(&c.url(2), &["cart", "show", "cli-carts", "mine", "--json"], "", 0).await?)?;
    let cart: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(cart["total_quantity"] == 1, "one pear is left: {cart}");
    ensure!(cart["items"][0]["sku"] == "pear", "{cart}");
    Ok(())
}

async fn a_key_is_explained(c: &Cluster) -> Result<()> {
    shell(&c.url(0), &["put", "cli", "explained", "v"], "", 0).await?;
    let printed = String::from_utf8(shell(&c.url(1), &["explain", "cli", "explained"], "", 0).await?)?;
    ensure!(["converged", "stale"].iter().any(|verdict| printed.contains(verdict)), "no verdict: {printed}");
    let text = expect_json(&shell(&c.url(1), &["explain", "cli", "explained", "--json"], "", 0).await?)?;
    let explained: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(explained["replicas"].as_array().map(Vec::len) == Some(3), "{explained}");
    Ok(())
}

async fn the_url_as_an_option(c: &Cluster) -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    shell(&nobody, &["put", "--url", &c.url(0), "cli", "option", "v"], "", 0).await?;
    shell(&nobody, &["get", "cli", "option", "--url", &c.url(1)], "", 0).await.map(drop)
}

async fn help_and_version(c: &Cluster) -> Result<()> {
    let help = String::from_utf8(shell(&c.url(0), &["--help"], "", 0).await?)?;
    for command in ["dev", "node", "get", "put", "delete", "ls", "cart", "explain", "repair"] {
        ensure!(help.contains(command), "no {command} in {help}");
    }
    shell(&c.url(0), &["--version"], "", 0).await.map(drop)
}
