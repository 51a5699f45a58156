//! A row of logits as a distribution over the vocabulary: how likely each token is, and how far that is from another row.

use super::cpu::Isa;
use super::cpu::simd::logits;
use super::draw::argmax;
use crate::error::{Error, Result};

/// The distribution that a row of logits describes: token i has probability exp(logit i) / Σ exp(logits).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distribution<'a> {
    /// `[V]`
    logits: &'a [f32],
    /// The most likely token; of equally likely ones the lowest id.
    pub top: u32,
    /// ln Σ exp(logits), within 10⁻⁶.
    pub log_sum_exp: f64,
}

impl<'a> Distribution<'a> {
    /// That of `logits`, `[V]`.
    ///
    /// # Errors
    /// If one of them is not a number, or the largest is infinite.
    pub fn new(logits: &'a [f32]) -> Result<Self> {
        let top = argmax(logits).ok_or(Error::BadLogits)?;
        let max = logits[top as usize];
        let sum = match Isa::best() {
            Some(isa) => logits::sum_exp(isa, logits, max),
            None => logits.iter().map(|&x| f64::from(x - max).exp()).sum(),
        };
        Ok(Self { logits, top, log_sum_exp: f64::from(max) + sum.ln() })
    }

    /// ln of the probability of a token.
    pub fn log_probability(&self, token: u32) -> f64 {
        f64::from(self.logits[token as usize]) - self.log_sum_exp
    }

    /// The logits, `[V]`.
    pub fn logits(&self) -> &'a [f32] {
        self.logits
    }

    /// ln of the probability of each token, `[V]`, in place of what is in `out`.
    pub fn log_probabilities(&self, out: &mut Vec<f32>) {
        out.clear();
        out.extend(self.logits.iter().map(|&logit| (f64::from(logit) - self.log_sum_exp) as f32));
    }

    /// How far this distribution q is from p: the Kullback-Leibler divergence Σ p · ln(p / q), in nats. p is given by the ln of its
    /// probabilities, `[V]`; of those that are not above `floor` it is known only that they are no more than that, and
    /// they count as far as they must.
    ///
    /// What is summed is p · (e⁻ᵈ - 1 + d) with d = ln(p / q): the same, since Σ p = Σ q, but no term is negative. So nothing
    /// cancels, and what rounding does to p, q or their sums shows by its square only.
    ///
    /// # Panics
    /// If p is of another vocabulary.
    pub fn divergence(&self, log_p: &[f32], floor: f32) -> f64 {
        assert_eq!(log_p.len(), self.logits.len(), "distributions over one vocabulary");
        match Isa::best() {
            Some(isa) => logits::divergence(isa, log_p, floor, self.logits, self.log_sum_exp),
            None => divergence(log_p, floor, self.logits, self.log_sum_exp),
        }
    }
}

/// See [`Distribution::divergence`].
fn divergence(log_p: &[f32], floor: f32, logits: &[f32], log_sum_exp: f64) -> f64 {
    let each = log_p.iter().zip(logits).map(|(&log_p, &logit)| {
        let (log_p, log_q) = (f64::from(log_p), f64::from(logit) - log_sum_exp);
        let d = log_p.max(logits::LEAST) - log_q.max(logits::LEAST);
        let d = if log_p > f64::from(floor) { d } else { d.min(0.0) };
        // (e⁻ᵈ - 1) + d loses digits where d is small: as many as the square of d has zeros.
        let excess = if d.abs() < 1e-4 { d * d * (0.5 - d / 6.0) } else { (-d).exp_m1() + d };
        log_p.exp() * excess
    });
    each.sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Σ p · ln(p / q) in f64, as it is defined.
    fn by_definition(p: &[f32], q: &[f32]) -> f64 {
        let lse = |x: &[f32]| x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
        let (of_p, of_q) = (lse(p), lse(q));
        let each = p.iter().zip(q).map(|(&p, &q)| {
            let (p, q) = (f64::from(p) - of_p, f64::from(q) - of_q);
            p.exp() * (p - q)
        });
        each.sum()
    }

    fn log_probabilities(logits: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        Distribution::new(logits).expect("numbers").log_probabilities(&mut out);
        out
    }

    /// Rows of one length with values like those of logits.
    fn rows() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
        (1..300usize).prop_flat_map(|n| {
            let row = || prop::collection::vec(-30.0..30.0f32, n);
            (row(), row())
        })
    }

    /// What rounding of its numbers may change a divergence by: where it does not cancel, as beneath a floor, an error e of each
    /// difference d changes Σ p · d² / 2 by Σ p · d · e, which is no more than e · √(2 Σ p · d² / 2).
    fn rounding(divergence: f64) -> f64 {
        1e-5 * divergence + 1e-6 * (2.0 * divergence).sqrt() + 1e-9
    }

    proptest! {
        #[test]
        fn log_sum_exp_is_that_of_f64((x, _) in rows()) {
            let expected = x.iter().map(|&x| f64::from(x).exp()).sum::<f64>().ln();
            let found = Distribution::new(&x).expect("numbers").log_sum_exp;
            prop_assert!((found - expected).abs() <= 1e-6, "{found}, not {expected}");
        }

        #[test]
        fn the_divergence_is_what_its_definition_gives((p, q) in rows()) {
            let (log_p, q) = (log_probabilities(&p), Distribution::new(&q).expect("numbers"));
            let expected = by_definition(&p, q.logits());
            for found in [
                q.divergence(&log_p, f32::NEG_INFINITY),
                divergence(&log_p, f32::NEG_INFINITY, q.logits(), q.log_sum_exp),
            ] {
                prop_assert!((found - expected).abs() <= rounding(expected.abs()), "{found:e}, not {expected:e}");
            }
        }

        #[test]
        fn small_divergences_keep_their_digits((p, noise) in rows(), log_scale in -4.0..-1.0f32) {
            // Logits apart by exact steps, so that nothing is lost before the divergence is computed.
            let step = |x: f32| (x * log_scale.exp2() * 1024.0).round() / 65_536.0;
            let p: Vec<f32> = p.iter().map(|x| (x * 1024.0).round() / 1024.0).collect();
            let q: Vec<f32> = p.iter().zip(&noise).map(|(p, &noise)| p + step(noise)).collect();
            let expected = by_definition(&p, &q);
            let found = Distribution::new(&q).expect("numbers").divergence(&log_probabilities(&p), f32::NEG_INFINITY);
            prop_assert!(found >= 0.0);
            prop_assert!((found - expected).abs() <= 1e-3 * expected + 2e-11, "{found:e}, not {expected:e}");
        }

        #[test]
        fn what_lies_below_the_floor_counts_as_far_as_it_must((p, q) in rows(), floor in -40.0..-1.0f32) {
            let (log_p, q) = (log_probabilities(&p), Distribution::new(&q).expect("numbers"));
            let floored: Vec<f32> = log_p.iter().map(|p| p.max(floor)).collect();
            let (least, whole) = (q.divergence(&floored, floor), q.divergence(&log_p, f32::NEG_INFINITY));
            prop_assert!(least <= whole + rounding(whole), "{least:e} is more than {whole:e}");
            let scalar = divergence(&floored, floor, q.logits(), q.log_sum_exp);
            prop_assert!((least - scalar).abs() <= rounding(scalar), "{least:e}, not {scalar:e}");
        }
    }

    #[test]
    fn impossible_tokens_and_certain_ones_have_finite_divergences() {
        let (sure, even) = ([0.0, f32::NEG_INFINITY, -200.0], [0.0; 3]);
        let q = Distribution::new(&even).expect("numbers");
        let found = q.divergence(&log_probabilities(&sure), f32::NEG_INFINITY);
        assert!((found - 3f64.ln()).abs() < 1e-5, "{found}");
        let q = Distribution::new(&sure).expect("the largest is a number");
        let found = q.divergence(&log_probabilities(&even), f32::NEG_INFINITY);
        assert!(found > 50.0 && found < 100.0, "{found}");
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(matches!(Distribution::new(&[0.0, bad, 1.0]), Err(Error::BadLogits)));
        }
        assert!(matches!(Distribution::new(&[]), Err(Error::BadLogits)));
    }

    #[test]
    fn the_top_is_the_first_of_the_largest() {
        let row = Distribution::new(&[1.0, 3.0, 3.0, -1.0]).expect("numbers");
        assert_eq!(row.top, 1);
        assert!((row.log_probability(1) - (3.0 - row.log_sum_exp)).abs() < 1e-12);
    }
}
