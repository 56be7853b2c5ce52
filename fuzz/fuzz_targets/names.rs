#![no_main]
#![allow(missing_docs, reason = "the target is documented where it is defined")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| skep_fuzz::names(data));
