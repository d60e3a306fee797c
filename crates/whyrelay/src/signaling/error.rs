//! What can go wrong with a signaling server, each with the way out.

use std::io;
use std::time::Duration;

use whyrelay_core::signal::{Refusal, RefusalCode};

/// Why signaling does not work.
#[derive(Debug, thiserror::Error)]
pub enum SignalingError {
    /// The URL is broken.
    #[error("the signaling URL {url:?} is broken: {reason}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server's name has no address.
    #[error("cannot find the address of the signaling server {host}")]
    Name {
        /// The name.
        host: String,
        /// The system's reason.
        source: io::Error,
    },
    /// Nothing answers at the server's address.
    #[error("cannot reach the signaling server at {authority}")]
    Unreachable {
        /// Host and port.
        authority: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The server cannot prove who it is, or speaks no TLS.
    #[error("no TLS with the signaling server at {authority}")]
    Tls {
        /// Host and port.
        authority: String,
        /// The reason.
        source: io::Error,
    },
    /// What answers is no signaling server.
    #[error("what answers at {authority} is no signaling server: {reason}")]
    NotSignaling {
        /// Host and port.
        authority: String,
        /// What it did instead.
        reason: String,
    },
    /// The connection to the server ended.
    #[error("the connection to the signaling server ended: {reason}")]
    Lost {
        /// How.
        reason: String,
    },
    /// Another peer has our id.
    #[error("the id {id:?} is already taken by another peer in this room")]
    IdTaken {
        /// Our id.
        id: String,
        /// When the other one's claim ends, if its connection broke.
        free_in: Option<Duration>,
    },
    /// Another receiver took our id over.
    #[error("another peer took the id {id:?} over")]
    Replaced {
        /// Our id.
        id: String,
    },
    /// The server refuses us.
    #[error("the signaling server refuses: {}", .0.reason)]
    Refused(Refusal),
    /// More messages wait than is reasonable.
    #[error("too many messages wait to be sent")]
    TooManyWaiting,
    /// The message is longer than servers take.
    #[error("a message is longer than 64 KB")]
    TooLarge,
    /// The client has ended.
    #[error("signaling has ended")]
    Closed,
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

/// Whether TLS refuses a certificate because of the time.
fn is_about_time(error: &io::Error) -> bool {
    let text = error.to_string();
    ["certificate expired", "certificate not valid yet"].iter().any(|words| text.contains(words))
}

impl SignalingError {
    /// The way out, for after `hint:`.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Url { .. } => "give it as http://HOST:PORT or https://HOST",
            Self::Name { .. } => {
                "check the name and this host's resolver (/etc/resolv.conf), or give the server's IP address"
            }
            Self::Unreachable { .. } => {
                "check that `whyrelay serve` runs there and that a firewall lets its TCP port through"
            }
            Self::Tls { source, .. } if is_about_time(source) => {
                "compare this host's clock (date -u) with another machine's, then look at the certificate's dates"
            }
            Self::Tls { .. } => "check the certificate's name and issuer, or use http:// if the server has no TLS",
            Self::NotSignaling { .. } => "check the port and the path",
            Self::Lost { .. } => "check whether the server still runs",
            Self::IdTaken { .. } => "choose another --id, or another --room for each session",
            Self::Replaced { .. } => "use another --room for each session",
            Self::Refused(_) => "see the server's options",
            Self::TooLarge | Self::TooManyWaiting | Self::Closed | Self::NoRandomness => "try again",
        }
    }

    /// Whether the system was refused the connection, by the server or by what is in between, this host's own firewall
    /// included: then it is known at once.
    pub(crate) fn is_refusal(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied};
        let refusals = [ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied];
        matches!(self, Self::Unreachable { source, .. } if refusals.contains(&source.kind()))
    }

    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Name { .. } | Self::Unreachable { .. } | Self::Tls { .. } | Self::Lost { .. } => true,
            Self::IdTaken { free_in, .. } => free_in.is_some(),
            Self::Refused(refusal) => refusal.retry_after_ms.is_some(),
            _ => false,
        }
    }

    /// The error that a server's refusal of us is.
    pub(super) fn from_refusal(refusal: Refusal, id: &str) -> Self {
        match refusal.code {
            RefusalCode::IdTaken => Self::IdTaken {
                id: id.to_owned(),
                free_in: refusal.retry_after_ms.map(|millis| Duration::from_millis(millis.min(60_000))),
            },
            RefusalCode::Replaced => Self::Replaced { id: id.to_owned() },
            RefusalCode::TooSlow | RefusalCode::ShuttingDown => Self::Lost { reason: refusal.reason },
            _ => Self::Refused(refusal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_out_of_its_time_sends_to_the_clock() {
        let hint = |text: &str| {
            let (authority, source) = ("signal.example".to_owned(), io::Error::other(text.to_owned()));
            SignalingError::Tls { authority, source }.hint()
        };
        for text in
            ["certificate not valid yet: verification time 1 (UNIX)", "certificate expired: verification time 2"]
        {
            assert!(hint(&format!("invalid peer certificate: {text}")).contains("clock (date -u)"), "{text}");
        }
        assert!(hint("invalid peer certificate: UnknownIssuer").starts_with("check the certificate's name"));
    }
}
