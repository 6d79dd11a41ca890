//! Places in traces: W3C Trace Context, level 1.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;

/// Bytes of a `tracestate` that are passed on (the recommendation asks for at least 512).
const STATE_BYTES_MAX: usize = 512;

/// One span's place: which trace it is in, who it is, and whose child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: NonZeroU128,
    span: NonZeroU64,
    parent: Option<NonZeroU64>,
    sampled: bool,
    state: Option<Arc<str>>,
}

impl Trace {
    /// The beginning of a new trace.
    #[must_use]
    pub const fn root(id: NonZeroU128, span: NonZeroU64) -> Self {
        Self { id, span, parent: None, sampled: true, state: None }
    }

    /// A span under what a caller says of itself in `traceparent` and `tracestate`; `None` when that is no trace context,
    /// and then a new trace begins. A state that cannot be passed on as it is is left out.
    #[must_use]
    pub fn under(traceparent: &str, tracestate: Option<&str>, span: NonZeroU64) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let version = hex(parts.next()?, 2).filter(|version| *version != 0xff)?;
        let id = NonZeroU128::new(hex(parts.next()?, 32)?)?;
        let parent = u64::try_from(hex(parts.next()?, 16)?).ok().and_then(NonZeroU64::new)?;
        let flags = hex(parts.next()?, 2)?;
        // Version 0 ends here; later ones may say more.
        if version == 0 && parts.next().is_some() {
            return None;
        }
        let fits = |state: &&str| {
            !state.is_empty()
                && state.len() <= STATE_BYTES_MAX
                && state.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        };
        let state = tracestate.filter(fits).map(Arc::from);
        Some(Self { id, span, parent: Some(parent), sampled: flags & 1 == 1, state })
    }

    /// A span below this one.
    #[must_use]
    pub fn child(&self, span: NonZeroU64) -> Self {
        Self { span, parent: Some(self.span), ..self.clone() }
    }

    /// The trace's id: 32 hexadecimal digits.
    #[must_use]
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// The trace's id as a number.
    #[must_use]
    pub const fn id(&self) -> u128 {
        self.id.get()
    }

    /// The span's id.
    #[must_use]
    pub const fn span(&self) -> u64 {
        self.span.get()
    }

    /// The id of the span it is below.
    #[must_use]
    pub fn parent(&self) -> Option<u64> {
        self.parent.map(NonZeroU64::get)
    }

    /// Whether whoever began the trace records it.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// What others keep in the trace, to be passed on.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// As `traceparent` has it.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.id, self.span, u8::from(self.sampled))
    }
}

/// Exactly so many lowercase hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u128::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: NonZeroU64 = NonZeroU64::new(0xabc).expect("not zero");
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_caller_is_the_parent_and_its_trace_goes_on() {
        let trace = Trace::under(PARENT, Some("vendor=1"), SPAN).expect("is one");
        assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((trace.parent(), trace.span(), trace.is_sampled()), (Some(0xb7ad_6b71_6920_3331), 0xabc, true));
        assert_eq!(trace.to_string(), "00-0af7651916cd43dd8448eb211c80319c-0000000000000abc-01");
        let child = trace.child(NonZeroU64::MAX);
        assert_eq!(
            (child.parent(), child.trace_id(), child.state()),
            (Some(0xabc), trace.trace_id(), Some("vendor=1"))
        );
    }

    #[test]
    fn what_breaks_the_rules_is_no_context_and_what_is_newer_is_read_as_far_as_it_is_known() {
        for broken in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::under(broken, None, SPAN), None, "{broken}");
        }
        assert!(Trace::under("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", None, SPAN).is_some());
        let unsampled = Trace::under("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", None, SPAN);
        assert!(unsampled.is_some_and(|trace| !trace.is_sampled() && trace.to_string().ends_with("-00")));
        let long = "x".repeat(STATE_BYTES_MAX + 1);
        for state in ["", "a\nb", "é", &long] {
            assert_eq!(Trace::under(PARENT, Some(state), SPAN).expect("is one").state(), None, "{state:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_printed_is_read_again(text in ".{0,80}", id in 1_u128.., span in 1_u64..) {
            let _ = Trace::under(&text, Some(&text), SPAN);
            let trace = Trace::root(NonZeroU128::new(id).expect("above zero"), NonZeroU64::new(span).expect("above zero"));
            let read = Trace::under(&trace.to_string(), None, SPAN).expect("is one");
            prop_assert_eq!((read.id(), read.parent()), (id, Some(span)));
        }
    }
}
