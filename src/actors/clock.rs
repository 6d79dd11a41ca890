//! The one clock of the daemon, and the one source of chance.

use std::sync::Arc;

use crate::model::ids::OperationId;
use crate::model::time::Timestamp;

/// Says what time it is. Cloned freely; tests put their own in.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The wall clock of this machine.
    #[must_use]
    pub fn system() -> Self {
        Self::of(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        })
    }

    /// A clock that asks the given function.
    pub fn of(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The time now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// A number in `0.0..1.0` that differs from call to call, to spread retries.
#[must_use]
pub fn jitter() -> f64 {
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
    #[expect(clippy::cast_precision_loss, reason = "a fraction needs no more than 53 bits")]
    let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

/// A new operation id; ids made later sort later.
#[must_use]
pub fn operation_id() -> OperationId {
    OperationId::parse(&ulid::Ulid::generate().to_string()).expect("a ULID is 26 characters of Crockford base 32")
}
