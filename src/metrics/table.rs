//! Tables of held handles, one per label or pair of labels.

use metrics::{Counter, Gauge, Histogram, Label};

use super::Metric;

/// How an operation of ours ended, in the order of its handles: well, or not.
pub(super) const OUTCOMES: [&str; 2] = ["ok", "error"];

fn key(metric: &Metric, values: &[&'static str]) -> metrics::Key {
    let labels: Vec<Label> = metric
        .labels
        .split(',')
        .filter(|name| !name.is_empty())
        .zip(values)
        .map(|(name, value)| Label::new(name, *value))
        .collect();
    metrics::Key::from_parts(metric.name, labels)
}

const META: metrics::Metadata<'static> = metrics::Metadata::new(module_path!(), metrics::Level::INFO, None);

/// A counter with its label values, made at zero.
pub(super) fn counter(metric: &Metric, values: &[&'static str]) -> Counter {
    let counter = metrics::with_recorder(|recorder| recorder.register_counter(&key(metric, values), &META));
    counter.increment(0);
    counter
}

/// A gauge with its label values, made at zero.
pub(super) fn gauge(metric: &Metric, values: &[&'static str]) -> Gauge {
    let gauge = metrics::with_recorder(|recorder| recorder.register_gauge(&key(metric, values), &META));
    gauge.increment(0.0);
    gauge
}

/// A histogram with its label values, made empty.
pub(super) fn histogram(metric: &Metric, values: &[&'static str]) -> Histogram {
    metrics::with_recorder(|recorder| recorder.register_histogram(&key(metric, values), &META))
}

macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }
        }
    };
}
pub(super) use labels;
