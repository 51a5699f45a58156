//! Sampling options, which all commands that generate text share.

use halfbyte::engine::SamplerOptions;

use super::number_within;

/// How the next token is drawn.
#[derive(clap::Args)]
#[command(next_help_heading = "Sampling")]
pub(super) struct Sampling {
    /// Randomness; 0 takes the most likely token [default: 0.8 in `chat` or with another sampling option, else 0]
    #[arg(long, value_name = "T", visible_alias = "temperature", value_parser = number_within(0.0, f32::MAX))]
    temp: Option<f32>,

    /// Draw from the K most likely tokens; 0 for all [default: 40]
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    top_k: Option<i64>,

    /// Draw from the fewest tokens that have probability P together; 1 for all [default: 0.95]
    #[arg(long, value_name = "P", value_parser = number_within(0.0, 1.0))]
    top_p: Option<f32>,

    /// Drop tokens less than P times as likely as the most likely one; 0 for none [default: 0.05]
    #[arg(long, value_name = "P", value_parser = number_within(0.0, 1.0))]
    min_p: Option<f32>,

    /// Make tokens that were there less likely; 1 for not at all
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = number_within(0.01, f32::MAX))]
    repeat_penalty: f32,

    /// How many of the last tokens count as having been there; -1 for all
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    repeat_last_n: i64,

    /// Subtract X from the logits of tokens that were there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = number_within(f32::MIN, f32::MAX))]
    presence_penalty: f32,

    /// Subtract X from the logits of tokens for each time that they were there
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, value_parser = number_within(f32::MIN, f32::MAX))]
    frequency_penalty: f32,

    /// Start of the random numbers: the same seed draws the same tokens [default: another one each time]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,
}

/// llama.cpp's defaults, once anything is drawn at all.
const DRAWN: SamplerOptions = SamplerOptions {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
    repeat_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    penalty_last_n: 64,
    seed: 0,
};

impl Sampling {
    /// What was asked for; without any option `drawn` says whether tokens are drawn.
    pub(super) fn options(&self, drawn: bool) -> SamplerOptions {
        let penalties = SamplerOptions {
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            penalty_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            ..SamplerOptions::default()
        };
        let asked =
            drawn || self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some() || self.seed.is_some();
        match self.temp {
            Some(0.0) => penalties,
            None if !asked => penalties,
            temp => SamplerOptions {
                temperature: temp.unwrap_or(DRAWN.temperature),
                top_k: self.top_k.map_or(DRAWN.top_k, |k| usize::try_from(k).unwrap_or(0)),
                top_p: self.top_p.unwrap_or(DRAWN.top_p),
                min_p: self.min_p.unwrap_or(DRAWN.min_p),
                seed: self.seed.and_then(|seed| u64::try_from(seed).ok()).unwrap_or_else(any_seed),
                ..penalties
            },
        }
    }
}

/// Another number each time.
fn any_seed() -> u64 {
    // 32 bits are enough, and can be typed in again.
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), ()) >> 32
}
