//! Reading settings from TOML so that all faults are reported at once.
