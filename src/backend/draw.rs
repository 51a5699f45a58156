//! Which token a row of logits gives: the reference for every back end, in arithmetic that all of them have.
//!
//! The steps, their order and what each computes are those of llama.cpp's default chain: top-k, top-p, min-p, temperature,
//! draw. Temperature comes last, so that top-p and min-p look at the model's own probabilities. Of equal logits the lower
//! id comes first, everywhere, so that the result does not depend on how candidates were sorted.
//!
//! A GPU's `exp` differs from one device to the next, its additions may be reordered, and it has no f64. So everything
//! here is integers: logits are compared by [`key`], their distances are fixed point, weights are a polynomial in fixed
//! point, and sums of integers are the same in any order. `shaders/sample.wgsl` does the same in 32 bits, and draws the
//! same token from the same logits, always.

use super::rng;

/// Most candidates that a device takes; more need the logits.
pub const MAX_TOP_K: usize = 256;

/// What a device writes where a row has no token: a logit is not a number, or the largest is infinite.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// How the token of a row is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Candidates are the k most likely tokens; 0 for all.
    pub top_k: usize,
    /// Candidates are the fewest tokens that have this probability together; 1 for all.
    pub top_p: f32,
    /// Candidates have at least this times the probability of the most likely token; 0 for all.
    pub min_p: f32,
    /// Start of the random numbers.
    pub seed: u64,
    /// Which of the random numbers: how many tokens were drawn before.
    pub n: u64,
}

impl Draw {
    /// Whether a device can do it, for [`Want::Draw`](super::Want::Draw).
    pub fn is_bounded(&self) -> bool {
        self.is_greedy() || (1..=MAX_TOP_K).contains(&self.top_k)
    }

    /// The token for a row of logits; `None` if one of them is not a number, or the largest is infinite.
    pub(crate) fn choose(&self, logits: &[f32]) -> Option<u32> {
        if self.is_greedy() { argmax(logits) } else { choose(&mut candidates(logits).collect(), &self.into()) }
    }

    fn is_greedy(&self) -> bool {
        self.temperature <= 0.0
    }
}

/// A [`Draw`] in integers, as `shaders/lib/draw.wgsl` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct Plan {
    /// Number of candidates; 0 for all.
    top_k: u32,
    /// In units of 2⁻³²; 0 for all.
    top_p: u32,
    /// The largest [`distance`] at temperature 1.
    min_p: u32,
    random: u32,
    /// log2(e) / temperature
    scale: Scale,
}

/// `mantissa` · 2^`exponent`; the mantissa has its highest bit set, or is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Scale {
    mantissa: u32,
    exponent: i32,
}

impl Scale {
    /// log2(e), for temperature 1.
    const ONE: Self = Self { mantissa: 0xb8aa_3b29, exponent: -31 };

    /// log2(e) / `temperature`; 0 where that is too small to matter.
    fn new(temperature: f32) -> Self {
        let bits = (std::f64::consts::LOG2_E / f64::from(temperature)).to_bits();
        let exponent = (bits >> 52) as i32 - 1023;
        if !(-900..=900).contains(&exponent) {
            return Self { mantissa: 0, exponent: 0 };
        }
        Self { mantissa: (1 << 31) | (bits >> 21) as u32 & 0x7fff_ffff, exponent: exponent - 31 }
    }
}

impl From<&Draw> for Plan {
    fn from(draw: &Draw) -> Self {
        let top_k = if draw.is_greedy() { 1 } else { u32::try_from(draw.top_k).unwrap_or(0) };
        // Conversions of floats saturate.
        let top_p = if draw.top_p >= 1.0 { 0 } else { ((f64::from(draw.top_p) * 4_294_967_296.0) as u32).max(1) };
        let farthest = -f64::from(draw.min_p).log2() * 16_777_216.0;
        let min_p = if draw.min_p > 0.0 { farthest as u32 } else { u32::MAX };
        Self { top_k, top_p, min_p, random: rng::random(draw.seed, draw.n), scale: Scale::new(draw.temperature) }
    }
}

/// A token that may be drawn: its [`key`] above its inverted id, so that the larger one is the more likely one, and of equal ones
/// the one with the lower id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate(u64);

impl Candidate {
    pub(crate) fn new(id: u32, logit: f32) -> Self {
        Self(u64::from(key(logit)) << 32 | u64::from(!id))
    }

    pub(crate) fn id(self) -> u32 {
        !(self.0 as u32)
    }

    fn key(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// All tokens of a row as candidates, by id.
pub(crate) fn candidates(logits: &[f32]) -> impl Iterator<Item = Candidate> {
    logits.iter().zip(0..).map(|(&logit, id)| Candidate::new(id, logit))
}

/// A number that orders logits as they are ordered: both zeros are one, and what is not a number comes out on top.
fn key(logit: f32) -> u32 {
    // -0 + 0 is 0.
    let bits = (logit + 0.0).to_bits();
    // Without branches, so that the compiler makes vectors of it.
    let flip = (bits as i32 >> 31) as u32 | 1 << 31;
    if logit.is_nan() { u32::MAX } else { bits ^ flip }
}

fn is_finite(key: u32) -> bool {
    (0x0080_0000..0xff80_0000).contains(&key)
}

/// The most likely token; `None` if a logit is not a number, or the largest is infinite.
pub(crate) fn argmax(logits: &[f32]) -> Option<u32> {
    Largest::of(logits, 0).token()
}

/// The first of the largest logits of a part of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Largest {
    key: u32,
    id: u32,
}

impl Largest {
    /// Of the tokens from `first` on.
    pub(crate) fn of(logits: &[f32], first: usize) -> Self {
        /// Long enough for vectors, short enough to be searched again.
        const PART: usize = 512;
        let largest = |part: &[f32]| part.iter().map(|&logit| key(logit)).fold(0, u32::max);
        let (mut best, mut at) = (0, 0);
        for (i, part) in logits.chunks(PART).enumerate() {
            let key = largest(part);
            if key > best {
                (best, at) = (key, i * PART);
            }
        }
        let id = logits[at..].iter().position(|&logit| key(logit) == best).map_or(0, |i| first + at + i);
        Self { key: best, id: id as u32 }
    }

    /// Of both parts, of which this one comes first.
    pub(crate) fn or(self, next: Self) -> Self {
        if next.key > self.key { next } else { self }
    }

    /// See [`argmax`], where this is of a whole row.
    pub(crate) fn token(self) -> Option<u32> {
        is_finite(self.key).then_some(self.id)
    }
}

/// The token that `plan` chooses among the candidates, which come by id; `None` as for [`argmax`].
pub(crate) fn choose(candidates: &mut Vec<Candidate>, plan: &Plan) -> Option<u32> {
    let best = candidates.iter().copied().max().filter(|best| is_finite(best.key()))?;
    if plan.top_k == 1 {
        return Some(best.id());
    }
    top_k(candidates, plan.top_k as usize);
    let weigh = |c: &Candidate, scale| u64::from(weight(distance(best.key(), c.key(), scale)));
    if plan.top_p > 0 {
        candidates.sort_unstable_by(|a, b| b.cmp(a));
        let total: u64 = candidates.iter().map(|c| weigh(c, Scale::ONE)).sum();
        let mut before = 0;
        let enough = candidates.iter().skip(1).zip(&*candidates).position(|(_, c)| {
            before += weigh(c, Scale::ONE);
            before >= part(total, plan.top_p)
        });
        candidates.truncate(enough.map_or(candidates.len(), |i| i + 1));
    }
    candidates.retain(|c| distance(best.key(), c.key(), Scale::ONE) <= plan.min_p);
    let target = part(candidates.iter().map(|c| weigh(c, plan.scale)).sum(), plan.random);
    let mut sum = 0;
    let drawn = candidates.iter().find(|c| {
        sum += weigh(c, plan.scale);
        sum > target
    });
    drawn.map(|c| c.id())
}

/// Keeps the `k` most likely, sorted. With 0 keeps all, by id.
fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        return;
    }
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(|a, b| b.cmp(a));
}

/// `total` · `fraction` / 2³²
fn part(total: u64, fraction: u32) -> u64 {
    ((u128::from(total) * u128::from(fraction)) >> 32) as u64
}

/// How far below the logit `best` another one is, times `scale`: a power of two by which it is less likely, in units of
/// 2⁻²⁴. `u32::MAX` from 128 or 256 on, and where the other is -∞.
fn distance(best: u32, other: u32, scale: Scale) -> u32 {
    let bits = |key: u32| if key >> 31 == 1 { key ^ 1 << 31 } else { !key };
    let (a, b) = (bits(best), bits(other));
    let (high, low) = ((a & 0x7fff_ffff).max(b & 0x7fff_ffff), (a & 0x7fff_ffff).min(b & 0x7fff_ffff));
    let (high_exponent, low_exponent) = ((high >> 23).max(1), (low >> 23).max(1));
    if high_exponent == 255 {
        return u32::MAX;
    }
    // Mantissas with seven bits to spare for what is shifted out of the lower one.
    let mantissa = |bits: u32| (bits & 0x007f_ffff | u32::from(bits >= 1 << 23) << 23) << 7;
    let (high, low) = (mantissa(high), mantissa(low) >> (high_exponent - low_exponent).min(31));
    let difference = if (a ^ b) >> 31 == 1 { high + low } else { high - low };
    if difference == 0 {
        return 0;
    }
    let shift = difference.leading_zeros();
    let product = mul_high(difference << shift, scale.mantissa);
    // The difference is in units of 2^(exponent - 157), the product is 2³² times smaller, the result in units of 2⁻²⁴.
    let up = high_exponent as i32 - shift as i32 - 101 + scale.exponent;
    match up {
        _ if product == 0 => 0,
        1.. => u32::MAX,
        _ => product.checked_shr(up.unsigned_abs()).unwrap_or(0),
    }
}

/// 2^-`distance` in units of 2⁻³¹.
fn weight(distance: u32) -> u32 {
    // (1 - 2^-t) / t for 0 ≤ t < 1 by interpolation at the roots of a Chebyshev polynomial, in units of 2⁻³²; the signs alternate. The
    // weight is off by 2.3 units at most.
    const TERMS: [u32; 7] = [0xb172_17f7, 0x3d7f_7bcb, 0x0e35_8127, 0x0276_41a9, 0x0057_28b0, 0x0009_c200, 0x0000_bda6];
    let t = distance << 8;
    let [terms @ .., last] = TERMS;
    let sum = terms.iter().rev().fold(last, |sum, term| term - mul_high(t, sum));
    ((1 << 31) - (mul_high(t, sum) >> 1)).checked_shr(distance >> 24).unwrap_or(0)
}

/// The high word of a product.
fn mul_high(a: u32, b: u32) -> u32 {
    ((u64::from(a) * u64::from(b)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn weights_are_powers_of_two() {
        for i in 0..100_000u32 {
            let distance = i * 5003;
            let expected = (1u64 << 31) as f64 * (-f64::from(distance) / 16_777_216.0).exp2();
            assert!((f64::from(weight(distance)) - expected).abs() <= 3.3, "2^-{distance}");
        }
        assert_eq!(weight(0), 1 << 31);
        assert_eq!(weight(7 << 24), 1 << 24);
        assert_eq!(weight(u32::MAX), 0);
    }

    #[test]
    fn log2_e_is_the_scale_of_temperature_1() {
        assert_eq!(Scale::new(1.0), Scale::ONE);
        assert_eq!(Scale::new(0.5), Scale { exponent: -30, ..Scale::ONE });
        assert_eq!(Scale::new(f32::INFINITY).mantissa, 0);
        assert_eq!(Scale::new(f32::NAN).mantissa, 0);
    }

    #[test]
    fn a_logit_of_minus_infinity_has_no_weight_at_any_temperature() {
        for temperature in [1e-30, 1.0, 1e30, f32::MAX, f32::INFINITY] {
            let distance = distance(key(-1.0), key(f32::NEG_INFINITY), Scale::new(temperature));
            assert_eq!(weight(distance), 0, "{temperature}");
        }
    }

    #[test]
    fn keys_order_logits_and_both_zeros_are_one() {
        let logits = [f32::NEG_INFINITY, f32::MIN, -1.0, -1e-45, 0.0, 1e-45, 2.0, f32::MAX, f32::INFINITY, f32::NAN];
        assert!(logits.is_sorted_by(|a, b| key(*a) < key(*b)));
        assert_eq!(key(-0.0), key(0.0));
        let finite: Vec<bool> = logits.iter().map(|&l| is_finite(key(l))).collect();
        assert_eq!(finite, logits.map(f32::is_finite));
        assert_eq!(argmax(&[-0.0, 0.0]), Some(0));
        assert_eq!(argmax(&[0.0, -f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
    }

    proptest! {
        /// As close as f32 logits deserve, from the smallest to the largest.
        #[test]
        fn distances_are_differences(
            a in any::<f32>().prop_filter("finite", |x| x.is_finite()),
            b in prop_oneof![any::<f32>().prop_filter("finite", |x| x.is_finite()), Just(0.0)],
            near in -1e-3f32..1e-3,
            is_near in any::<bool>(),
            temperature in prop_oneof![Just(1.0f32), 1e-3f32..10.0, 1e-30f32..1e30],
        ) {
            let b = if is_near { a + a * near } else { b };
            prop_assume!(b.is_finite());
            let (best, other) = (a.max(b), a.min(b));
            let exact = (f64::from(best) - f64::from(other)) * std::f64::consts::LOG2_E / f64::from(temperature);
            let found = distance(key(best), key(other), Scale::new(temperature));
            if found == u32::MAX {
                prop_assert!(exact >= 127.9, "{exact}");
            } else {
                let found = f64::from(found) / 16_777_216.0;
                prop_assert!((found - exact).abs() <= 1.2e-7 + exact * 2e-7, "{found}, exactly {exact}");
            }
        }
    }
}
