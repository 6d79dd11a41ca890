//! From what a probe saw to what has to be done: pure, small, table-tested.
