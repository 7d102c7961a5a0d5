//! `cellblock serve` with a directory, a prefix and pod networks that no other run on this machine uses.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Background, Output, Program};
use crate::tools::beside;

/// The time-out of the start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The files and the kernel names of a run.
#[derive(Debug)]
pub struct Site {
    dir: PathBuf,
    prefix: String,
    crictl: PathBuf,
    other: Option<String>,
}

impl Site {
    /// A site in this directory, with names from this process id.
    pub fn new(dir: &Path, certs: &Path, crictl: PathBuf) -> Result<Self> {
        let letter = u8::try_from(std::process::id() % 26).context("a remainder is small")?;
        let site = Self { dir: dir.to_owned(), prefix: format!("e{}", char::from(b'a' + letter)), crictl, other: None };
        std::fs::create_dir_all(&site.dir)?;
        std::fs::write(
            site.config(),
            format!(
                "root = {:?}\nstate = {:?}\naddress = \"{}\"\nprefix = \"{}\"\n\n[image]\nregistry_config = {certs:?}\n\n\
                 [network]\npod_cidrs = [\"10.{net}.0.0/16\", \"fd00:cb:{net}::/64\"]\n\n\
                 [streaming]\naddress = \"127.0.0.1:0\"\n",
                site.dir.join("root"),
                site.state(),
                site.address(),
                site.prefix,
                net = site.network(),
            ),
        )?;
        Ok(site)
    }

    fn config(&self) -> PathBuf {
        self.dir.join("cellblock.toml")
    }

    /// Configures roots on ZFS, below this dataset.
    pub fn put_roots_on_zfs(&self, dataset: &str) -> Result<()> {
        let table = "[image]\n";
        let text = std::fs::read_to_string(self.config())?;
        let text = text.replace(table, &format!("{table}rootfs = \"zfs\"\nzfs_dataset = {dataset:?}\n"));
        Ok(std::fs::write(self.config(), text)?)
    }

    /// Configures names for pods, below this domain.
    pub fn name_pods(&self, domain: &str) -> Result<()> {
        self.configure_network(&format!("names = {domain:?}"))
    }

    /// Takes back what only this version's configuration knows ([`Site::name_pods`], [`Site::offer_filters`]).
    pub fn suit_older_server(&self) -> Result<()> {
        let text = std::fs::read_to_string(self.config())?;
        let known = |line: &&str| !["names = ", "pf_directory = "].iter().any(|key| line.starts_with(key));
        let known: Vec<&str> = text.lines().filter(known).collect();
        Ok(std::fs::write(self.config(), known.join("\n") + "\n")?)
    }

    fn configure_network(&self, line: &str) -> Result<()> {
        let table = "[network]\n";
        let text = std::fs::read_to_string(self.config())?;
        Ok(std::fs::write(self.config(), text.replace(table, &format!("{table}{line}\n")))?)
    }

    /// Configures the directory of rules for pods' own pf, below that of the specs.
    pub fn offer_filters(&self) -> Result<()> {
        self.configure_network(&format!("pf_directory = {:?}", self.dir.join("specs/filters")))
    }

    /// The directory of all files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The prefix of kernel names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The second octet of its pod network (10.N.0.0/16), which no other run has.
    pub fn network(&self) -> u8 {
        130 + self.prefix.as_bytes()[1] - b'a'
    }

    /// The server's state directory.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Uses another, running server: to compare with it.
    #[must_use]
    pub fn at(mut self, address: &str) -> Self {
        self.other = Some(address.to_owned());
        self
    }

    /// Its socket.
    pub fn address(&self) -> String {
        self.other.clone().unwrap_or_else(|| format!("unix://{}/cellblock.sock", self.state().display()))
    }

    /// Starts the server and waits until it answers.
    pub fn serve(&self) -> Result<Background> {
        let mut server = self.start()?;
        server
            .until(START_TIMEOUT, || self.crictl(["version"]).output().is_ok_and(|output| output.status.success()))?;
        Ok(server)
    }

    /// Starts the server.
    pub fn start(&self) -> Result<Background> {
        self.start_from(&beside()?)
    }

    /// Starts the server from the executables in this directory.
    pub fn start_from(&self, programs: &Path) -> Result<Background> {
        let program = programs.join("cellblock");
        ensure!(program.exists(), "{} is not built: cargo build", program.display());
        let config = self.config();
        let args = ["serve".as_ref(), "--config".as_ref(), config.as_os_str()];
        Program::new(program, args).background(&self.dir.join("cellblock.log"))
    }

    /// A command of `cellblock`, with this server's configuration.
    pub fn cellblock<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Program> {
        let config = self.config().into_os_string();
        let args = args.into_iter().map(OsString::from).chain(["--config".into(), config]);
        Ok(Program::new(beside()?.join("cellblock"), args))
    }

    /// The program crictl.
    pub fn crictl_program(&self) -> &Path {
        &self.crictl
    }

    /// crictl for this server.
    pub fn crictl<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Program {
        let address = self.address();
        let fixed =
            ["--runtime-endpoint", &address, "--image-endpoint", &address, "--timeout", "60s"].map(str::to_owned);
        let args = fixed.into_iter().chain(args.into_iter().map(str::to_owned));
        // An empty configuration instead of the machine's.
        Program::new(&self.crictl, args).env("CRI_CONFIG_FILE", "/dev/null")
    }

    /// Runs crictl, which must succeed, and returns its output.
    pub fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<String> {
        self.crictl(args).run()
    }

    /// Runs crictl, and parses its JSON.
    pub fn json<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<serde_json::Value> {
        let text = self.run(args)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Runs crictl, which must fail.
    pub fn refused<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        let program = self.crictl(args);
        let name = program.to_string();
        let output = program.output()?;
        ensure!(!output.status.success(), "{name}: succeeded: {}", output.stdout);
        Ok(output)
    }
}
