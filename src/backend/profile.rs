//! What a profile says: where the time of steps went, kernel by kernel.

use std::time::Duration;

/// Times and bytes of steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// Bytes a second that the device reads when it does nothing else, as measured.
    pub read_bandwidth: f64,
    /// Whether each call had a pass of its own, since the device takes no timestamps inside one: that adds time outside
    /// kernels that is not there otherwise.
    pub pass_per_call: bool,
    /// Steps of several rows (`prompt`), and of one (`decode`), as far as there were any.
    pub phases: Vec<PhaseProfile>,
}

/// All steps of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseProfile {
    /// `prompt` or `decode`.
    pub name: &'static str,
    /// Steps, and their rows together.
    pub steps: u64,
    /// Rows of all steps.
    pub rows: u64,
    /// From the beginning of a step to its result, all steps together.
    pub elapsed: Duration,
    /// The kernels, those that took longest first.
    pub kernels: Vec<KernelProfile>,
}

impl PhaseProfile {
    /// Time in which no kernel ran.
    pub fn outside(&self) -> Duration {
        self.elapsed.saturating_sub(self.kernels.iter().map(|kernel| kernel.time).sum())
    }
}

/// All calls of a kernel in a phase.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct KernelProfile {
    /// The kernel and what fills its slots.
    pub name: String,
    /// How often it ran.
    pub calls: u64,
    /// How long it ran.
    pub time: Duration,
    /// Bytes of weights that it read.
    pub weight_bytes: u64,
    /// Bytes of keys and values that it read and wrote.
    pub kv_bytes: u64,
    /// Bytes of other tensors that it read and wrote.
    pub tensor_bytes: u64,
}

impl KernelProfile {
    /// Bytes of every kind.
    pub fn bytes(&self) -> u64 {
        self.weight_bytes + self.kv_bytes + self.tensor_bytes
    }

    /// Bytes a second.
    pub fn bandwidth(&self) -> f64 {
        self.bytes() as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}
