//! Tests of quant.
