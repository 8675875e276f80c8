//! What a command can fail with, and its exit code.

use std::process::ExitCode;

use drawbridge_device::{ApiAnswer, DeviceError, SignError};

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It was asked wrongly.
    #[error("{0}")]
    Usage(String),
    /// It is not allowed.
    #[error("{0}")]
    Denied(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The server or device cannot be reached.
    #[error("{0}")]
    Unavailable(String),
    /// It contradicts what is there.
    #[error("{0}")]
    Conflict(String),
}

impl Failure {
    /// 2 usage, 3 denied, 4 not found, 5 unavailable, 6 conflict.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Denied(_) => 3,
            Self::NotFound(_) => 4,
            Self::Unavailable(_) => 5,
            Self::Conflict(_) => 6,
        })
    }

    /// What a refusal of the API means for the one who asked.
    #[must_use]
    pub fn of_answer(answer: &ApiAnswer) -> Self {
        let json = answer.json();
        let title = json["title"].as_str().or(json["error"].as_str()).unwrap_or("the server refused");
        let detail = json["detail"].as_str().or(json["error_description"].as_str()).unwrap_or("");
        let code = json["code"].as_str().map(|code| format!(" [{code}]")).unwrap_or_default();
        let text = if detail.is_empty() { format!("{title}{code}") } else { format!("{detail}{code}") };
        let word = json["type"].as_str().unwrap_or("").rsplit(':').next().unwrap_or("").to_owned();
        match (answer.status, word.as_str()) {
            (_, "not-connected" | "not-subscribed" | "timed-out" | "rejected-by-device") => {
                Self::Unavailable(text)
            }
            // A name in a body is as little found as one in a path.
            (_, "policy-not-found" | "registry-unknown") => Self::NotFound(text),
            (401 | 403, _) | (_, "delivery-withheld") => Self::Denied(text),
            (404, _) => Self::NotFound(text),
            (409 | 412, _) => Self::Conflict(text),
            (429 | 500.., _) => Self::Unavailable(text),
            _ => Self::Usage(text),
        }
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        let text = error.to_string();
        match error {
            DeviceError::File { .. } | DeviceError::Key(_) => Self::Usage(text),
            DeviceError::Refused { .. } | DeviceError::Denied(_) => Self::Denied(text),
            DeviceError::Connection { .. }
            | DeviceError::QueueFull { .. }
            | DeviceError::Offline
            | DeviceError::Dropped
            | DeviceError::Stopped
            | DeviceError::Tls { .. }
            | DeviceError::OtherServer { .. }
            | DeviceError::Unavailable { .. }
            | DeviceError::Closed(_)
            | DeviceError::Protocol(_)
            | DeviceError::TimedOut { .. } => Self::Unavailable(text),
        }
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        DeviceError::from(error).into()
    }
}
