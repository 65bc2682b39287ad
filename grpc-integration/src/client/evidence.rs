//! What the end of an attempt tells of its server.

use tonic::Code;

/// What the end of an attempt tells of its server: the same for policies, outlier detection and the state of the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Nothing: it was not sent, the caller has given it up, or it has ended with others whose connection was lost.
    None,
    /// The server has answered, if only that the request is wrong.
    Answer,
    /// The server has failed the call.
    Failure,
}

impl Evidence {
    /// What the status of an attempt tells that was sent.
    pub(crate) fn of(code: Code) -> Self {
        match code {
            Code::Cancelled => Self::None,
            Code::Unavailable
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::DeadlineExceeded => Self::Failure,
            _ => Self::Answer,
        }
    }
}
