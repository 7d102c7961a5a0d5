//! Error → gRPC status: the only place that knows gRPC's codes. The texts are those that kubelet and crictl know from
//! containerd where they look at them: `not found`, `is reserved for`, `context deadline exceeded`.

use tonic::{Code, Status};

use crate::error::{Backend, Error};

/// The limit on an error's text, in bytes: gRPC sends it in a header, which clients cap at 8 KiB or more.
const MESSAGE_LIMIT: usize = 4096;

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut message = host::chain(&error);
        if message.len() > MESSAGE_LIMIT {
            message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
            message.push('…');
        }
        Status::new(code(&error), message)
    }
}

/// The answer to every call until recovery is done.
pub(crate) fn recovering() -> Status {
    Status::unavailable("the server is recovering its pods and containers; try again in a moment")
}

/// The answer to a call whose task panicked.
pub(crate) fn defect(error: &tokio::task::JoinError) -> Status {
    Status::internal(format!("the call ended in a defect: {error}"))
}

/// The end of an event stream whose client does not keep up.
pub(crate) fn lagged(lost: u64) -> Status {
    Status::data_loss(format!("{lost} events came faster than they were read"))
}

/// Whether clients get this code from this RPC all the time: kubelet asks for containers that are gone, and a probe of its may
/// fail every few seconds (no such program, a time-out, an end of the container meanwhile).
pub(crate) fn is_routine(rpc: &str, code: Code) -> bool {
    match code {
        Code::NotFound | Code::Unimplemented => true,
        Code::Unknown | Code::DeadlineExceeded | Code::FailedPrecondition => rpc == "ExecSync",
        _ => false,
    }
}

/// Whether the request itself says how long the RPC takes: a grace period, a command, the size of an image.
pub(crate) fn is_long(rpc: &str) -> bool {
    matches!(rpc, "StopContainer" | "StopPodSandbox" | "ExecSync" | "PullImage" | "ImportImages" | "ImportRoot")
}

fn code(error: &Error) -> Code {
    match error {
        // From any backend: a disk, a kernel table or a quota is full, and space can be freed.
        Error::Backend(backend) if host::is_exhausted(backend) => Code::ResourceExhausted,
        Error::NotFound { .. } => Code::NotFound,
        Error::Invalid { .. } => Code::InvalidArgument,
        Error::Reserved { .. } => Code::AlreadyExists,
        Error::State { .. } => Code::FailedPrecondition,
        Error::Deadline { .. } => Code::DeadlineExceeded,
        Error::Exhausted { .. } => Code::ResourceExhausted,
        Error::Unsupported { .. } => Code::Unimplemented,
        // kubelet sees the first word of UNKNOWN alone: it puts the code in front of any other (remote_image.go).
        Error::RegistryUnavailable(_) => Code::Unknown,
        Error::Backend(Backend::Runtime(error)) => of_runtime(error),
        Error::Backend(Backend::Network(error)) => of_network(error),
        Error::Backend(Backend::Image(error)) => of_image(error),
        Error::Backend(Backend::Streaming(error)) => of_streaming(error),
        Error::Backend(Backend::Record(_) | Backend::Host { .. }) => Code::Internal,
        Error::Several { errors, .. } => {
            errors.errors().first().and_then(|error| error.downcast_ref()).map_or(Code::Internal, code)
        }
    }
}

fn of_runtime(error: &runtime::Error) -> Code {
    match error {
        runtime::Error::NotFound { .. } => Code::NotFound,
        runtime::Error::Invalid { .. } => Code::InvalidArgument,
        // A field that this backend cannot honour: UNIMPLEMENTED would mean the whole RPC.
        runtime::Error::Unsupported { .. } => Code::InvalidArgument,
        runtime::Error::Conflict { .. } => Code::FailedPrecondition,
        runtime::Error::Command { .. } => Code::Unknown,
        runtime::Error::Unavailable { .. } => Code::Unavailable,
        runtime::Error::Failed { .. } => Code::Internal,
    }
}

fn of_network(error: &network::Error) -> Code {
    match error {
        network::Error::NotFound { .. } => Code::NotFound,
        network::Error::Invalid { .. } | network::Error::Unsupported { .. } => Code::InvalidArgument,
        network::Error::Conflict { .. } => Code::AlreadyExists,
        network::Error::Exhausted { .. } => Code::ResourceExhausted,
        network::Error::Failed { .. } => Code::Internal,
    }
}

fn of_image(error: &image::Error) -> Code {
    match error {
        image::Error::NotFound { .. } => Code::NotFound,
        image::Error::Invalid { .. } => Code::InvalidArgument,
        // Snapshots on a file system without them: no field of the request is at fault.
        image::Error::Unsupported { .. } => Code::Unimplemented,
        image::Error::Denied { .. } => Code::PermissionDenied,
        image::Error::Unavailable { .. } => Code::Unavailable,
        image::Error::Conflict { .. } => Code::FailedPrecondition,
        image::Error::Failed { .. } => Code::Internal,
    }
}

fn of_streaming(error: &streaming::Error) -> Code {
    match error {
        streaming::Error::Invalid { .. } => Code::InvalidArgument,
        streaming::Error::TooMany => Code::ResourceExhausted,
        streaming::Error::Certificate { .. } | streaming::Error::Listen { .. } => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tonic::{Code, Status};

    use super::is_routine;
    use crate::error::{Backend, Error};

    #[test]
    fn what_is_used_up_is_told_as_such_whoever_says_it() {
        let full = || io::Error::from_raw_os_error(nix::libc::ENOSPC);
        let errors = [
            Error::from(runtime::Error::failed("cannot start a monitor")(full())),
            network::Error::failed("cannot load an anchor")(full()).into(),
            image::Error::io("cannot write blob sha256:0")(full()).into(),
            Backend::Host { operation: "cannot create the log directory /x".to_owned(), source: full() }.into(),
        ];
        for error in errors {
            let status = Status::from(error);
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(status.message().ends_with("No space left on device (os error 28)"), "{status}");
        }
        let other = runtime::Error::failed("cannot start a monitor")(io::Error::from_raw_os_error(nix::libc::EIO));
        assert_eq!(Status::from(Error::from(other)).code(), Code::Internal);
    }

    #[test]
    fn a_failing_probe_is_routine_and_a_failing_pod_is_not() {
        for code in [Code::Unknown, Code::DeadlineExceeded, Code::FailedPrecondition] {
            assert!(is_routine("ExecSync", code) && !is_routine("RunPodSandbox", code), "{code:?}");
        }
        assert!(is_routine("ContainerStatus", Code::NotFound) && !is_routine("ExecSync", Code::Internal));
    }

    #[test]
    fn a_text_that_is_too_long_for_a_header_is_cut() {
        let status = Status::from(Error::Invalid { field: "image".to_owned(), reason: "ä".repeat(100_000) });
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().len() < 4200 && status.message().starts_with("image: ä"));
    }

    #[test]
    fn a_reserved_name_reads_as_containerd_says_it() {
        let status = Status::from(Error::Reserved { what: "sandbox", name: "a_b".to_owned(), owner: "4f".to_owned() });
        assert_eq!(status.message(), r#"failed to reserve sandbox name "a_b": name "a_b" is reserved for "4f""#);
    }
}
