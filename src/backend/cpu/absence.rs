//! How long a worker stays away after it made a job wait because the system gave its core to another program.
//!
//! With two threads on two cores, one of them taken, a job waits for whichever thread is put aside, and is slower than on the
//! other core alone. So the thread leaves the work to the others, first for a moment, and each time for twice as long, and tries
//! again then.

use std::time::{Duration, Instant};

/// The first absence: a few time slices.
const SHORTEST: Duration = Duration::from_millis(8);
/// The last one: what is lost at most when the core is free again.
const LONGEST: Duration = Duration::from_millis(250);

/// What one worker knows of its late jobs.
#[derive(Debug, Default)]
pub(super) struct Absence {
    /// The end of the last absence, and how long it was.
    last: Option<(Instant, Duration)>,
    preemptions: Option<i64>,
}

impl Absence {
    /// Until when to stay away, if the system put this thread aside during the late job that ends now.
    pub(super) fn after_late_job(&mut self, now: Instant) -> Option<Instant> {
        let preemptions = preemptions();
        let before = std::mem::replace(&mut self.preemptions, preemptions);
        // Else it waited for the disk, as for a part of a model that is larger than memory.
        (preemptions.is_none() || preemptions != before).then(|| self.next(now))
    }

    fn next(&mut self, now: Instant) -> Instant {
        let len = match self.last {
            // It went well for longer than the absence was.
            Some((end, len)) if now.saturating_duration_since(end) <= len => LONGEST.min(2 * len),
            _ => SHORTEST,
        };
        let end = now + len;
        self.last = Some((end, len));
        end
    }
}

/// How often the system took the core from this thread, where it says so.
#[cfg(target_os = "linux")]
fn preemptions() -> Option<i64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the system writes as much as the structure has, whose zeros are numbers too.
    unsafe { (libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) == 0).then(|| usage.assume_init().ru_nivcsw) }
}

#[cfg(not(target_os = "linux"))]
fn preemptions() -> Option<i64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absences_double_until_it_goes_well() {
        let mut absence = Absence::default();
        let mut now = Instant::now();
        let mut lens = Vec::new();
        for _ in 0..8 {
            let end = absence.next(now);
            lens.push((end - now).as_millis());
            now = end + Duration::from_millis(1);
        }
        assert_eq!(lens, [8, 16, 32, 64, 128, 250, 250, 250]);
        now += 2 * LONGEST;
        assert_eq!(absence.next(now) - now, SHORTEST);
    }
}
