//! The client commands of the one binary: a thin face on the library.
//!
//! Data goes to stdout and nothing else does; contexts, receipts and complaints go to stderr, so that
//! `cartwheel get shop logo > logo.png` is right whatever happens. With `--json` the data is one JSON document and a
//! complaint is one line of JSON on stderr.
//!
//! ```text
//! exit code  0 done · 1 the server said no or could not · 2 wrong usage · 3 not found · 4 siblings, failed precondition
//! ```

mod cart;
mod cluster;
mod object;
mod output;
mod ping;
mod plan;
mod repair;
mod ring;
#[cfg(test)]
mod tests;

use crate::call::Client;
use crate::error::{Error, Result};
use clap::{Args, Subcommand};
pub use output::Terminal;

pub use cart::{CartArgs, CartCommand};
pub use cluster::{ClusterArgs, ClusterCommand};
pub use object::{DeleteArgs, GetArgs, LsArgs, PutArgs};
pub use ping::PingArgs;
pub use plan::SetArgs;
pub use repair::RepairArgs;
pub use ring::{ExplainArgs, RingArgs};

/// Done.
pub const DONE: i32 = 0;
/// The server said no or could not.
pub const FAILED: i32 = 1;
/// The command line is wrong.
pub const USAGE: i32 = 2;
/// There is no such thing.
pub const NOT_FOUND: i32 = 3;
/// Siblings, or a precondition that does not hold.
pub const CONFLICT: i32 = 4;

/// Where the cluster is, and how to print. Every client command takes it.
#[derive(Debug, Clone, Args)]
pub struct Endpoint {
    /// Nodes to ask, the next one when one can't be reached; repeat it or separate with commas.
    #[arg(
        long = "url",
        env = "CARTWHEEL_URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8098",
        value_name = "URL",
        global = true
    )]
    pub urls: Vec<String>,
    /// Bearer token, where the cluster asks for one.
    #[arg(long, env = "CARTWHEEL_TOKEN", hide_env_values = true, global = true)]
    pub token: Option<String>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands of a client.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read an object
    Get(GetArgs),
    /// Write an object, from an argument or from stdin
    Put(PutArgs),
    /// Remove an object
    Delete(DeleteArgs),
    /// List buckets, or the keys of one
    Ls(LsArgs),
    /// Show and change carts
    Cart(CartArgs),
    /// See who is in the cluster, and change it
    Cluster(ClusterArgs),
    /// See whether a process answers, in a cluster or not
    Ping(PingArgs),
    /// See which nodes own what
    Ring(RingArgs),
    /// See one key on every replica, with a verdict
    Explain(ExplainArgs),
    /// Compare replicas now, and make them equal
    Repair(RepairArgs),
}

impl Command {
    fn endpoint(&self) -> &Endpoint {
        match self {
            Command::Get(args) => &args.endpoint,
            Command::Put(args) => &args.endpoint,
            Command::Delete(args) => &args.endpoint,
            Command::Ls(args) => &args.endpoint,
            Command::Cart(args) => &args.endpoint,
            Command::Cluster(args) => &args.endpoint,
            Command::Ping(args) => &args.endpoint,
            Command::Ring(args) => &args.endpoint,
            Command::Explain(args) => &args.endpoint,
            Command::Repair(args) => &args.endpoint,
        }
    }
}

/// Runs a command on the process's own streams and says with what code to exit.
pub async fn run(command: Command) -> i32 {
    run_on(command, &mut Terminal::of_process()).await
}

/// Runs a command on the given streams and says with what code to exit.
pub async fn run_on(command: Command, terminal: &mut Terminal<'_>) -> i32 {
    let endpoint = command.endpoint().clone();
    terminal.json = endpoint.json;
    let done = match Client::new(endpoint.urls.clone()) {
        Ok(client) => dispatch(command, &client.with_token(endpoint.token.clone()), terminal).await,
        Err(error) => Err(error),
    };
    // A reader that closes the pipe has seen enough: the streams remember it and print no more.
    match done {
        Ok(_) if terminal.failed() => FAILED,
        Ok(code) => code,
        Err(error) => {
            terminal.complain(&error);
            exit_code(&error)
        }
    }
}

async fn dispatch(command: Command, client: &Client, terminal: &mut Terminal<'_>) -> Result<i32> {
    match command {
        Command::Get(args) => object::get(args, client, terminal).await,
        Command::Put(args) => object::put(args, client, terminal).await,
        Command::Delete(args) => object::delete(args, client, terminal).await,
        Command::Ls(args) => object::ls(args, client, terminal).await,
        Command::Cart(args) => cart::run(args, client, terminal).await,
        Command::Cluster(args) => cluster::run(args, client, terminal).await,
        Command::Ping(_) => ping::run(client, terminal).await,
        Command::Ring(args) => ring::run(args, client, terminal).await,
        Command::Explain(args) => ring::explain(args, client, terminal).await,
        Command::Repair(args) => repair::run(args, client, terminal).await,
    }
}

fn exit_code(error: &Error) -> i32 {
    match error {
        Error::Invalid(_) => USAGE,
        Error::Problem(problem) => match (problem.status, problem.code.as_str()) {
            (404, "not_found") => NOT_FOUND,
            (412, _) | (409, "conflict" | "plan_changed") => CONFLICT,
            _ => FAILED,
        },
        Error::Transport { .. } | Error::Decode { .. } => FAILED,
    }
}
