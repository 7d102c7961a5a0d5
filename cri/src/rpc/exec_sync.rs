//! ExecSync: runs a command in a running container to its end. At the time-out the whole process tree is killed. Output is kept
//! up to the limit of an answer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use proto::v1::{ExecSyncRequest, ExecSyncResponse};
use runtime::Control;
use runtime::spec::ExecSpec;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::extensions::gone;
use super::find_running;
use crate::error::{Backend, Error};
use crate::lifecycle::exits::make_awaitable;
use crate::rpc::capture::capture;
use crate::state::node::Node;

/// The limit on the output of both streams together, in bytes: kubelet accepts answers of 16 MiB with their frames.
const OUTPUT_LIMIT: usize = (16 << 20) - 4096;
/// How long to wait for output after the command has ended: its background processes may hold the pipe for ever.
const DRAIN: Duration = Duration::from_secs(1);

pub(crate) async fn call(node: &Arc<Node>, request: Request<ExecSyncRequest>) -> Result<ExecSyncResponse, Error> {
    let gone = gone(&request);
    let request = request.into_inner();
    if request.cmd.is_empty() {
        return Err(Error::missing("cmd"));
    }
    let container = find_running(node, &request.container_id)?;
    let spec = ExecSpec { args: request.cmd, tty: false, stdin: false };
    let session = node.block(move |node| node.runtime.exec(&container.id, &spec)).await?;
    let output = (Output::spawn(session.stdout), Output::spawn(session.stderr));
    let control: Arc<dyn Control> = Arc::from(session.control);
    let seconds = u64::try_from(request.timeout).unwrap_or(0);
    let answer = tokio::select! {
        answer = collect(node, &control, output, seconds) => answer,
        // Nobody reads its output any more, and without a time-out it could run for ever.
        () = gone.cancelled() => kill(node, &control).await.and_then(|()| {
            Err(Error::State { what: "the client went away while its command ran".to_owned() })
        }),
    };
    // Dropping the control kills the remaining processes, and blocks.
    node.block(move |_| drop(control)).await;
    answer
}

/// Waits for the command and collects its output.
async fn collect(
    node: &Arc<Node>,
    control: &Arc<dyn Control>,
    (stdout, stderr): (Output, Output),
    seconds: u64,
) -> Result<ExecSyncResponse, Error> {
    let outcome = match seconds {
        0 => Ok(wait_for_exit(node, control).await),
        seconds => tokio::time::timeout(Duration::from_secs(seconds), wait_for_exit(node, control)).await,
    };
    let Ok(outcome) = outcome else {
        kill(node, control).await?;
        return Err(Error::Deadline { what: format!("failed to exec in container: timeout {seconds}s exceeded") });
    };
    let exit_code = outcome?;
    let _ = tokio::time::timeout(DRAIN, async { tokio::join!(stdout.wait(), stderr.wait()) }).await;
    let stdout = stdout.finish().await?;
    let mut stderr = stderr.finish().await?;
    stderr.truncate(OUTPUT_LIMIT - stdout.len());
    Ok(ExecSyncResponse { stdout, stderr, exit_code })
}

/// Waits for the exit of the command.
async fn wait_for_exit(node: &Arc<Node>, control: &Arc<dyn Control>) -> Result<i32, Error> {
    let ask = control.clone();
    let descriptor: OwnedFd = node.block(move |_| ask.exit_descriptor()).await?;
    let descriptor = make_awaitable(descriptor).map_err(host("cannot poll an exec"))?;
    loop {
        let mut ready = descriptor.readable().await.map_err(host("cannot poll an exec"))?;
        ready.clear_ready();
        let ask = control.clone();
        if let Some(code) = node.block(move |_| ask.wait(Duration::from_millis(100))).await? {
            return Ok(code);
        }
    }
}

async fn kill(node: &Arc<Node>, control: &Arc<dyn Control>) -> Result<(), Error> {
    let control = control.clone();
    Ok(node.block(move |_| control.kill()).await?)
}

/// One stream of the output, read by its own task.
struct Output {
    task: JoinHandle<std::io::Result<Vec<u8>>>,
    ended: tokio::sync::watch::Receiver<()>,
    enough: CancellationToken,
}

impl Output {
    fn spawn(descriptor: Option<OwnedFd>) -> Self {
        let (sender, ended) = tokio::sync::watch::channel(());
        let enough = CancellationToken::new();
        let told = enough.clone();
        let task = tokio::spawn(async move {
            let _until_the_end = sender;
            match descriptor {
                Some(descriptor) => capture(descriptor, OUTPUT_LIMIT, &told).await,
                None => Ok(Vec::new()),
            }
        });
        Self { task, ended, enough }
    }

    async fn wait(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Returns the output so far.
    async fn finish(self) -> Result<Vec<u8>, Error> {
        self.enough.cancel();
        match self.task.await {
            Ok(read) => read.map_err(host("cannot read the output of an exec")),
            Err(defect) => std::panic::resume_unwind(defect.into_panic()),
        }
    }
}

fn host(operation: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Backend(Backend::Host { operation: operation.to_owned(), source })
}
