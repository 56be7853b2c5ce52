//! Which programs are measured. `SKEP_BENCH_PROFILE=debug` takes those of the debug build and makes clusters small: to try a
//! measurement, never for a figure.

use xtask::workspace::Profile;

/// The programs to start.
pub fn chosen() -> Profile {
    if std::env::var_os("SKEP_BENCH_PROFILE").is_some_and(|name| name == "debug") {
        Profile::Debug
    } else {
        Profile::Release
    }
}

/// How many Services a large cluster has.
pub fn many_services() -> usize {
    match chosen() {
        Profile::Release => 10_000,
        Profile::Debug => 200,
    }
}
