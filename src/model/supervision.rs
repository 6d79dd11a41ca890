//! What happens to an actor that died: a pure policy over its recent history.
