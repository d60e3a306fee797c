//! The account, from hand-made sessions: what both sides' recordings say when a chain breaks at each step.

mod a_host_alone;
mod at_the_device;
mod between;
mod builder;
mod cases;
mod check_schema;
mod choices;
mod clocks;
mod events;
mod every_rule;
mod families;
mod findings;
mod growing;
mod growth;
mod half_seen;
mod hostile;
mod html;
mod ipsec;
mod json_schema;
mod one_port;
mod outages;
mod over_tcp;
mod pcapng;
mod proof;
mod readable;
mod recordings;

mod redact;
mod relay_of_a_check;
mod remedies;
mod report;
mod rules;
mod rules_of_a_check;
mod scale;
mod schema;
mod segments;
