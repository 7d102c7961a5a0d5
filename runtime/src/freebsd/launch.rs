//! Launches processes in jails for the monitor: the FreeBSD side of [`Launch`].

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use host::Failures;

use super::child::{self, Program};
use super::enforce;
use super::record::{ContainerRecord, pod_directory, state_of};
use super::rights::Rights;
use super::sys::{jail, process};
use super::watch::MemoryWatch;
use super::{jails, kernel, params};
use crate::Error;
use crate::monitor::record::read_spec;
use crate::monitor::{Launch, Launched, Streams, Target};
use crate::spec::ContainerSpec;

/// The limit for the end of killed processes.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// The interval between looks at them.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The default of TERM, as in containerd.
const TERM: &str = "xterm";

/// The first process of a container, or an executed one.
struct JailLauncher {
    directory: PathBuf,
    spec: ContainerSpec,
    record: ContainerRecord,
    /// None: it is the first process, whose launch creates the jail.
    executed: Option<Vec<String>>,
    terminal: bool,
    memory: Option<MemoryWatch>,
    out_of_memory: bool,
}

/// Prepares the launch of a monitor's target.
///
/// # Errors
/// The container's files cannot be read.
pub(super) fn prepare(target: Target<'_>) -> Result<Box<dyn Launch>, Error> {
    let (directory, executed, terminal) = match target {
        Target::Container(directory) => (directory, None, None),
        Target::Exec(directory, spec) => (directory, Some(spec.args.clone()), Some(spec.tty)),
    };
    let spec = read_spec(directory)?;
    let record = ContainerRecord::read(directory)?
        .ok_or_else(|| Error::not_found(format!("the container in {}", directory.display())))?;
    let terminal = terminal.unwrap_or(spec.process.tty);
    let directory = directory.to_owned();
    Ok(Box::new(JailLauncher { directory, spec, record, executed, terminal, memory: None, out_of_memory: false }))
}

impl JailLauncher {
    /// Creates the container's jail with its limits. An existing one is left over from a start that was killed: only this
    /// container has the name, and the server starts it once.
    fn make_jail(&self) -> Result<jail::Jail, Error> {
        jails::end(&self.record.jail)?;
        let rights = Rights::of_container(&self.spec)?;
        self.raise_pod(&rights)?;
        let name = &self.record.jail;
        let wanted = params::container(&self.record, &self.spec, &rights, &kernel::has_parameter);
        let made = jail::create(&wanted).map_err(Error::failed(format!("cannot create jail {name}")))?;
        let limits = enforce::wanted(&self.directory, &self.spec)?;
        match enforce::apply(name, made.jid, &limits) {
            Ok(()) => Ok(made),
            Err(error) => {
                self.unmake_jail(&made)?;
                Err(error)
            }
        }
    }

    /// Gives the pod's jail the rights for a container that may mount.
    fn raise_pod(&self, rights: &Rights) -> Result<(), Error> {
        let name = &self.record.pod_jail;
        let found = jails::find(name)?.ok_or_else(|| Error::not_found(format!("jail {name}")))?;
        if !rights.allow.iter().any(|parameter| parameter.starts_with("mount")) {
            return Ok(());
        }
        let wanted = params::pod_rights(&kernel::has_parameter);
        jail::update(found.jid, &wanted).map_err(Error::failed(format!("cannot change jail {name}")))
    }

    fn unmake_jail(&self, made: &jail::Jail) -> Result<(), Error> {
        let name = &self.record.jail;
        let mut failures = Failures::<Error>::default();
        failures.keep(jails::end_found(made, name));
        failures.keep(jails::remove_rules(name));
        failures.result(Error::failed(format!("cannot remove jail {name}")))
    }

    fn program(&self) -> Program<'_> {
        let process = &self.spec.process;
        let mut env = process.env.clone();
        let has = |env: &[(String, String)], wanted: &str| env.iter().any(|(name, _)| name == wanted);
        if !has(&env, "HOME") {
            env.push(("HOME".to_owned(), self.record.home.clone()));
        }
        if self.terminal && !has(&env, "TERM") {
            env.push(("TERM".to_owned(), TERM.to_owned()));
        }
        Program {
            args: self.executed.as_ref().unwrap_or(&process.args),
            env,
            cwd: &process.cwd,
            identity: &self.record.identity,
            login: &self.record.login,
            no_new_privileges: self.spec.security.no_new_privileges,
        }
    }
}

impl Launch for JailLauncher {
    fn adopt_orphans(&self) -> Result<(), Error> {
        process::acquire_reaping().map_err(Error::failed("cannot become the reaper of a container"))
    }

    fn launch(&mut self, streams: Streams) -> Result<Launched, Error> {
        if self.executed.is_some() {
            let found = jails::find(&self.record.jail)?;
            let found = found.ok_or_else(|| Error::conflict("the container is not running"))?;
            return child::start(&found, &self.program(), streams);
        }
        if !pod_directory(state_of(&self.directory), &self.spec.pod).is_dir() {
            return Err(Error::not_found(format!("pod {}", self.spec.pod)));
        }
        let made = self.make_jail()?;
        let launched = MemoryWatch::new(&self.directory, &self.spec, &self.record, made.jid).and_then(|watch| {
            self.memory = Some(watch);
            child::start(&made, &self.program(), streams)
        });
        if launched.is_err() {
            self.memory = None;
            self.unmake_jail(&made)?;
        }
        launched
    }

    /// A container ends with its jail. Of an exec, every descendant of its monitor is killed, in whatever session or group.
    fn kill(&mut self) -> Result<(), Error> {
        if self.executed.is_none() {
            return jails::end(&self.record.jail);
        }
        let failed = || Error::failed::<std::io::Error>("cannot kill an executed process");
        let deadline = Instant::now() + KILL_WAIT;
        loop {
            process::kill_descendants().map_err(failed())?;
            if !process::has_living_descendants().map_err(failed())? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(failed()(std::io::Error::other("a process does not die")));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn out_of_memory(&mut self) -> bool {
        self.out_of_memory
    }

    fn release(&mut self) {
        self.memory = None;
        if self.executed.is_none() {
            // The removal of the container repeats this, and reports.
            let _ = jails::remove_rules(&self.record.jail);
        }
    }

    fn watch_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.memory.as_ref().map(MemoryWatch::descriptor)
    }

    fn handle_watch(&mut self) {
        let too_much = self.memory.as_mut().is_some_and(MemoryWatch::check);
        if too_much && !self.out_of_memory {
            self.out_of_memory = true;
            // A process that does not die now is killed again when the first one has ended.
            let _ = jails::end(&self.record.jail);
        }
    }
}
