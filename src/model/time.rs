//! Points in time. The model never reads a clock: time is always an argument.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A wall-clock instant in whole milliseconds since 1970, shown as RFC 3339 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(with = "String", extend("format" = "date-time"))]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }
    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        self.0
    }
    /// Seconds since 1970-01-01T00:00:00Z, as metrics have it.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century fit")]
    pub const fn as_seconds(self) -> f64 {
        self.0 as f64 / 1_000.0
    }
    /// This instant moved by `ms` milliseconds; saturates at the ends of time.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// An instant in the time the daemon has been awake, in whole milliseconds since its ledger was made.
///
/// It stands still while the machine sleeps and while no daemon runs, and no step of the wall clock moves it. Leases and
/// backoffs are counted in it: a night of sleep neither ends every lease nor keeps a dead one for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema)]
pub struct Awake(i64);

impl Awake {
    /// From milliseconds of waking.
    #[must_use]
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }
    /// Milliseconds of waking.
    #[must_use]
    pub const fn as_ms(self) -> i64 {
        self.0
    }
    /// This instant moved by `ms` milliseconds; saturates at the ends of time.
    #[must_use]
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
    /// Milliseconds from `earlier` to this instant.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// What the wall clock says.
    pub wall: Timestamp,
    /// How long the daemon has been awake.
    pub awake: Awake,
    /// What is added to waking time to show it as wall time, in milliseconds. It stays the same until the wall clock
    /// was stepped or the machine slept, so that the same lease is shown with the same end.
    pub offset_ms: i64,
}

impl Moment {
    /// A moment at which both clocks say the same; for tests and tables.
    #[must_use]
    pub const fn both(ms: i64) -> Self {
        Self { wall: Timestamp::from_ms(ms), awake: Awake::from_ms(ms), offset_ms: 0 }
    }

    /// When an instant of waking time will be, or was, by the wall clock, if nothing sleeps in between.
    #[must_use]
    pub const fn wall_of(&self, awake: Awake) -> Timestamp {
        Timestamp::from_ms(awake.as_ms().saturating_add(self.offset_ms))
    }

    /// Milliseconds from now until `awake`; zero when it has passed.
    #[must_use]
    pub fn until_ms(&self, awake: Awake) -> u64 {
        u64::try_from(awake.since_ms(self.awake)).unwrap_or(0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse::<jiff::Timestamp>().map(|at| Self(at.as_millisecond())).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_json() {
        let at = Timestamp::from_ms(1_772_150_400_123);
        let text = serde_json::to_string(&at).expect("serializes");
        assert_eq!(text, "\"2026-02-27T00:00:00.123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).expect("parses"), at);
    }
}
