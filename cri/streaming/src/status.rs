//! The outcome of a command on the error stream: from v4 on a Kubernetes Status in JSON with the exit code, before that a text,
//! and nothing for success.

use serde_json::json;

/// How a command or an attachment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It exited with this code. An attachment always has 0: the container's status has its exit code.
    Exited(i32),
    /// It could not be started or awaited, for this reason.
    Failed(String),
}

/// The encoding of the error stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// v1, v2, v3: a text.
    Text,
    /// v4 and v5: a Status.
    Json,
}

impl Outcome {
    /// Encodes the outcome; empty: the stream is only closed. kubelet and kubectl evaluate the reason and the cause.
    pub(super) fn encode(&self, format: Format) -> Vec<u8> {
        let message = match self {
            Self::Exited(0) => String::new(),
            Self::Exited(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Failed(reason) => format!("Internal error occurred: {reason}"),
        };
        let status = match (format, self) {
            (Format::Text, _) => return message.into_bytes(),
            (Format::Json, Self::Exited(0)) => json!({"status": "Success"}),
            (Format::Json, Self::Exited(code)) => json!({
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            (Format::Json, Self::Failed(_)) => json!({
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Outcome};

    #[test]
    fn the_exit_code_is_a_cause() {
        let json: serde_json::Value = serde_json::from_slice(&Outcome::Exited(7).encode(Format::Json)).unwrap();
        assert_eq!(json["reason"], "NonZeroExitCode");
        assert_eq!(json["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(Outcome::Exited(0).encode(Format::Json), br#"{"status":"Success"}"#);
        let json: serde_json::Value =
            serde_json::from_slice(&Outcome::Failed("no such program".to_owned()).encode(Format::Json)).unwrap();
        assert_eq!((&json["reason"], &json["code"]), (&"InternalError".into(), &500.into()));
        assert_eq!(json["message"], "Internal error occurred: no such program");
    }

    #[test]
    fn older_clients_get_a_text_and_nothing_for_success() {
        assert!(Outcome::Exited(0).encode(Format::Text).is_empty());
        let text = Outcome::Exited(3).encode(Format::Text);
        assert_eq!(text, b"command terminated with non-zero exit code: exit status 3");
    }
}
