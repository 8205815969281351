//! The command line: one file a command, each with `--help`, an example, and `--json`.

mod address;
mod config;
mod coverage;
mod decode;
mod detach;
mod doctor;
mod flow;
mod observe;
mod output;
mod registry;
mod rule;
mod run;
mod status;
mod tag;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::client::{Client, Remote};

/// Says whose traffic a flow is, on every packet of it.
#[derive(Debug, Parser)]
#[command(name = "flowtag", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:\n  \
    flowtag doctor                              what works on this host, and what to do about the rest\n  \
    flowtag run                                 the daemon\n  \
    flowtag flow start --tag 'cms/Analysis Input' tcp '[2001:db8::1]:1094' '[2001:db8::2]:40000'\n  \
    flowtag rule add --name site --remote 2001:db8::/32 --tag cms/default\n  \
    flowtag coverage                            how much of the traffic says whose it is\n  \
    flowtag decode capture.pcap                 whose packets are in a capture file")]
pub(crate) struct Cli {
    /// Print JSON: one object, or one object a line where there are many
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    // What a command is for stands at its own type, with its examples.
    Run(run::Run),
    Flow(flow::Flow),
    Rule(rule::Rule),
    Coverage(coverage::Show),
    Why(observe::why::Why),
    Flows(observe::flows::Flows),
    Latency(observe::latency::Latency),
    #[command(flatten)]
    Observe(observe::Observe),
    Status(status::Status),
    Tag(tag::Tag),
    Address(address::Address),
    Registry(registry::Registry),
    Decode(decode::Decode),
    Doctor(doctor::Doctor),
    Config(config::Config),
    Detach(detach::Detach),
    /// Print the version
    Version,
    /// Print man pages or shell completions
    #[command(hide = true)]
    Generate(output::Generate),
}

/// Where the running daemon is reached.
#[derive(Debug, clap::Args)]
pub(crate) struct Control {
    /// Socket of the daemon [default: inputs.control.path of the configuration]
    #[arg(long, value_name = "PATH", env = "FLOWTAG_SOCKET")]
    socket: Option<PathBuf>,
    /// Daemon on another host, as https://HOST:PORT (its inputs.control.listen)
    #[arg(long, value_name = "URL", env = "FLOWTAG_URL", conflicts_with = "socket")]
    url: Option<String>,
    /// File with the token of that daemon
    #[arg(long, value_name = "FILE", env = "FLOWTAG_TOKEN_FILE", requires = "url")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust for it, in place of the system's
    #[arg(long, value_name = "FILE", env = "FLOWTAG_CA_FILE", requires = "url")]
    ca_file: Option<PathBuf>,
}

impl Control {
    /// A connection to the daemon that is meant.
    ///
    /// # Errors
    /// Says what of the way to it fails, and what to do.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        let Some(url) = &self.url else { return Client::connect(self.socket.as_deref()).await };
        let (token_file, ca_file) = (self.token_file.as_deref(), self.ca_file.as_deref());
        Client::dial(Remote { url, token_file, ca_file }).await
    }
}

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "flowtag: {}", output::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

impl Cli {
    fn run(self) -> anyhow::Result<()> {
        let json = self.json;
        match self.command {
            Command::Run(command) => command.run(json),
            Command::Flow(command) => command.run(json),
            Command::Rule(command) => command.run(json),
            Command::Coverage(command) => command.run(json),
            Command::Why(command) => command.run(json),
            Command::Flows(command) => command.run(json),
            Command::Latency(command) => command.run(json),
            Command::Observe(command) => command.run(json),
            Command::Status(command) => command.run(json),
            Command::Tag(command) => command.run(json),
            Command::Address(command) => command.run(json),
            Command::Registry(command) => command.run(json),
            Command::Decode(command) => command.run(json),
            Command::Doctor(command) => command.run(json),
            Command::Config(command) => command.run(json),
            Command::Detach(command) => command.run(json),
            Command::Version => version(json),
            Command::Generate(command) => command.run(Self::command()),
        }
    }
}

fn version(json: bool) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if json {
        return output::json(&serde_json::json!({ "name": "flowtag", "version": version }));
    }
    output::line(format_args!("flowtag {version}"))
}
