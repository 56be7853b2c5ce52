//! What the kernel's verifier makes of the programs of Services, against the records in `ebpf/programs`. Needs root.

#[path = "verifier/record.rs"]
mod record;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_EBPF_OBJECT"));
static TCP_OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_TCP_OBJECT"));

#[test]
fn no_program_weighs_more_than_was_recorded() {
    record::compare(OBJECT, &[("HAS_SET_RETVAL", 1)], "skep.txt", "skep-proxy");
}

#[test]
fn nor_with_least_connections() {
    let globals = [("HAS_SET_RETVAL", 1), ("LEAST_CONNECTIONS", 1)];
    record::compare(OBJECT, &globals, "skep-least-connections.txt", "skep-proxy");
}

#[test]
fn nor_does_the_one_that_watches_connections() {
    record::compare(TCP_OBJECT, &[], "skep-tcp.txt", "skep-proxy");
}
