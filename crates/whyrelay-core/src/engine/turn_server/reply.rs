//! How one request wants to be answered.

use crate::wire::attribute::AttributeType;
use crate::wire::integrity::Key;
use crate::wire::stun::{Class, Message, MessageBuilder, Method, TransactionId};

/// What a response takes over from its request: method, transaction, and which protection it carries.
#[derive(Clone)]
pub(super) struct Reply {
    method: Method,
    transaction: TransactionId,
    fingerprint: bool,
    sha256: bool,
}

/// An error response: code and, for who has shown a password, a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl Reply {
    pub(super) fn to(request: &Message<'_>) -> Self {
        Self {
            method: request.method,
            transaction: request.transaction,
            fingerprint: request.has(AttributeType::FINGERPRINT),
            sha256: request.has(AttributeType::MESSAGE_INTEGRITY_SHA256),
        }
    }

    pub(super) const fn method(&self) -> Method {
        self.method
    }

    pub(super) fn success(&self) -> MessageBuilder {
        MessageBuilder::new(Class::Success, self.method, self.transaction)
    }

    pub(super) fn error(&self, rejection: Rejection) -> MessageBuilder {
        MessageBuilder::new(Class::Error, self.method, self.transaction).error(rejection.code, rejection.reason)
    }

    /// Signs as the request was signed (RFC 8489 §9.2.4).
    pub(super) fn signed(&self, message: MessageBuilder, key: &Key) -> Vec<u8> {
        let message = if self.sha256 { message.integrity_sha256(key) } else { message.integrity(key) };
        self.finished(message)
    }

    /// FINGERPRINT for who sent one, nothing else.
    pub(super) fn finished(&self, message: MessageBuilder) -> Vec<u8> {
        if self.fingerprint { message.fingerprint() } else { message }.build()
    }
}

impl Rejection {
    pub(super) const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }
}
