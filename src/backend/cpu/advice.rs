//! What the system is told about memory: hints, which change nothing that is in it.

/// That the bytes of a mapped file will be read.
pub(super) fn will_need(bytes: &[u8]) {
    #[cfg(unix)]
    advise(bytes, libc::MADV_WILLNEED);
    #[cfg(not(unix))]
    let _ = bytes;
}

/// That large pages are wanted behind `numbers`, which nobody has written to yet: who goes through many megabytes waits for fewer
/// addresses.
pub(super) fn want_large_pages<T>(numbers: &[T]) {
    #[cfg(target_os = "linux")]
    advise(numbers, libc::MADV_HUGEPAGE);
    #[cfg(not(target_os = "linux"))]
    let _ = numbers;
}

#[cfg(unix)]
fn advise<T>(memory: &[T], advice: libc::c_int) {
    /// Pages of all systems begin at multiples of this; where they are larger, the hint is not taken.
    const PAGE: usize = 4096;
    let start = memory.as_ptr().addr() & !(PAGE - 1);
    let len = memory.as_ptr().addr() + size_of_val(memory) - start;
    // SAFETY: both kinds of advice are hints.
    unsafe { libc::madvise(start as *mut libc::c_void, len, advice) };
}
