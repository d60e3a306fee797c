//! The license and source of every dependency, against the lists of `deny.toml`.
//!
//! `cargo deny` checks the same and more; building it takes longer than the rest of
//! the run, so this holds the line where it is not installed.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::step;
use crate::test::cargo;

/// The only place that dependencies come from.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Fails with a line for each dependency that the lists do not allow.
pub(crate) fn check() -> Result<()> {
    let deny = std::fs::read_to_string("deny.toml").context("reading deny.toml")?;
    let allowed = allowed_licenses(&deny)?;
    let metadata = step::output(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("reading cargo's metadata")?;
    let packages = metadata["packages"].as_array().context("cargo's metadata lists no packages")?;
    let mut refused = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        match package["source"].as_str() {
            None | Some(REGISTRY) => {}
            Some(source) => refused.push(format!("{name} comes from {source}")),
        }
        match package["license"].as_str() {
            Some(license) if is_allowed(license, &allowed) => {}
            Some(license) => refused.push(format!("{name} is under {license}")),
            None => refused.push(format!("{name} names no license")),
        }
    }
    if !refused.is_empty() {
        bail!("not allowed by deny.toml: {}", refused.join("; "));
    }
    Ok(())
}

/// The strings of the list `allow` under `[licenses]`.
fn allowed_licenses(deny: &str) -> Result<Vec<&str>> {
    let list = deny
        .split_once("[licenses]")
        .and_then(|(_, rest)| rest.split_once("allow = ["))
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(list, _)| list)
        .context("deny.toml has no list of allowed licenses")?;
    Ok(list.split('"').skip(1).step_by(2).collect())
}

/// Whether an SPDX expression can be satisfied with `allowed` licenses alone.
///
/// `/` is the old spelling of OR. AND binds tighter than OR (SPDX 2.3 annex D.4).
fn is_allowed(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { tokens: &tokens, allowed };
    // What is left over was not understood, and that allows nothing.
    parser.alternatives() && parser.tokens.is_empty()
}

struct Parser<'a> {
    tokens: &'a [&'a str],
    allowed: &'a [&'a str],
}

impl Parser<'_> {
    fn alternatives(&mut self) -> bool {
        let mut any = self.conjunction();
        while self.takes("OR") {
            any |= self.conjunction();
        }
        any
    }

    fn conjunction(&mut self) -> bool {
        let mut all = self.license();
        while self.takes("AND") {
            all &= self.license();
        }
        all
    }

    fn license(&mut self) -> bool {
        if self.takes("(") {
            let inner = self.alternatives();
            return self.takes(")") && inner;
        }
        let Some((name, rest)) = self.tokens.split_first() else {
            return false;
        };
        self.tokens = rest;
        if self.takes("WITH") {
            let Some((exception, rest)) = self.tokens.split_first() else {
                return false;
            };
            self.tokens = rest;
            return self.allowed.contains(&format!("{name} WITH {exception}").as_str());
        }
        self.allowed.contains(name)
    }

    fn takes(&mut self, token: &str) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if *first == token => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{allowed_licenses, is_allowed};

    #[test]
    fn an_expression_is_allowed_when_allowed_licenses_satisfy_it() {
        let allowed = ["MIT", "Apache-2.0", "ISC", "Unicode-3.0"];
        let table = [
            ("MIT", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-only AND MIT OR ISC", true),
            ("GPL-3.0-only AND (MIT OR ISC)", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("Apache-2.0 WITH LLVM-exception OR MIT", true),
            ("Apache-2.0 WITH LLVM-exception", false),
            ("ISC AND (Apache-2.0 OR ISC) AND (MIT", false),
            ("MIT )", false),
            ("", false),
        ];
        for (expression, expected) in table {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn the_list_of_deny_toml_is_read() {
        let deny = "[graph]\nallow = [\"X\"]\n[licenses]\nallow = [\n  \"MIT\",\n  \"ISC\",\n]\n";
        assert_eq!(allowed_licenses(deny).ok(), Some(vec!["MIT", "ISC"]));
        assert!(allowed_licenses("[licenses]").is_err());
    }
}
