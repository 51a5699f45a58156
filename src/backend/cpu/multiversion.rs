//! Compiles one scalar source twice: for any processor, and for one with wider vectors.
//!
//! The compiler turns loops over independent sums into vector instructions, but only into those that every processor
//! of the target has. The second copy may use AVX2, and is taken where the processor has it. Both give the same bits:
//! Rust neither reorders floating-point arithmetic nor contracts it to fused multiply-adds.

/// Defines a function whose body is compiled for the baseline and for AVX2, chosen when it is called.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn any($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $result)? {
                    any($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has AVX2.
                    return unsafe { avx2($($arg),*) };
                }
            }
            any($($arg),*)
        }
    };
}

pub(crate) use multiversion;
