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

#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) enum PortAllocationName {
    Preserving,
    Random,
    Sequential,
    Hash,
    Contiguous { block: u16 },
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
