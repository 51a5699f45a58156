//! learned — each head has a logit that takes part in the sum below the fraction of softmax, and weighs no value.
//!
//! exports  SINKS    whether heads have one
//!          sink_of  the logit of a head
//! sinks    [N_HEAD]  f32

const SINKS = true;

@group(0) @binding(9) var<storage, read> sinks: array<f32>;

fn sink_of(head: u32) -> f32 {
    return sinks[head];
}
