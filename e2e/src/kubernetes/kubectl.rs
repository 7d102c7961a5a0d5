//! kubectl for one API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Output, Program};
use crate::wait::until;

/// How much longer than its own time-out kubectl may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// kubectl with its kubeconfig.
#[derive(Debug)]
pub(crate) struct Kubectl {
    program: PathBuf,
    kubeconfig: String,
    cache: PathBuf,
}

impl Kubectl {
    /// `dir` is the directory of its cache.
    pub(crate) fn new(program: PathBuf, kubeconfig: String, dir: &Path) -> Self {
        Self { program, kubeconfig, cache: dir.join("kubectl") }
    }

    /// The program with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Program {
        let cache = self.cache.to_string_lossy();
        let fixed = ["--kubeconfig", &self.kubeconfig, "--cache-dir", &cache];
        // The options first: what follows `--` belongs to a container.
        Program::new(&self.program, [&fixed[..], args].concat()).env("HOME", &self.cache)
    }

    /// The same as a shell command.
    pub(crate) fn words(&self, args: &str) -> String {
        format!(
            "{} --kubeconfig {} --cache-dir {} {args}",
            self.program.display(),
            self.kubeconfig,
            self.cache.display()
        )
    }

    /// Runs it, which must succeed, and returns its output.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        self.command(args).run()
    }

    /// Runs it, whatever its exit status.
    pub(crate) fn output(&self, args: &[&str]) -> Result<Output> {
        self.command(args).output()
    }

    /// Applies a manifest.
    pub(crate) fn apply(&self, manifest: &str) -> Result<()> {
        self.command(&["apply", "-f", "-"]).stdin(manifest).run().map(drop)
    }

    /// Gets an object or a list.
    pub(crate) fn get(&self, what: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], what].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Gets a path of the API server.
    pub(crate) fn raw(&self, path: &str) -> Result<String> {
        self.run(&["get", "--raw", path])
    }

    /// Waits for a condition, or another argument of kubectl's `--for`.
    pub(crate) fn wait(&self, what: &str, wanted: &str, timeout: Duration) -> Result<()> {
        let seconds = format!("--timeout={}s", timeout.as_secs());
        let args = ["wait", what, &format!("--for={wanted}"), &seconds];
        let waited = self.command(&args).timeout(timeout + TIMEOUT).run();
        waited.map(drop).with_context(|| format!("{what} is not {wanted}; it is {}", self.state(what)))
    }

    /// A pod's status, for errors.
    fn state(&self, what: &str) -> String {
        self.get(&[what]).map_or_else(|error| format!("{error:#}"), |object| object["status"].to_string())
    }

    /// Polls an object until it is as wanted.
    pub(crate) fn until(&self, what: &str, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        until(timeout, || {
            let object = self.get(&[what])?;
            ensure!(wanted(&object), "{what} is {}", object["status"]);
            Ok(object)
        })
    }

    /// Runs a shell script in a container (`POD` or `POD:CONTAINER`) and returns its output.
    pub(crate) fn exec(&self, place: &str, script: &str) -> Result<String> {
        let (pod, container) = place.split_once(':').map_or((place, None), |(pod, container)| (pod, Some(container)));
        let container = container.map(|name| ["-c", name]);
        let place = container.as_ref().map_or(&[][..], |option| &option[..]);
        self.run(&[&["exec", pod], place, &["--", "sh", "-c", script]].concat())
    }
}

/// The status of a pod's container, also of an init container or an ephemeral one.
pub(crate) fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    static NOTHING: Value = Value::Null;
    let kinds = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let all = kinds.iter().filter_map(|kind| pod["status"][kind].as_array()).flatten();
    all.into_iter().find(|status| status["name"] == name).unwrap_or(&NOTHING)
}

/// Whether a condition of an object is true.
pub(crate) fn has(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == condition && one["status"] == "True"))
}
