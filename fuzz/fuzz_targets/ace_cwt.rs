#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drawbridge_fuzz_targets::ace_cwt(data));
