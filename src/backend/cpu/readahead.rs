//! Weights that are not in memory are asked for before they are read, so that the disk works while the processor does.
//!
//! A mapped file that is larger than memory is read again for each token, in the order of the graph. Left to itself the
//! system reads a little ahead of each fault, and threads wait for each piece. Where a step had to wait for the disk
//! (it had major faults), the next one asks for weights [`AHEAD_BYTES`] before it comes to them. Where the file is in memory
//! nothing is asked, since asking takes time, too.

use super::advice::will_need;
use crate::quant::SharedBytes;

/// How far ahead: a quarter of a second at a gigabyte per second, and little beside what is cached.
const AHEAD_BYTES: usize = 256 << 20;

/// The weights of a graph in the order of its groups, and how far they were asked for.
pub(super) struct ReadAhead {
    /// For each group what it reads from the file.
    groups: Vec<Vec<SharedBytes>>,
    /// Whether the step before had to wait.
    is_needed: bool,
    faults: u64,
    /// The next group to be asked for, and the bytes from the one that runs up to there.
    next: usize,
    bytes: usize,
}

impl ReadAhead {
    pub(super) fn new(groups: Vec<Vec<SharedBytes>>) -> Self {
        Self { groups, is_needed: false, faults: major_faults(), next: 0, bytes: 0 }
    }

    /// A step begins.
    pub(super) fn begin_step(&mut self) {
        let faults = major_faults();
        let waited = faults > self.faults;
        if !(waited && self.is_needed) {
            (self.next, self.bytes) = (0, 0);
        }
        (self.faults, self.is_needed) = (faults, waited);
    }

    /// Group g is about to run. After the last one come those of the next step.
    pub(super) fn begin_group(&mut self, g: usize) {
        if !self.is_needed {
            return;
        }
        let n = self.groups.len();
        if self.next == g && self.bytes == 0 {
            self.next = (g + 1) % n;
        }
        let len = |group: &[SharedBytes]| group.iter().map(|bytes| bytes.len()).sum::<usize>();
        // What runs now is no longer ahead.
        self.bytes = self.bytes.saturating_sub(len(&self.groups[g]));
        while self.bytes < AHEAD_BYTES && self.next != g {
            let group = &self.groups[self.next];
            group.iter().for_each(|bytes| will_need(bytes));
            self.bytes += len(group);
            self.next = (self.next + 1) % n;
        }
    }
}

/// Times that this process waited for the disk because of a page that was not there.
#[cfg(unix)]
fn major_faults() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the struct is filled in, and all zeros are one, too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    u64::try_from(usage.ru_majflt).unwrap_or(0)
}

#[cfg(not(unix))]
fn major_faults() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn groups(lens: &[usize]) -> ReadAhead {
        let bytes = |&len: &usize| SharedBytes::new(Arc::new(vec![0u8; len]));
        ReadAhead::new(lens.iter().map(|len| vec![bytes(len)]).collect())
    }

    #[test]
    fn what_is_asked_for_stays_ahead_by_some_bytes_and_goes_round() {
        const MIB: usize = 1 << 20;
        let mut ahead = groups(&[160 * MIB, 0, 120 * MIB, 120 * MIB, 40 * MIB, 200 * MIB]);
        ahead.is_needed = true;
        let mut next = Vec::new();
        for g in (0..6).chain(0..6) {
            ahead.begin_group(g);
            next.push(ahead.next);
        }
        // At first 0 + 120 + 120 + 40; in the end the file is asked for again from its beginning.
        assert_eq!(next, [5, 5, 0, 1, 1, 3, 5, 5, 0, 1, 1, 3]);
    }

    #[test]
    fn nothing_is_asked_for_where_nothing_was_waited_for() {
        let mut ahead = groups(&[1 << 20, 1 << 20]);
        ahead.begin_step();
        assert!(!ahead.is_needed || major_faults() > 0);
        ahead.is_needed = false;
        ahead.begin_group(0);
        assert_eq!((ahead.next, ahead.bytes), (0, 0));
    }
}
