#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| cloze_fuzz_targets::pytorch(input));
