//! A recorder of metrics that keeps every series.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key as MetricKey, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// Keeps every series.
#[derive(Default)]
pub(crate) struct Numbers(Mutex<BTreeMap<String, Arc<Series>>>);

#[derive(Default)]
pub(crate) struct Series {
    count: AtomicU64,
    values: Mutex<Vec<f64>>,
}

impl CounterFn for Series {
    fn increment(&self, value: u64) {
        self.count.fetch_add(value, Ordering::Relaxed);
    }

    fn absolute(&self, value: u64) {
        self.count.store(value, Ordering::Relaxed);
    }
}

impl GaugeFn for Series {
    fn increment(&self, value: f64) {
        self.values.lock().unwrap().push(value);
    }

    fn decrement(&self, value: f64) {
        self.values.lock().unwrap().push(-value);
    }

    fn set(&self, value: f64) {
        *self.values.lock().unwrap() = vec![value];
    }
}

impl HistogramFn for Series {
    fn record(&self, value: f64) {
        self.values.lock().unwrap().push(value);
    }
}

impl Numbers {
    fn series(&self, key: &MetricKey) -> Arc<Series> {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    /// The counters of this name that have counted, by their labels.
    pub(crate) fn counts(&self, name: &str) -> BTreeMap<String, u64> {
        let series = self.0.lock().unwrap();
        let of_name = series.iter().filter_map(|(key, series)| {
            let labels = key.strip_prefix(name)?.strip_prefix("{policy=api,")?.strip_suffix('}')?;
            Some((labels.to_owned(), series.count.load(Ordering::Relaxed)))
        });
        of_name.filter(|(_, count)| *count > 0).collect()
    }

    /// The same of all labels.
    pub(crate) fn labelled(&self, name: &str) -> BTreeMap<String, u64> {
        let series = self.0.lock().unwrap();
        let of_name = series.iter().filter_map(|(key, series)| {
            let labels = key.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')?;
            Some((labels.to_owned(), series.count.load(Ordering::Relaxed)))
        });
        of_name.filter(|(_, count)| *count > 0).collect()
    }

    pub(crate) fn count(&self, series: &str) -> u64 {
        self.0.lock().unwrap()[series].count.load(Ordering::Relaxed)
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        self.0.lock().unwrap()[name].values.lock().unwrap().clone()
    }
}

impl Recorder for Numbers {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &MetricKey, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.series(key))
    }

    fn register_gauge(&self, key: &MetricKey, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.series(key))
    }

    fn register_histogram(&self, key: &MetricKey, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.series(key))
    }
}
