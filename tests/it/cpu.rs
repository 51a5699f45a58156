//! Tests of cpu.
