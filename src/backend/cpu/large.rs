//! Memory in large pages, where the system has them: what goes through many megabytes waits for fewer addresses.

/// Asks for large pages behind `numbers`, which nobody has written to yet.
pub(super) fn ask_for<T>(numbers: &[T]) {
    #[cfg(target_os = "linux")]
    {
        /// Pages of all systems begin at multiples of this; where they are larger, the hint is not taken.
        const PAGE: usize = 4096;
        let start = numbers.as_ptr().addr().next_multiple_of(PAGE);
        let end = numbers.as_ptr().addr() + size_of_val(numbers);
        let len = end.saturating_sub(start) & !(PAGE - 1);
        // SAFETY: a hint about whole pages of this memory, which changes nothing that is in it.
        unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = numbers;
}
