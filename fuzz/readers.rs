//! One of the readers of `tests/readers/table.rs`, the one that READER names, under libFuzzer.

#![no_main]

#[path = "../tests/readers/table.rs"]
mod table;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READ: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let wanted = std::env::var("READER").unwrap_or_default();
    let names: Vec<&str> = table::READERS.iter().map(|reader| reader.name).collect();
    let found = table::READERS.iter().find(|reader| reader.name == wanted);
    found.unwrap_or_else(|| panic!("READER is {wanted:?}; it is one of {}", names.join(", "))).read
});

fuzz_target!(|data: &[u8]| READ(data));
