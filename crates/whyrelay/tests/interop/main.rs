//! whyrelay beside other people's implementations, as separate processes in network
//! namespaces of their own.
//!
//! Run by `cargo xtask test` (or `cargo xtask interop FILTER`), which installs and builds
//! the peers and tells of them in `WHYRELAY_INTEROP_*`. A test whose tool is missing is
//! listed as ignored with the reason in its name; with `CI` set it fails instead.

mod coturn;
mod namespace;
mod ours;
mod peers;
mod probes;
mod process;
mod suite;

mod advice;
mod application;
mod beside;
mod black_hole;
mod blocked;
mod check;
mod check_account;
mod check_ipv6;
mod check_lab;
mod check_loss;
mod check_names;
mod check_obstacles;
mod check_pair;
mod check_servers;
mod check_time;
mod check_ways;
mod foreign;
mod golab;
mod harness;
mod homes;
mod host;
mod interrupted;
mod ipsec;
mod lab;
mod mechanisms;
mod natdiscovery;
mod openvpn;
mod our_relay;
mod page;
mod port_mapping;
mod relayed;
mod report;
mod resolver;
mod router;
mod running;
mod serve_address;
mod stay;

#[path = "../../../whyrelay-core/tests/account/builder.rs"]
#[expect(dead_code, reason = "the tests of the account use the rest")]
mod builder;

#[path = "../../../whyrelay-core/tests/account/json_schema.rs"]
mod json_schema;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut suite = suite::Suite::default();
    harness::register(&mut suite);
    foreign::register(&mut suite);
    relayed::register(&mut suite);
    openvpn::register(&mut suite);
    our_relay::register(&mut suite);
    golab::register(&mut suite);
    advice::register(&mut suite);
    application::register(&mut suite);
    probes::register(&mut suite);
    running::register(&mut suite);
    blocked::register(&mut suite);
    page::register(&mut suite);
    report::register(&mut suite);
    check::register(&mut suite);
    check_account::register(&mut suite);
    check_ipv6::register(&mut suite);
    check_lab::register(&mut suite);
    check_loss::register(&mut suite);
    check_names::register(&mut suite);
    check_servers::register(&mut suite);
    check_time::register(&mut suite);
    check_pair::register(&mut suite);
    check_ways::register(&mut suite);
    check_obstacles::register(&mut suite);
    port_mapping::register(&mut suite);
    natdiscovery::register(&mut suite);
    beside::register(&mut suite);
    host::register(&mut suite);
    mechanisms::register(&mut suite);
    stay::register(&mut suite);
    interrupted::register(&mut suite);
    black_hole::register(&mut suite);
    serve_address::register(&mut suite);
    ipsec::register(&mut suite);
    lab::register(&mut suite);
    suite.run()
}
