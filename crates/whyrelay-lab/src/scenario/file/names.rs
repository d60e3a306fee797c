//! What the core's types are called in the schema.

use schemars::JsonSchema;

/// For the schema: the words of RFC 4787, whose types are the core's.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum BehaviorName {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

/// How a NAT chooses the ports outside.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum PortAllocationName {
    /// The one inside, where it is free.
    Preserving,
    /// Any.
    Random,
    /// The next.
    Sequential,
    /// The same for the same inside endpoint, and destination where the mapping depends on it.
    Hash,
    /// Each host has a block of ports.
    Contiguous {
        /// Ports in a block.
        #[schemars(range(min = 1))]
        block: u16,
    },
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum PoolingName {
    Paired,
    Arbitrary,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum RefreshName {
    Outbound,
    Both,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum HairpinningName {
    Unsupported,
    ExternalSource,
    InternalSource,
}

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum UnsolicitedName {
    Dropped,
    Tracked,
}
