//! What a reviewer need not look for.

use anyhow::Result;
use xtask::command::find;

use super::setup::run_cargo;

pub(crate) fn run() -> Result<()> {
    run_cargo(&["fmt", "--all", "--check"])?;
    run_cargo(&["clippy", "--all-targets", "--", "--deny", "warnings"])?;
    // Needs the advisory database, so it is no part of the tests, which must run without the outside world.
    if find("cargo-deny").is_some() {
        return run_cargo(&["deny", "check", "bans", "licenses", "sources"]);
    }
    eprintln!("cargo-deny is not installed: licences and sources were not checked (`cargo install cargo-deny`)");
    Ok(())
}
