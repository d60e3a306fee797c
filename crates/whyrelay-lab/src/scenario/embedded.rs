//! The scenarios of the repository, in the program: made by the build script.

include!(concat!(env!("OUT_DIR"), "/scenarios.rs"));
