//! Percentiles and slopes.

use std::time::Duration;

/// A percentile; sorts the durations. Zero without durations.
pub fn percentile(durations: &mut [Duration], percent: f64) -> Duration {
    durations.sort_unstable();
    let rank = (durations.len() as f64 * percent / 100.0).ceil() as usize;
    durations.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The least-squares slope of `(x, y)`; zero with fewer than two points.
pub fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if points.len() < 2 || spread == 0.0 {
        return 0.0;
    }
    points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let mut durations: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        for (percent, expected) in [(50.0, 100), (99.0, 198), (100.0, 200)] {
            assert_eq!(percentile(&mut durations, percent), Duration::from_millis(expected));
        }
        assert_eq!(percentile(&mut [], 99.0), Duration::ZERO);
    }

    #[test]
    fn the_slope_of_a_line_is_its_own() {
        let line: Vec<_> = (0..10).map(|x| (f64::from(x), 3.0 - 0.5 * f64::from(x))).collect();
        assert!((slope(&line) + 0.5).abs() < 1e-12);
        assert_eq!(slope(&line[..1]), 0.0);
    }
}
