//! Which todo a lane gets next.
