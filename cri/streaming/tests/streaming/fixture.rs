//! A streaming server on the fake backend, with a pod and a container in it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use host::{ContainerId, PodId};
use runtime::Runtime as _;
use runtime::conformance::{container_spec, pod_spec};
use runtime::fake::{Fake, Kernel};
use runtime::spec::ContainerSpec;
use streaming::{Command, Forward, Server, Settings};

/// The time-out of anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Fixture {
    pub(crate) server: Server,
    pub(crate) kernel: Kernel,
    pub(crate) pod: PodId,
    pub(crate) container: ContainerId,
    /// Holds the sockets of the pod's ports.
    directory: tempfile::TempDir,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let fake = Fake::default();
        let kernel = fake.kernel.clone();
        let pod = pod_spec();
        let args = ["block".to_owned()];
        let container = container_spec(ContainerId::random(), &pod.id, PathBuf::from("/"), &args, None);
        let container = ContainerSpec { stdin: true, ..container };
        fake.create_pod(&pod, None).unwrap();
        fake.create_container(&container).unwrap();
        fake.start_container(&container.id).unwrap();
        let server = Server::bind(settings, Arc::new(fake)).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { server, kernel, pod: pod.id, container: container.id, directory }
    }

    /// The URL of an exec of one of the fake's programs.
    pub(crate) fn exec(&self, args: &[&str], stdin: bool) -> String {
        let args = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
        self.command(args, stdin, false)
    }

    pub(crate) fn command(&self, args: Option<Vec<String>>, stdin: bool, tty: bool) -> String {
        let container = self.container.clone();
        self.server.command_url(Command { container, args, tty, stdin, stdout: true, stderr: !tty }).unwrap()
    }

    pub(crate) fn forward(&self, ports: &[u16]) -> String {
        self.server.forward_url(Forward { pod: self.pod.clone(), ports: ports.to_vec() }).unwrap()
    }

    /// Serves an echo on a port of the pod until the client shuts its side down.
    pub(crate) fn echo(&self, port: u16) {
        let listener = UnixListener::bind(self.directory.path().join(port.to_string())).unwrap();
        self.kernel.listen(&self.pod, port, listener.try_clone().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = vec![0; 65536];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        if stream.write_all(&buffer[..length]).is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
}

/// The address and the path of a URL.
pub(crate) fn parts(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").unwrap().1;
    rest.split_at(rest.find('/').unwrap())
}
