//! Roles and their conflicts (RFC 8445 §6.1.1, §7.3.1.1, §7.2.5.1).

use crate::trace::event::Role;
use crate::wire::attribute::AttributeType;
use crate::wire::stun::Message;

/// What the role attributes of an inbound request ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// The roles agree, or the peer does not say its own.
    None,
    /// Tell the peer 487 and keep our role.
    Refuse,
    /// Take this role and go on.
    Switch(Role),
}

/// The role that a request claims, with its tie-breaker.
pub(super) fn claimed(request: &Message<'_>) -> Option<(Role, u64)> {
    let controlling = request.u64(AttributeType::ICE_CONTROLLING).map(|tie| (Role::Controlling, tie));
    controlling.or_else(|| request.u64(AttributeType::ICE_CONTROLLED).map(|tie| (Role::Controlled, tie)))
}

/// RFC 8445 §7.3.1.1: the larger tie-breaker becomes controlling, ours on a tie.
pub(super) fn conflict(ours: Role, our_tie_breaker: u64, claimed: Option<(Role, u64)>) -> Conflict {
    match claimed {
        Some((theirs, tie_breaker)) if theirs == ours => match (ours, our_tie_breaker >= tie_breaker) {
            (Role::Controlling, true) | (Role::Controlled, false) => Conflict::Refuse,
            (Role::Controlling, false) => Conflict::Switch(Role::Controlled),
            (Role::Controlled, true) => Conflict::Switch(Role::Controlling),
        },
        _ => Conflict::None,
    }
}

/// The attribute in which a role stands in a request (RFC 8445 §7.1.3).
pub(super) const fn attribute(role: Role) -> AttributeType {
    match role {
        Role::Controlling => AttributeType::ICE_CONTROLLING,
        Role::Controlled => AttributeType::ICE_CONTROLLED,
    }
}

/// The other role.
pub(super) const fn other(role: Role) -> Role {
    match role {
        Role::Controlling => Role::Controlled,
        Role::Controlled => Role::Controlling,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_tie_breaker_becomes_controlling() {
        use Role::{Controlled, Controlling};
        for (ours, our_tie_breaker, claimed, expected) in [
            (Controlling, 5, None, Conflict::None),
            (Controlling, 5, Some((Controlled, 9)), Conflict::None),
            (Controlling, 9, Some((Controlling, 5)), Conflict::Refuse),
            (Controlling, 5, Some((Controlling, 5)), Conflict::Refuse),
            (Controlling, 5, Some((Controlling, 9)), Conflict::Switch(Controlled)),
            (Controlled, 5, Some((Controlled, 9)), Conflict::Refuse),
            (Controlled, 9, Some((Controlled, 5)), Conflict::Switch(Controlling)),
            (Controlled, 5, Some((Controlled, 5)), Conflict::Switch(Controlling)),
        ] {
            assert_eq!(conflict(ours, our_tie_breaker, claimed), expected, "{ours:?} {our_tie_breaker} {claimed:?}");
        }
    }
}
