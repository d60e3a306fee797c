//! Links.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::scenario::value::{Rate, Span};

/// What a link does to packets, both ways alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Link {
    /// How long every packet takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// At most this much longer.
    #[serde(skip_serializing_if = "is_default")]
    pub jitter: Span,
    /// Packets lost, each by itself, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub loss: f64,
    /// Losses in bursts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// Packets that are overtaken, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub reorder: f64,
    /// Packets that arrive twice, in percent.
    #[serde(skip_serializing_if = "is_default")]
    pub duplicate: f64,
    /// Bits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// The largest IP packet in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}

/// Losses that come together (Gilbert's model). A link that carries nothing for 100 ms forgets its burst.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Burst {
    /// How much of the time is bad, in percent.
    #[schemars(range(min = 0, max = 99))]
    pub bad: f64,
    /// How many packets a bad time lasts on average: at least BAD / (100 - BAD), as a link is good for one packet between
    /// two bursts.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub length: f64,
    /// Loss in a bad time, in percent; all of it unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}
