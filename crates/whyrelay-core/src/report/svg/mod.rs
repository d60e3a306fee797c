//! Pictures of the account as SVG, the same for the report file and the web page.
//!
//! They carry classes and no style of their own: [`PICTURE_STYLE`] goes into the page's style sheet, so that a strict
//! Content-Security-Policy holds and light and dark follow the page.

mod draw;
mod lane;
mod network;
mod network_tall;
mod timeline;

pub use network::network_svg;
pub use network_tall::network_tall_svg;
pub use timeline::timeline_svg;

pub(super) use network::network_picture;
pub(super) use network_tall::network_tall_picture;
pub(super) use timeline::timeline_picture;

/// The style of the pictures. The colors are the page's own, by name, with defaults.
pub const PICTURE_STYLE: &str = include_str!("picture.css");
