//! Means with their errors, and percentiles.

/// A mean, and how far off it may be: the standard deviation of the mean, as of independent samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Standard error; 0 for a single sample.
    pub error: f64,
}

impl Estimate {
    /// The mean of samples, of which there is at least one.
    pub fn of(samples: impl Iterator<Item = f64> + Clone) -> Self {
        let n = samples.clone().count() as f64;
        let mean = samples.clone().sum::<f64>() / n;
        let squares: f64 = samples.map(|x| (x - mean).powi(2)).sum();
        // llama.cpp divides by n for the deviation and by n - 1 for the error of the mean.
        let error = if n > 1.0 { (squares / n / (n - 1.0)).sqrt() } else { 0.0 };
        Self { mean, error }
    }

    /// f(mean), with an error in proportion to f's `slope` there.
    pub(super) fn map(self, f: impl Fn(f64) -> f64, slope: f64) -> Self {
        Self { mean: f(self.mean), error: self.error * slope.abs() }
    }
}

/// The value below which `fraction` of the values are, interpolated. They are sorted, and there is at least one.
pub fn percentile(sorted: &[f64], fraction: f64) -> f64 {
    let at = fraction.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (i, part) = (at as usize, at.fract());
    let next = sorted[(i + 1).min(sorted.len() - 1)];
    sorted[i] + part * (next - sorted[i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_samples_have_known_statistics() {
        let samples = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        let estimate = Estimate::of(samples.into_iter());
        assert_eq!(estimate.mean, 5.0);
        assert!((estimate.error - (4.0f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Estimate::of([3.0].into_iter()), Estimate { mean: 3.0, error: 0.0 });
        assert_eq!(percentile(&samples, 0.5), 4.5);
        assert!((percentile(&samples, 0.99) - 8.86).abs() < 1e-12);
        assert_eq!((percentile(&samples, 0.0), percentile(&samples, 1.0)), (2.0, 9.0));
        assert_eq!(percentile(&[7.0], 0.3), 7.0);
    }

    proptest! {
        #[test]
        fn errors_move_and_grow_with_the_samples(
            samples in prop::collection::vec(-100.0..100.0f64, 2..200),
            shift in -50.0..50.0f64,
            scale in 0.1..10.0f64,
        ) {
            let plain = Estimate::of(samples.iter().copied());
            let moved = Estimate::of(samples.iter().map(|x| scale * x + shift));
            prop_assert!((moved.mean - (scale * plain.mean + shift)).abs() < 1e-9 * (1.0 + moved.mean.abs()));
            prop_assert!((moved.error - scale * plain.error).abs() < 1e-9 * (1.0 + moved.error));
            // Seen twice, the samples say the same mean with less error.
            let twice = Estimate::of(samples.iter().chain(&samples).copied());
            prop_assert!((twice.mean - plain.mean).abs() < 1e-9 && twice.error <= plain.error);
        }

        #[test]
        fn percentiles_are_in_order_and_within_the_values(
            mut values in prop::collection::vec(-100.0..100.0f64, 1..200),
            a in 0.0..1.0f64,
            b in 0.0..1.0f64,
        ) {
            values.sort_unstable_by(f64::total_cmp);
            let [low, high] = [a.min(b), a.max(b)].map(|fraction| percentile(&values, fraction));
            prop_assert!(values[0] <= low && low <= high && high <= values[values.len() - 1]);
            let below = values.iter().filter(|&&x| x < high).count();
            prop_assert!(below as f64 <= (a.max(b) * (values.len() - 1) as f64).ceil() + 1e-9);
        }
    }
}
