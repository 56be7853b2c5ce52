//! What the kernel's verifier makes of the programs of NetworkPolicy, against the record in `ebpf/programs/skep-policy.txt`.
//! Needs root.

#[path = "../../proxy/tests/verifier/record.rs"]
mod record;

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("SKEP_POLICY_OBJECT"));

#[test]
fn no_program_weighs_more_than_was_recorded() {
    record::compare(OBJECT, &[], "skep-policy.txt", "skep-policy");
}
