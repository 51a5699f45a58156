//! From logits to the next token.
//!
//! The steps, their order and what each computes are those of llama.cpp's default chain: penalties, top-k, top-p, min-p,
//! temperature, draw. Temperature comes last, so that top-p and min-p look at the model's own probabilities. Of equal
//! logits the lower id comes first, everywhere, so that the result does not depend on how candidates were sorted.

use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use super::rng;

/// How the next token is chosen. The default is greedy: the most likely token, always.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Candidates are the k most likely tokens; 0 for all.
    pub top_k: usize,
    /// Candidates are the fewest tokens that have this probability together; 1 for all.
    pub top_p: f32,
    /// Candidates have at least this times the probability of the most likely token; 0 for all.
    pub min_p: f32,
    /// Divides positive logits, and multiplies negative ones, of tokens that were there; 1 for none.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of tokens that were there.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens for each time that they were there.
    pub frequency_penalty: f32,
    /// How many of the last tokens, prompt included, count as having been there.
    pub penalty_last_n: usize,
    /// Start of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: 64,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Whether the result is the largest logit as it comes from the model, so that a device can find it by itself.
    pub fn is_argmax(&self) -> bool {
        self.temperature <= 0.0 && !self.has_penalties()
    }

    fn has_penalties(&self) -> bool {
        self.penalty_last_n > 0
            && (self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0)
    }
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Most likely first; of equal ones the lowest id.
    fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens for one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    /// The last tokens, oldest first, and how often each is among them.
    recent: VecDeque<u32>,
    counts: HashMap<u32, u32>,
    n_drawn: u64,
    /// Kept for its allocation.
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler that saw no token yet.
    pub fn new(options: SamplerOptions) -> Self {
        Self { options, recent: VecDeque::new(), counts: HashMap::new(), n_drawn: 0, candidates: Vec::new() }
    }

    /// How it chooses.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Takes note of a token of the sequence, of the prompt or chosen.
    pub fn accept(&mut self, token: u32) {
        if !self.options.has_penalties() {
            return;
        }
        if self.recent.len() == self.options.penalty_last_n
            && let Some(old) = self.recent.pop_front()
            && let Some(n) = self.counts.get_mut(&old)
        {
            *n -= 1;
            if *n == 0 {
                self.counts.remove(&old);
            }
        }
        self.recent.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Chooses a token given the logits `[V]`; `None` if a logit is not a number, or none is finite.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        if logits.iter().any(|l| l.is_nan()) {
            return None;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates.extend(logits.iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }));
        self.penalize(&mut candidates);
        let token = self.choose(&mut candidates);
        self.candidates = candidates;
        token
    }

    fn penalize(&self, candidates: &mut [Candidate]) {
        let o = &self.options;
        for (&id, &count) in &self.counts {
            let Some(c) = candidates.get_mut(id as usize) else { continue };
            c.logit = if c.logit <= 0.0 { c.logit * o.repeat_penalty } else { c.logit / o.repeat_penalty };
            c.logit -= o.presence_penalty + count as f32 * o.frequency_penalty;
        }
    }

    fn choose(&mut self, candidates: &mut Vec<Candidate>) -> Option<u32> {
        let best = *candidates.iter().min_by(|a, b| a.order(b))?;
        if !best.logit.is_finite() {
            return None;
        }
        if self.options.temperature <= 0.0 {
            return Some(best.id);
        }
        top_k(candidates, self.options.top_k);
        top_p(candidates, self.options.top_p, best.logit);
        min_p(candidates, self.options.min_p, best.logit);
        let u = rng::uniform(self.options.seed, self.n_drawn);
        self.n_drawn += 1;
        draw(candidates, self.options.temperature, best.logit, u)
    }
}

/// Keeps the `k` most likely, sorted. With 0 keeps all, by id.
fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        return;
    }
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k - 1, Candidate::order);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Candidate::order);
}

/// Keeps the shortest run of the most likely whose probabilities sum to at least `p`, sorted. With 1 keeps all.
fn top_p(candidates: &mut Vec<Candidate>, p: f32, best: f32) {
    if p >= 1.0 {
        return;
    }
    candidates.sort_unstable_by(Candidate::order);
    let total: f64 = candidates.iter().map(|c| weight(c.logit, best, 1.0)).sum();
    let mut cumulative = 0.0;
    let enough = candidates.iter().position(|c| {
        cumulative += weight(c.logit, best, 1.0);
        cumulative >= f64::from(p) * total
    });
    candidates.truncate(enough.map_or(candidates.len(), |i| i + 1));
}

/// Keeps those with at least `p` times the probability of the most likely one.
fn min_p(candidates: &mut Vec<Candidate>, p: f32, best: f32) {
    if p > 0.0 {
        let least = best + p.ln();
        candidates.retain(|c| c.logit >= least || c.logit == best);
    }
}

/// The candidate at which the running sum of probabilities exceeds `u` < 1; there is one, since the last sum is the total.
fn draw(candidates: &[Candidate], temperature: f32, best: f32, u: f32) -> Option<u32> {
    let total: f64 = candidates.iter().map(|c| weight(c.logit, best, temperature)).sum();
    let target = f64::from(u) * total;
    let mut cumulative = 0.0;
    let drawn = candidates.iter().find(|c| {
        cumulative += weight(c.logit, best, temperature);
        cumulative > target
    });
    drawn.map(|c| c.id)
}

/// Probability of a logit in terms of that of the largest one. f64, since sums run over 262,144 tokens.
fn weight(logit: f32, best: f32, temperature: f32) -> f64 {
    (f64::from(logit - best) / f64::from(temperature)).exp()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options)
    }

    /// How often each of `n` tokens is drawn in `draws` draws.
    fn frequencies(options: SamplerOptions, logits: &[f32], draws: usize) -> Vec<f64> {
        let mut s = sampler(options);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..draws {
            counts[s.sample(logits).expect("finite logits") as usize] += 1.0;
        }
        counts.iter().map(|n| n / draws as f64).collect()
    }

    fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
        let exp: Vec<f64> = logits.iter().map(|&l| (f64::from(l) / temperature).exp()).collect();
        let total: f64 = exp.iter().sum();
        exp.iter().map(|e| e / total).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            // 50,000 draws: the standard deviation of a frequency is at most 0.0022.
            assert!((f - e).abs() <= 0.011, "token {i}: found {f}, expected {e}");
            assert!(*e > 0.0 || *f == 0.0, "token {i} is no candidate");
        }
    }

    const LOGITS: [f32; 6] = [1.0, 2.5, 0.5, 2.5, -1.0, 2.0];

    #[test]
    fn draws_follow_the_softmax_at_each_temperature() {
        for temperature in [0.5, 1.0, 2.0] {
            let options = SamplerOptions { temperature, seed: 1, ..Default::default() };
            assert_close(&frequencies(options, &LOGITS, 50_000), &softmax(&LOGITS, f64::from(temperature)));
        }
    }

    #[test]
    fn filters_drop_candidates_and_renormalize() {
        let base = SamplerOptions { temperature: 1.0, seed: 2, ..Default::default() };
        // Sorted: 1 and 3 (2.5, equal), 5 (2.0), 0 (1.0), 2 (0.5), 4 (-1.0).
        let of = |kept: &[usize]| {
            let logits: Vec<f32> =
                (0..6).map(|i| if kept.contains(&i) { LOGITS[i] } else { f32::NEG_INFINITY }).collect();
            softmax(&logits, 1.0)
        };
        assert_close(&frequencies(SamplerOptions { top_k: 1, ..base.clone() }, &LOGITS, 50_000), &of(&[1]));
        assert_close(&frequencies(SamplerOptions { top_k: 3, ..base.clone() }, &LOGITS, 50_000), &of(&[1, 3, 5]));
        // Probabilities: 0.336 0.336 0.204 0.075 0.046 0.010.
        assert_close(&frequencies(SamplerOptions { top_p: 0.5, ..base.clone() }, &LOGITS, 50_000), &of(&[1, 3]));
        assert_close(&frequencies(SamplerOptions { top_p: 0.9, ..base.clone() }, &LOGITS, 50_000), &of(&[0, 1, 3, 5]));
        // exp(2.0 - 2.5) = 0.61, exp(1.0 - 2.5) = 0.22.
        assert_close(&frequencies(SamplerOptions { min_p: 0.3, ..base }, &LOGITS, 50_000), &of(&[1, 3, 5]));
    }

    #[test]
    fn top_p_looks_at_probabilities_before_temperature() {
        let options = SamplerOptions { temperature: 100.0, top_p: 0.5, seed: 3, ..Default::default() };
        assert_close(&frequencies(options, &LOGITS, 50_000), &[0.0, 0.5, 0.0, 0.5, 0.0, 0.0]);
    }

    #[test]
    fn penalties_are_llama_cpps() {
        let options = SamplerOptions {
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            penalty_last_n: 3,
            ..Default::default()
        };
        let mut s = sampler(options);
        [9, 0, 1, 1].into_iter().for_each(|t| s.accept(t));
        let mut candidates: Vec<Candidate> =
            [4.0, -4.0, 3.0].iter().zip(0..).map(|(&logit, id)| Candidate { id, logit }).collect();
        s.penalize(&mut candidates);
        let logits: Vec<f32> = candidates.iter().map(|c| c.logit).collect();
        assert_eq!(logits, [4.0 / 2.0 - 0.5 - 0.25, -4.0 * 2.0 - 0.5 - 0.5, 3.0]);
        assert_eq!(s.sample(&[4.0, -4.0, 3.0]), Some(2));
        // Token 0 leaves the window of three.
        s.accept(2);
        assert_eq!(s.sample(&[4.0, -4.0, 3.0]), Some(0));
    }

    #[test]
    fn of_equal_logits_the_lowest_id_is_first() {
        assert_eq!(sampler(SamplerOptions::default()).sample(&[1.0, 7.0, 7.0, 7.0]), Some(1));
        let options = SamplerOptions { temperature: 1.0, top_k: 2, ..Default::default() };
        assert_close(&frequencies(options, &[0.0; 5], 50_000), &[0.5, 0.5, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_not_a_number_is_not_sampled() {
        let mut s = sampler(SamplerOptions::default());
        assert_eq!(s.sample(&[0.0, f32::NAN]), None);
        assert_eq!(s.sample(&[f32::NEG_INFINITY; 2]), None);
        assert_eq!(s.sample(&[f32::NEG_INFINITY, 0.0]), Some(1));
        assert_eq!(s.sample(&[]), None);
    }

    fn options() -> impl Strategy<Value = SamplerOptions> {
        (0.0f32..3.0, 0usize..40, 0.0f32..=1.0, 0.0f32..=1.0, any::<u64>()).prop_map(
            |(temperature, top_k, top_p, min_p, seed)| SamplerOptions {
                temperature,
                top_k,
                top_p,
                min_p,
                seed,
                ..Default::default()
            },
        )
    }

    proptest! {
        #[test]
        fn the_token_is_among_those_that_the_filters_keep(
            options in options(),
            logits in prop::collection::vec(-30.0f32..30.0, 1..200),
        ) {
            let token = sampler(options.clone()).sample(&logits).expect("finite logits") as usize;
            let n_better = logits.iter().enumerate()
                .filter(|&(i, l)| *l > logits[token] || (*l == logits[token] && i < token)).count();
            let p = softmax(&logits, 1.0);
            let better: f64 = p.iter().enumerate().filter(|&(i, _)| logits[i] > logits[token]).map(|(_, p)| p).sum();
            let best = p.iter().copied().fold(0.0, f64::max);
            if options.temperature == 0.0 { prop_assert_eq!(n_better, 0); }
            if options.top_k > 0 { prop_assert!(n_better < options.top_k); }
            prop_assert!(n_better == 0 || better < f64::from(options.top_p) + 1e-6);
            prop_assert!(p[token] >= f64::from(options.min_p) * best - 1e-6);
        }

        #[test]
        fn a_seed_and_the_number_of_draws_give_the_token(
            options in options(),
            logits in prop::collection::vec(-5.0f32..5.0, 1..50),
        ) {
            let (mut a, mut b) = (sampler(options.clone()), sampler(options));
            for _ in 0..20 {
                prop_assert_eq!(a.sample(&logits), b.sample(&logits));
            }
        }
    }
}
