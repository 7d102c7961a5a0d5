//! The binary `cellblock`: the server and the operator's commands. Workers are started first: they are small processes that outlive
//! the server, and must not run its start-up.

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use cri::{Config, ps, root, roots, snapshots, stop_pods};

/// A Kubernetes CRI server for FreeBSD nodes.
#[derive(Debug, Parser)]
#[command(name = "cellblock", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve CRI until SIGTERM; containers keep running.
    Serve(Overrides),
    /// Print the configuration in force, with its comments.
    Config(Overrides),
    /// Report this node's needs with remedies for missing ones; fail if a required one is missing.
    Check(Overrides),
    /// Show a pod running from a pulled image, step by step, and remove everything again.
    Demo(DemoArgs),
    /// Show the pods and containers that run: state, usage, addresses, jails.
    Ps(PsArgs),
    /// Print the host path of a container's root, for pkg -c and other programs of the host.
    Root(RootArgs),
    /// Stop all pods, their containers side by side, each with its stop signal and grace: for the shutdown of the machine.
    StopPods(StopPodsArgs),
    /// Take a snapshot of a container's root, or of those of all containers of a pod in one transaction (ZFS).
    Snapshot(SnapshotArgs),
    /// Reset a stopped container's root, or those of a pod's containers one after the other, to a snapshot (ZFS).
    Rollback(SnapshotArgs),
    /// Write a snapshot of a container's root as a stream of zfs-send(8): to keep it, or for `import` on another node (ZFS).
    Export(ExportArgs),
    /// Keep such a stream, or one of `zfs send`, under a name that pods ask for by the annotation storage.cellblock/root (ZFS).
    Import(ImportArgs),
    /// List the snapshots of a container or of a pod's containers with their sizes, oldest first (ZFS).
    Snapshots(SnapshotsArgs),
    /// List, pull, inspect, remove, import and export images.
    Image(ImageArgs),
    /// Print the completions of all commands for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// The network of the demo's pod.
    #[arg(long, value_name = "CIDR", default_value = demo::POD_CIDR)]
    pod_cidr: ipnetwork::IpNetwork,
    /// The host port that leads to the pod; 0: any that is free.
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    host_port: u16,
    /// Keep the demo's directory, with the server's log.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct PsArgs {
    #[command(flatten)]
    options: ps::Options,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct RootArgs {
    /// The container: its id, the beginning of it, namespace/pod/container, or a name that only one has.
    container: String,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct StopPodsArgs {
    /// The longest grace of a container, in seconds; its pod's own is often shorter.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct SnapshotArgs {
    /// An id, the beginning of one, namespace/pod, namespace/pod/container, or a name that only one has.
    #[arg(value_name = "POD|CONTAINER")]
    target: String,
    /// The snapshot's name.
    name: String,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// An id, the beginning of one, namespace/pod/container, or a name that only one container has.
    container: String,
    /// The snapshot's name.
    snapshot: String,
    /// The file; -: the standard output.
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// The name of the root.
    name: String,
    /// The file; -: the standard input.
    file: PathBuf,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct SnapshotsArgs {
    /// An id, the beginning of one, namespace/pod, namespace/pod/container, or a name that only one has.
    #[arg(value_name = "POD|CONTAINER")]
    target: String,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, Args)]
struct ImageArgs {
    #[command(subcommand)]
    command: cri::image::Command,
    /// Print one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    overrides: Overrides,
}

/// Options that override the configuration file.
#[derive(Debug, Args)]
struct Overrides {
    /// The configuration file; without it cellblock.toml in /usr/local/etc/cellblock (Linux: /etc/cellblock), if that exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Records, images and the roots of containers; kept over a reboot.
    #[arg(long, global = true, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Files that are lost at a reboot, and the socket unless --address or the configuration file sets another.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The CRI socket.
    #[arg(long, global = true, value_name = "unix://PATH")]
    address: Option<String>,
    /// The directory of registry hosts (certs.d).
    #[arg(long, global = true, value_name = "DIR")]
    registry_config: Option<PathBuf>,
    /// error, warn, info, debug, trace, or a filter such as info,image=debug.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Overrides {
    /// Returns the checked configuration in force.
    fn resolve(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::read_default()?,
        };
        if let Some(root) = self.root {
            config.root = root;
        }
        if let Some(state) = self.state {
            if config.address == Config::default().address {
                config.address = format!("unix://{}/cellblock.sock", state.display());
            }
            config.state = state;
        }
        config.address = self.address.unwrap_or(config.address);
        config.image.registry_config = self.registry_config.unwrap_or(config.image.registry_config);
        config.log_level = self.log_level.unwrap_or(config.log_level);
        config.check()?;
        Ok(config)
    }
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(worker) = args.get(1).and_then(|word| worker(word)) {
        return worker(&args[2..]);
    }
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cellblock: {}", host::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// The worker that a word names.
fn worker(word: &OsStr) -> Option<monitor::Main> {
    match word.to_str()? {
        "unpack" => Some(image::unpack::main),
        nameserver::WORKER => Some(nameserver::main),
        demo::program::WORD => Some(demo::program::main),
        _ => monitor::find(word),
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Serve(overrides) => cri::serve(overrides.resolve()?)?,
        Command::Config(overrides) => print!("{}", overrides.resolve()?.commented()),
        Command::Check(overrides) => {
            let ready = cri::check(&overrides.resolve()?, &mut std::io::stdout())?;
            return Ok(if ready { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Demo(DemoArgs { pod_cidr, host_port, keep }) => {
            demo::run(&demo::Options { pod_cidr, host_port, keep })?;
        }
        Command::Ps(PsArgs { options, overrides }) => {
            let mut out = std::io::stdout();
            let terminal = out.is_terminal();
            ps::run(&options, &overrides.resolve()?, &mut out, terminal)?;
        }
        Command::Root(RootArgs { container, overrides }) => {
            let state = overrides.resolve()?.state;
            root::find(&state, &container, &mut std::io::stdout(), &mut std::io::stderr())?;
        }
        Command::StopPods(StopPodsArgs { timeout, overrides }) => {
            stop_pods::run(timeout, &overrides.resolve()?, &mut std::io::stdout())?;
        }
        Command::Snapshot(args) => snapshots::take(&args.overrides.resolve()?.state, &args.target, &args.name)?,
        Command::Rollback(args) => snapshots::roll_back(&args.overrides.resolve()?.state, &args.target, &args.name)?,
        Command::Export(ExportArgs { container, snapshot, output, overrides }) => {
            let state = overrides.resolve()?.state;
            roots::export(&state, &container, &snapshot, &output, &mut std::io::stdout())?;
        }
        Command::Import(args) => roots::import(&args.overrides.resolve()?.state, &args.name, &args.file)?,
        Command::Snapshots(args) => {
            let state = args.overrides.resolve()?.state;
            snapshots::list(&state, &args.target, args.json, &mut std::io::stdout())?;
        }
        Command::Image(ImageArgs { command, json, overrides }) => {
            cri::image::run(&command, json, &overrides.resolve()?, &mut std::io::stdout())?;
        }
        Command::Completions { shell } => {
            // Into memory first: the generator panics when it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "cellblock", &mut script);
            std::io::stdout().write_all(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, ValueEnum};
    use clap_complete::Shell;

    use super::Cli;

    #[test]
    fn the_command_line_is_well_formed_and_completed_in_every_shell() {
        Cli::command().debug_assert();
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "cellblock", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(
                ["snapshot", "export", "import", "dry-run", "watch", "root", "stop-pods"]
                    .iter()
                    .all(|word| script.contains(word)),
                "{shell}"
            );
        }
    }

    #[test]
    fn a_bad_argument_is_refused_with_its_name_and_its_value() {
        for (line, said) in [
            (&["completions", "tcsh"][..], "invalid value 'tcsh' for '<SHELL>'"),
            (&["image", "export", "a:1"], "--output <FILE>"),
            (&["image", "pull"], "<IMAGE>"),
            (&["root"], "<CONTAINER>"),
            (&["stop-pods", "--timeout", "-1"], "-1"),
            (&["stop-pods", "--timeout", "soon"], "invalid value 'soon' for '--timeout <SECONDS>'"),
            (&["image", "--json", "frobnicate"], "'frobnicate'"),
        ] {
            let error = Cli::command().try_get_matches_from(["cellblock"].iter().chain(line)).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        Cli::command().try_get_matches_from(["cellblock", "image", "ls", "--json", "--state", "/s"]).unwrap();
    }
}
