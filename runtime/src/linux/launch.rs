//! Launches a process in a container with runc, which gets the process' streams as its own. The first process is found by its
//! pid file and adopted by the monitor when runc ends. An executed process gets its own cgroup below the container's, in which
//! its daemons are found.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::prctl::set_child_subreaper;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::cgroup::{self, Hierarchies};
use super::record::ContainerRecord;
use super::runc::Runc;
use super::usage;
use crate::Error;
use crate::monitor::{Launch, Launched, Streams, Target, receive_descriptor};
use crate::spec::ExecSpec;

/// The document that runc reads.
pub(super) const CONFIG: &str = "config.json";

/// A process that runc starts.
struct Launcher {
    runc: Runc,
    hierarchies: Hierarchies,
    record: ContainerRecord,
    /// The container's directory.
    bundle: PathBuf,
    /// None: it is the container's first process.
    exec: Option<Exec>,
}

/// The files and the cgroup of one executed process.
struct Exec {
    spec: ExecSpec,
    scratch: PathBuf,
    /// The name of its cgroup, below the container's in one hierarchy.
    cgroup: String,
}

/// Prepares the launch of a monitor's target.
pub(super) fn prepare(target: Target<'_>) -> Result<Box<dyn Launch>, Error> {
    let (directory, exec) = match target {
        Target::Container(directory) => (directory, None),
        Target::Exec(directory, spec) => {
            let name = format!("exec-{}", std::process::id());
            (directory, Some(Exec { spec: spec.clone(), scratch: directory.join(&name), cgroup: name }))
        }
    };
    let record = ContainerRecord::read(directory)?
        .ok_or_else(|| Error::not_found(format!("the container in {}", directory.display())))?;
    let hierarchies = match record.hierarchies.clone().filter(Hierarchies::are_mounted) {
        Some(known) => known,
        None => Hierarchies::find()?,
    };
    Ok(Box::new(Launcher { runc: Runc::new(&record.state), hierarchies, record, bundle: directory.to_owned(), exec }))
}

impl Launch for Launcher {
    fn adopt_orphans(&self) -> Result<(), Error> {
        set_child_subreaper(true).map_err(Error::failed("cannot adopt orphans"))
    }

    fn launch(&mut self, streams: Streams) -> Result<Launched, Error> {
        let scratch = self.exec.as_ref().map_or(&self.bundle, |exec| &exec.scratch);
        fs::create_dir_all(scratch).map_err(Error::failed(format!("cannot create {}", scratch.display())))?;
        let paths = Paths::of(scratch);
        let mut args = if self.exec.is_some() { self.exec_args(&paths)? } else { self.run_args()? };
        args.extend(["--detach".to_owned(), "--pid-file".to_owned(), paths.pid.display().to_string()]);
        let (streams, console) = match streams {
            Streams::Pipes { stdin, stdout, stderr } => ([stdin, stdout, stderr], None),
            Streams::Terminal => {
                let (streams, console) = console(&paths).map_err(Error::failed("cannot create a console socket"))?;
                args.extend(["--console-socket".to_owned(), paths.console.display().to_string()]);
                (streams, Some(console))
            }
        };
        args.push(self.record.name.clone());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.runc.leave(&paths.log, &args, streams, &self.program()?)?;
        let terminal = console.map(|console| take_terminal(&console)).transpose();
        let terminal = terminal.map_err(Error::failed("cannot take the terminal from runc"))?;
        let pid = read_pid(&paths.pid).map_err(Error::failed("cannot read runc's pid file"))?;
        Ok(Launched { pid, terminal })
    }

    fn kill(&mut self) -> Result<(), Error> {
        match &self.exec {
            None => self.hierarchies.kill(&self.record.cgroup),
            Some(exec) => self.hierarchies.kill(&self.record.cgroup.join(&exec.cgroup)),
        }
    }

    fn out_of_memory(&mut self) -> bool {
        self.exec.is_none() && usage::memory_kills(&self.hierarchies, &self.record.cgroup) > 0
    }

    fn release(&mut self) {
        let Some(exec) = &self.exec else { return };
        let tracking = self.hierarchies.tracking();
        if let Some(container) = self.hierarchies.directory(tracking, &self.record.cgroup) {
            let own = container.join(&exec.cgroup);
            // The removal of the container removes the rest.
            let _ = cgroup::move_processes(&own, &container).and_then(|()| cgroup::remove_tree(&own));
        }
        let _ = host::fs::remove_dir_all(&exec.scratch);
    }
}

impl Launcher {
    fn run_args(&self) -> Result<Vec<String>, Error> {
        // A server that died in a start may have left a state.
        self.runc.delete(&self.record.name)?;
        Ok(vec!["run".to_owned(), "--bundle".to_owned(), self.bundle.display().to_string()])
    }

    fn exec_args(&self, paths: &Paths) -> Result<Vec<String>, Error> {
        let Some(exec) = &self.exec else { return Ok(Vec::new()) };
        let mut process = self.config()?["process"].take();
        process["args"] = json!(exec.spec.args);
        process["terminal"] = json!(exec.spec.tty);
        fs::write(&paths.process, process.to_string()).map_err(Error::failed("cannot write the process to execute"))?;
        let tracking = self.hierarchies.tracking();
        if let Some(container) = self.hierarchies.directory(tracking, &self.record.cgroup) {
            fs::create_dir_all(container.join(&exec.cgroup))
                .map_err(Error::failed("cannot create the cgroup of an exec"))?;
        }
        let cgroup = match tracking {
            "" => exec.cgroup.clone(),
            controller => format!("{controller}:{}", exec.cgroup),
        };
        let process = paths.process.display().to_string();
        Ok(vec!["exec".to_owned(), "--process".to_owned(), process, "--cgroup".to_owned(), cgroup])
    }

    /// The program's name for errors.
    fn program(&self) -> Result<String, Error> {
        if let Some(exec) = &self.exec {
            return Ok(exec.spec.args.first().cloned().unwrap_or_default());
        }
        Ok(self.config()?["process"]["args"][0].as_str().unwrap_or_default().to_owned())
    }

    fn config(&self) -> Result<Value, Error> {
        read_config(&self.bundle.join(CONFIG))
    }
}

/// Reads the document of a whole container.
pub(super) fn read_config(path: &Path) -> Result<Value, Error> {
    host::json::read(path)?.ok_or_else(|| Error::not_found(path.display().to_string()))
}

/// The files of one launch.
struct Paths {
    pid: PathBuf,
    log: PathBuf,
    console: PathBuf,
    process: PathBuf,
}

impl Paths {
    fn of(scratch: &Path) -> Self {
        Self {
            pid: scratch.join("pid"),
            log: scratch.join("runc.log"),
            console: scratch.join("console.sock"),
            process: scratch.join("process.json"),
        }
    }
}

/// The socket on which runc sends the master of a terminal, and runc's own streams.
fn console(paths: &Paths) -> io::Result<([OwnedFd; 3], UnixListener)> {
    host::fs::remove_file(&paths.console)?;
    let listener = UnixListener::bind(&paths.console)?;
    let null = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
    Ok(([null()?, null()?, null()?], listener))
}

/// runc has ended, so its message has arrived.
fn take_terminal(console: &UnixListener) -> io::Result<OwnedFd> {
    console.set_nonblocking(true)?;
    let (connection, _) = console.accept()?;
    connection.set_nonblocking(true)?;
    receive_descriptor(connection.as_fd())
}

fn read_pid(path: &Path) -> io::Result<Pid> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map(Pid::from_raw).map_err(io::Error::other)
}
