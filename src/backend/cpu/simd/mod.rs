//! What the fast path of the CPU computes with: wide vectors, for the processors that are found to have them.
//!
//! Activations are rounded to 16 bits (`activations`), block formats are unpacked to 16-bit integers, and a product of
//! the two is exact up to the sum of a block: a sixteenth of the error of 8-bit activations squared away, at the price
//! of one multiplication more. Weights are read where the file is mapped. A row's result is made by the same operations
//! in the same order whether it is alone in its step or among hundreds, so that its bits are the same.
//!
//! `ops` has the reference of each of these, and is what runs where [`available`] says no.

#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "only the kernels of x86-64 read activations so far")
)]
pub(super) mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;

#[cfg(not(target_arch = "x86_64"))]
mod none;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::{available, matmul};
#[cfg(not(target_arch = "x86_64"))]
pub(super) use none::{available, matmul};
