//! A case for each rule: a session in which its fault is, and whose it is.

pub(crate) mod facts;
mod host;
pub(crate) mod near;
pub(crate) mod network;

pub(crate) use host::{astray, translated};

use whyrelay_core::trace::event::Vantage;

use crate::builder::{Fate, Session};
use crate::report::{A, A_MAPPED, B, B_MAPPED, STUN, a_checks, b_checks, behind_nats, finish_relayed, relayed};

pub(crate) const STUN_2: &str = "192.0.2.11:3478";

/// A session with one fault.
pub(crate) struct Case {
    /// The code of the rule that must find it first.
    pub(crate) code: &'static str,
    /// Whose fault it is: the name of the blame.
    pub(crate) blame: &'static str,
    pub(crate) session: Session,
    /// Other findings of severity error or warning that belong to it.
    pub(crate) also: &'static [&'static str],
}

pub(crate) fn case(code: &'static str, blame: &'static str, session: Session) -> Case {
    Case { code, blame, session, also: &[] }
}

pub(crate) fn all() -> Vec<Case> {
    host::cases().into_iter().chain(network::cases()).collect()
}

/// Two sides behind NATs that map alike for two servers.
pub(crate) fn easy_nats() -> Session {
    let mut session = behind_nats();
    session.stun(Vantage::A, A, STUN_2, Some(A_MAPPED));
    session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
    session
}

/// Such sides whose checks are all lost, both ways, so that they talk through A's relay; `facts` come at the end.
pub(crate) fn lost(facts: impl FnOnce(&mut Session)) -> Session {
    let mut session = relayed();
    session.stun(Vantage::A, A, STUN_2, Some(A_MAPPED));
    session.stun(Vantage::B, B, STUN_2, Some(B_MAPPED));
    session.relayed_check(Vantage::A, A, STUN, crate::report::RELAYED, (B, B_MAPPED), true);
    facts(&mut session);
    session.select(Vantage::A, crate::report::RELAYED, B_MAPPED);
    session.select(Vantage::B, B, crate::report::RELAYED);
    session.end(Vantage::A, whyrelay_core::trace::event::EndReason::Finished);
    session.end(Vantage::B, whyrelay_core::trace::event::EndReason::Finished);
    session
}

/// Such sides without a relay, whose checks fare as told; `facts` come before the end.
pub(crate) fn failing(a: Fate, b: Fate, facts: impl FnOnce(&mut Session)) -> Session {
    let mut session = easy_nats();
    session.check(crate::builder::Check { transmissions: 7, ..a_checks(a) });
    session.check(crate::builder::Check { transmissions: 7, ..b_checks(b) });
    facts(&mut session);
    session.fail(Vantage::A);
    session.fail(Vantage::B);
    session
}

/// Ends a session through A's relay.
pub(crate) fn over_relay(mut session: Session) -> Session {
    finish_relayed(&mut session);
    session
}
