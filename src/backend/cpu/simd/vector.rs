//! A register of f32s, whatever the processor: what kernels are written with that are the same on all of them.
//!
//! Kernels are generic over [`Vector`], `#[inline(always)]` down to the last function, and become machine code in the
//! entry point of an instruction set ([`Isa::run`](super::Isa::run)), where all that they call may use its instructions.

/// Lanes of the widest register.
pub(in crate::backend::cpu) const MAX_LANES: usize = 16;

/// Bytes that memory gives at a time.
pub(in crate::backend::cpu) const LINE_BYTES: usize = 64;

/// Asks memory for `n_bytes` from `p` on, in the order of addresses, since that is what a processor's own prefetcher can continue.
/// See [`Vector::prefetch`].
///
/// # Safety
/// The processor has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn prefetch<V: Vector>(p: *const u8, n_bytes: usize, near: bool) {
    for line in (0..n_bytes).step_by(LINE_BYTES) {
        // SAFETY: as the caller promises.
        unsafe { V::prefetch(p.wrapping_add(line), near) };
    }
}

/// `LEN` lanes of f32, and `LEN` of 32-bit integers beside them.
///
/// # Safety
/// All functions need the instruction set that the type stands for; pointers are to as many numbers as are said to be
/// read or written there, of any alignment.
pub(in crate::backend::cpu) trait Vector: Copy {
    /// Lanes, at most [`MAX_LANES`].
    const LEN: usize;
    /// Registers that there are.
    const REGISTERS: usize;
    /// As many 32-bit integers.
    type Ints: Copy;

    /// Asks memory for the line of `p`, for all caches if `near`, else for those behind the first one. Any address will do.
    unsafe fn prefetch(p: *const u8, near: bool);

    /// `x` in each lane.
    unsafe fn splat(x: f32) -> Self;
    /// `LEN` numbers.
    unsafe fn load(p: *const f32) -> Self;
    /// `n` numbers, n at most `LEN`, and zeros.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;
    /// Writes `LEN` numbers.
    unsafe fn store(self, p: *mut f32);
    /// Writes the first `n`, n at most `LEN`.
    unsafe fn store_first(self, p: *mut f32, n: usize);
    /// `LEN` numbers in half precision.
    unsafe fn load_half(p: *const u16) -> Self;
    /// `LEN` brain floats: the upper halves of numbers.
    unsafe fn load_brain(p: *const u16) -> Self;
    /// Writes `LEN` numbers in half precision, rounded to the nearest.
    unsafe fn store_half(self, p: *mut u16);
    /// `LEN` signed bytes as numbers.
    unsafe fn load_i8(p: *const i8) -> Self;

    /// self + b
    unsafe fn add(self, b: Self) -> Self;
    /// self - b
    unsafe fn sub(self, b: Self) -> Self;
    /// self · b
    unsafe fn mul(self, b: Self) -> Self;
    /// self / b
    unsafe fn div(self, b: Self) -> Self;
    /// a · b + self, rounded once.
    unsafe fn mul_add(self, a: Self, b: Self) -> Self;
    /// The larger ones; what comes of a NaN is not said.
    unsafe fn max(self, b: Self) -> Self;
    /// The smaller ones; what comes of a NaN is not said.
    unsafe fn min(self, b: Self) -> Self;
    /// `yes` in lanes in which self is less than b, else `no`.
    unsafe fn if_less(self, b: Self, yes: Self, no: Self) -> Self;
    /// The nearest integers, of two equally near ones the even one.
    unsafe fn round(self) -> Self;
    /// 2ⁿ for lanes that are integers n from -126 to 127.
    unsafe fn exp2_of_integer(self) -> Self;
    /// The sum of all lanes.
    unsafe fn sum(self) -> f32;
    /// The largest of all lanes; what comes of a NaN is not said.
    unsafe fn largest(self) -> f32;

    /// `x` in each lane.
    unsafe fn splat_ints(x: u32) -> Self::Ints;
    /// `LEN` integers.
    unsafe fn load_ints(p: *const u32) -> Self::Ints;
    /// The four bytes at the byte `at` of each of the first `LEN` of `rows`.
    #[inline(always)]
    unsafe fn words(rows: &[*const u8; MAX_LANES], at: usize) -> Self::Ints {
        let mut words = [0u32; MAX_LANES];
        // SAFETY: as the caller promises.
        unsafe {
            for i in 0..Self::LEN {
                words[i] = rows[i].add(at).cast::<u32>().read_unaligned();
            }
            Self::load_ints(words.as_ptr())
        }
    }
    /// The four bytes at `p` and every `stride` bytes behind it, of which 16 can be read; nothing where going through memory is better.
    #[inline(always)]
    unsafe fn spread(_: *const u8, _: usize) -> Option<Self::Ints> {
        None
    }
    /// The 16 bytes at the byte `at` of each of the first `LEN` of `rows`, as four times `LEN` integers: lane i of integer j
    /// is bytes 4j to 4j + 3 there in `rows[i]`, the first one lowest.
    unsafe fn columns(rows: &[*const u8; MAX_LANES], at: usize) -> [Self::Ints; 4];
    /// Bits shifted down by `n` below 32, zeros coming in.
    unsafe fn shift_right(a: Self::Ints, n: u32) -> Self::Ints;
    /// Bits shifted down by `n` below 32, copies of the sign coming in.
    unsafe fn shift_right_signed(a: Self::Ints, n: u32) -> Self::Ints;
    /// Bits shifted up by `n` below 32.
    unsafe fn shift_left(a: Self::Ints, n: u32) -> Self::Ints;
    /// a & b
    unsafe fn and(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// a | b
    unsafe fn or(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Signed integers as numbers.
    unsafe fn from_ints(a: Self::Ints) -> Self;
    /// The numbers that the lower 16 bits of integers are in half precision.
    unsafe fn from_half_bits(a: Self::Ints) -> Self;
    /// The numbers that the lower and the upper 16 bits of integers are in half precision.
    #[inline(always)]
    unsafe fn from_two_halves(a: Self::Ints) -> [Self; 2] {
        // SAFETY: as the caller promises.
        unsafe { [Self::from_half_bits(a), Self::from_half_bits(Self::shift_right(a, 16))] }
    }
    /// The bits of integers as the numbers that they encode.
    unsafe fn from_bits(a: Self::Ints) -> Self;
    /// a - b in each byte.
    unsafe fn sub_bytes(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The numbers of `table` at indices below 16, each a byte.
    unsafe fn lookup_bytes(table: &[i8; 16], i: Self::Ints) -> Self::Ints;
}

/// What [`Isa::run`](super::Isa::run) runs.
pub(in crate::backend::cpu) trait Kernel {
    /// What comes of it.
    type Output;

    /// Runs; `#[inline(always)]` in each implementation.
    ///
    /// # Safety
    /// The processor has the instruction set that `V` stands for.
    unsafe fn run<V: Vector>(self) -> Self::Output;
}
