#![no_main]

libfuzzer_sys::fuzz_target!(init: cloze_fuzz_targets::let_tokenizers_panic(), |input: &[u8]| cloze_fuzz_targets::vocab(input));
