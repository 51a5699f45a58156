//! From logits to the next token: what was there already counts, then one of the likely tokens is drawn.
//!
//! The steps, their order and what each computes are those of llama.cpp's default chain: penalties, and what
//! [`Draw`] says. A back end can draw by itself; penalties and more candidates than it takes need the logits.

use std::collections::{HashMap, VecDeque};

use crate::backend::{Candidate, Draw, Plan, candidates, choose};

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
    /// Whether the result is the largest logit as it comes from the model.
    pub fn is_argmax(&self) -> bool {
        self.temperature <= 0.0 && !self.has_penalties()
    }

    /// Whether it takes the logits: there are penalties, or more candidates than a device takes.
    pub fn needs_logits(&self) -> bool {
        self.has_penalties() || !self.draw(0).is_bounded()
    }

    /// How the token is drawn that comes after `n` others.
    fn draw(&self, n: u64) -> Draw {
        let &Self { temperature, top_k, top_p, min_p, seed, .. } = self;
        Draw { temperature, top_k, top_p, min_p, seed, n }
    }

    /// The logit of a token that was there `count` times.
    fn penalized(&self, logit: f32, count: u32) -> f32 {
        let divided = if logit <= 0.0 { logit * self.repeat_penalty } else { logit / self.repeat_penalty };
        divided - (self.presence_penalty + count as f32 * self.frequency_penalty)
    }

    fn has_penalties(&self) -> bool {
        self.penalty_last_n > 0
            && (self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0)
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

    /// How the next token is to be drawn, which counts as drawn then. For options that need no logits.
    pub(super) fn next_draw(&mut self) -> Draw {
        self.n_drawn += 1;
        self.options.draw(self.n_drawn - 1)
    }

    /// Chooses a token given the logits `[V]`; `None` if a logit is not a number, or the largest is infinite.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        let plan = Plan::from(&self.next_draw());
        self.candidates.clear();
        self.candidates.extend(candidates(logits));
        for (&id, &count) in &self.counts {
            if let Some(candidate) = self.candidates.get_mut(id as usize) {
                *candidate = Candidate::new(id, self.options.penalized(logits[id as usize], count));
            }
        }
        choose(&mut self.candidates, &plan)
    }
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
        // The window holds 0, 1, 1.
        assert_eq!((s.counts[&0], s.counts[&1], s.counts.len()), (1, 2, 2));
        assert_eq!(s.options.penalized(4.0, 1), 4.0 / 2.0 - 0.5 - 0.25);
        assert_eq!(s.options.penalized(-4.0, 2), -4.0 * 2.0 - 0.5 - 0.5);
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
