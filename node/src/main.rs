//! The one binary: the server, the local cluster, the client's commands, the workloads.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a command line speaks on its streams")]

use clap::{CommandFactory, Parser, Subcommand};
use node::config::{Config, ConfigError, LogFormat, NodeArgs};
use ring::bucket::BucketSettings;
use std::io::IsTerminal;
use std::process::ExitCode;
use tokio::sync::watch;

/// How long the end of the process waits for tasks that hang.
const SHUTDOWN_MAX: std::time::Duration = std::time::Duration::from_secs(1);

/// The whole process allocates through jemalloc, RocksDB's C++ included.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A leaderless, eventually consistent key-value cluster that never turns a write away and never loses one it took.
#[derive(Parser)]
#[command(name = "cartwheel", version, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole local cluster, a process for each node.
    Dev(chaos::dev::DevArgs),
    /// Run one node.
    Node(Box<NodeArgs>),
    /// Break a cluster while clients use it, and say whether a promise was broken.
    Chaos(chaos::run::ChaosArgs),
    /// Stream shop events into carts and compare the carts with a model.
    Replay(chaos::replay::ReplayArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Client(client::cli::Command),
}

/// In a build with bugs in it: switches off the rule that the environment names, so that the tests over real processes can be
/// seen to notice.
#[cfg(feature = "planted")]
fn plant() -> Result<(), String> {
    use ring::planted::{Bug, choose};
    let Ok(name) = std::env::var("CARTWHEEL_PLANTED") else { return Ok(()) };
    let bug = Bug::ALL.iter().find(|bug| bug.name() == name).ok_or(name)?;
    choose(Some(*bug));
    Ok(())
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    #[cfg(feature = "planted")]
    if let Err(unknown) = plant() {
        eprintln!("cartwheel: no rule is called {unknown}");
        return ExitCode::from(2);
    }
    let threads = match cli.command {
        Command::Node(_) => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
        _ => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
    };
    let runtime = match threads {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cartwheel: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli.command));
    // Whatever still runs, after a disk has failed, must not meet the engine while the process takes it down.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    code
}

async fn run(command: Command) -> ExitCode {
    let code = match command {
        Command::Dev(args) => chaos::dev::dev(args).await,
        Command::Chaos(args) => chaos::run::chaos(args).await,
        Command::Replay(args) => chaos::replay::replay(args).await,
        Command::Client(command) => client::cli::run(command).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "cartwheel", &mut std::io::stdout());
            0
        }
        Command::Node(args) => return serve(&args).await,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

async fn serve(args: &NodeArgs) -> ExitCode {
    let settings = std::cell::RefCell::new(BucketSettings::default());
    let check = |given: &std::collections::BTreeMap<String, toml::Value>| {
        *settings.borrow_mut() = node::config::bucket_defaults(given)?;
        Ok::<(), ConfigError>(())
    };
    let config = match Config::load(args, &|name| std::env::var(name).ok(), &check) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("cartwheel: {error}");
            return ExitCode::from(node::config::EXIT_CODE);
        }
    };
    log(config.log_format);
    metrics();
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(signals(stop));
    let world = node::real::RealWorld::new(node::store::rocks::RocksStore::open).skewed(skew_ms());
    match node::boot::run(world, config, settings.into_inner(), stopping, None).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cartwheel: {error}");
            ExitCode::FAILURE
        }
    }
}

/// How far a test wants this node's calendar to be off. Only in debug builds, which is what tests run: nobody's release binary
/// has a switch for a wrong clock.
fn skew_ms() -> i64 {
    let given = if cfg!(debug_assertions) { std::env::var("CARTWHEEL_TEST_SKEW_MS").ok() } else { None };
    given.map_or(0, |text| text.parse().expect("CARTWHEEL_TEST_SKEW_MS is a number of milliseconds"))
}

fn metrics() {
    node::http::metrics::install();
}

fn log(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let lines = lines.with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.init(),
    }
}

/// The first signal asks for a clean stop, a second one ends at once.
async fn signals(stop: watch::Sender<bool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    for round in 0..2 {
        tokio::select! {
            biased;
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if round == 0 {
            let _ = stop.send(true);
        }
    }
    #[expect(clippy::disallowed_methods, reason = "whoever asks twice does not want to wait for anything")]
    std::process::exit(130);
}
