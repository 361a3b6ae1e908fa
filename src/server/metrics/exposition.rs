//! Metrics as text: Prometheus' format 0.0.4, and OpenMetrics 1.0.0 for clients that accept it.

use std::fmt::Write;

use super::definition::{Definition, Kind};

/// A format of the answer to a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' text format, which every scraper reads.
    #[default]
    Text,
    OpenMetrics,
}

impl Format {
    /// The format for a client with this `Accept` header: OpenMetrics if the header names it with at least the quality
    /// of `text/plain`.
    pub fn negotiate(accept: &str) -> Self {
        let ranges = accept.split(',').filter_map(MediaRange::parse);
        let (mut open_metrics, mut text) = (0.0_f32, 0.0_f32);
        for range in ranges {
            let best = match range.name.as_str() {
                "application/openmetrics-text" if range.is_version("1.0.0") || range.is_version("0.0.1") => {
                    &mut open_metrics
                }
                "text/plain" if range.is_version("0.0.4") => &mut text,
                _ => continue,
            };
            *best = best.max(range.quality);
        }
        match open_metrics > 0.0 && open_metrics >= text {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One item of an `Accept` header.
struct MediaRange {
    /// Type and subtype in lower case.
    name: String,
    version: Option<String>,
    quality: f32,
}

impl MediaRange {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        let (mut version, mut quality) = (None, 1.0);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = Some(value.trim().trim_matches('"').to_owned()),
                _ => {}
            }
        }
        Some(Self { name, version, quality })
    }

    /// True also for a range without a version.
    fn is_version(&self, version: &str) -> bool {
        self.version.as_deref().is_none_or(|own| own == version)
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramValue {
    /// Upper bounds, ascending to infinity, each with the number of observations above the bound before it.
    pub counts: Vec<(f64, u64)>,
    pub sum: f64,
}

/// The text of one scrape.
#[derive(Debug)]
pub struct Exposition {
    format: Format,
    text: String,
}

impl Exposition {
    pub fn new(format: Format) -> Self {
        Self {
            format,
            text: String::new(),
        }
    }

    /// Writes a metric without labels.
    pub fn value(&mut self, definition: &Definition, value: f64) {
        self.series(definition, [(Vec::new(), value)]);
    }

    /// Writes the series of a metric in this order; nothing if there are none. Each has one value for each label.
    pub fn series(&mut self, definition: &Definition, series: impl IntoIterator<Item = (Vec<String>, f64)>) {
        let mut has_head = false;
        for (labels, value) in series {
            if !std::mem::replace(&mut has_head, true) {
                self.head(definition);
            }
            let labels = written(definition, &labels, None);
            self.line(definition.name, "", &labels, value);
        }
    }

    /// Writes the histograms of a metric in this order; nothing if there are none.
    pub fn histograms(
        &mut self,
        definition: &Definition,
        series: impl IntoIterator<Item = (Vec<String>, HistogramValue)>,
    ) {
        let mut has_head = false;
        for (labels, histogram) in series {
            if !std::mem::replace(&mut has_head, true) {
                self.head(definition);
            }
            let mut count = 0;
            for &(bound, observed) in &histogram.counts {
                count += observed;
                let bound = match self.format {
                    _ if bound.is_infinite() => "+Inf".to_owned(),
                    Format::Text => bound.to_string(),
                    // A whole number is `1.0`.
                    Format::OpenMetrics => format!("{bound:?}"),
                };
                let labels = written(definition, &labels, Some(&bound));
                self.line(definition.name, "_bucket", &labels, count as f64);
            }
            let labels = written(definition, &labels, None);
            self.line(definition.name, "_sum", &labels, histogram.sum);
            self.line(definition.name, "_count", &labels, count as f64);
        }
    }

    /// The text, complete.
    pub fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn head(&mut self, definition: &Definition) {
        let name = definition.name;
        // OpenMetrics names the metric without the suffix of its series.
        let (name, kind) = match (self.format, definition.kind) {
            (Format::Text, Kind::Counter) => (name, "counter"),
            (Format::OpenMetrics, Kind::Counter) => (name.trim_end_matches("_total"), "counter"),
            (Format::Text, Kind::Info) | (_, Kind::Gauge) => (name, "gauge"),
            (Format::OpenMetrics, Kind::Info) => (name.trim_end_matches("_info"), "info"),
            (_, Kind::Histogram) => (name, "histogram"),
        };
        let help = escaped(definition.help, self.format == Format::OpenMetrics);
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| name.strip_suffix(unit).is_some_and(|start| start.ends_with('_')));
        let text = &mut self.text;
        let _ = writeln!(text, "# HELP {name} {help}");
        let _ = writeln!(text, "# TYPE {name} {kind}");
        if let (Format::OpenMetrics, Some(unit)) = (self.format, unit) {
            let _ = writeln!(text, "# UNIT {name} {unit}");
        }
    }

    fn line(&mut self, name: &str, suffix: &str, labels: &str, value: f64) {
        let _ = writeln!(self.text, "{name}{suffix}{labels} {value}");
    }
}

/// Labels with their values in braces; a bucket has its bound as the last.
fn written(definition: &Definition, values: &[String], bound: Option<&str>) -> String {
    debug_assert_eq!(definition.labels.len(), values.len(), "{}", definition.name);
    let labels = definition.labels.iter().copied();
    let pairs = labels.zip(values.iter().map(String::as_str));
    let pairs = pairs.chain(bound.map(|bound| ("le", bound)));
    let pairs: Vec<String> = pairs
        .map(|(label, value)| format!("{label}=\"{}\"", escaped(value, true)))
        .collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("{{{}}}", pairs.join(",")),
    }
}

fn escaped(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', r"\\").replace('\n', r"\n");
    match quotes {
        true => text.replace('"', "\\\""),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: Definition = Definition {
        name: "x_requests_total",
        kind: Kind::Counter,
        labels: &["route", "status"],
        help: "Says \"so\"",
    };
    const SECONDS: Definition = Definition {
        name: "x_seconds",
        kind: Kind::Histogram,
        labels: &["task"],
        help: "Time",
    };
    const BUILD: Definition = Definition {
        name: "x_build_info",
        kind: Kind::Info,
        labels: &["model"],
        help: "Model",
    };

    fn page(format: Format) -> String {
        let mut page = Exposition::new(format);
        page.series(&REQUESTS, []);
        page.series(
            &REQUESTS,
            [
                (vec!["/".to_owned(), "200".to_owned()], 3.0),
                (vec!["/a".to_owned(), "404".to_owned()], 1.0),
            ],
        );
        let histogram = HistogramValue {
            counts: vec![(0.5, 1), (1.0, 2), (f64::INFINITY, 0)],
            sum: 2.25,
        };
        page.histograms(&SECONDS, [(vec!["score".to_owned()], histogram)]);
        page.series(&BUILD, [(vec!["a\\b\"c\nd".to_owned()], 1.0)]);
        page.finish()
    }

    #[test]
    fn both_formats() {
        let expected = r#"# HELP x_requests_total Says "so"
# TYPE x_requests_total counter
x_requests_total{route="/",status="200"} 3
x_requests_total{route="/a",status="404"} 1
# HELP x_seconds Time
# TYPE x_seconds histogram
x_seconds_bucket{task="score",le="0.5"} 1
x_seconds_bucket{task="score",le="1"} 3
x_seconds_bucket{task="score",le="+Inf"} 3
x_seconds_sum{task="score"} 2.25
x_seconds_count{task="score"} 3
# HELP x_build_info Model
# TYPE x_build_info gauge
x_build_info{model="a\\b\"c\nd"} 1
"#;
        assert_eq!(page(Format::Text), expected);
        let expected = expected
            .replace("HELP x_requests_total Says \"so\"", "HELP x_requests Says \\\"so\\\"")
            .replace("TYPE x_requests_total", "TYPE x_requests")
            .replace("le=\"1\"", "le=\"1.0\"")
            .replace("histogram\n", "histogram\n# UNIT x_seconds seconds\n")
            .replace("HELP x_build_info", "HELP x_build")
            .replace("TYPE x_build_info gauge", "TYPE x_build info");
        assert_eq!(page(Format::OpenMetrics), expected + "# EOF\n");
    }

    #[test]
    fn the_accept_header_decides_on_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                            text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,*/*;q=0.1";
        for (accept, expected) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xml;q=0.9,*/*;q=0.8", Format::Text),
            ("text/plain;version=0.0.4", Format::Text),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("Application/OpenMetrics-Text; version=\"1.0.0\"", Format::OpenMetrics),
            ("application/openmetrics-text; version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=0", Format::Text),
            ("application/openmetrics-text;q=0.2, text/plain", Format::Text),
            (prometheus, Format::OpenMetrics),
            (prometheus_3, Format::OpenMetrics),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept}");
        }
    }
}
