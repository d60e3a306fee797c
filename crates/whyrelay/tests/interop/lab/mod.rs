//! The laboratory in network namespaces.

mod alike;
// The program's own: its library does not give it out.
#[path = "../../../src/cli/lab/certify.rs"]
mod certify;
mod cut;
mod hops;
mod inside;
mod left_over;
mod matrix;
mod own;
mod packets;
mod pictures;
mod schema;
mod shell;
mod strangers;
mod worlds;

use crate::suite::Suite;

/// The tests of this module.
pub(crate) fn register(suite: &mut Suite) {
    worlds::register(suite);
    alike::register(suite);
    strangers::register(suite);
    matrix::register(suite);
    schema::register(suite);
    pictures::register(suite);
    cut::register(suite);
    inside::register(suite);
    hops::register(suite);
    left_over::register(suite);
    shell::register(suite);
    packets::register(suite);
}
