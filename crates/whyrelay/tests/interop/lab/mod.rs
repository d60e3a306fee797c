//! The laboratory in network namespaces.

mod left_over;
mod strangers;
mod worlds;

use crate::suite::Suite;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    worlds::register(suite);
    strangers::register(suite);
    left_over::register(suite);
}
