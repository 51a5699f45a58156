//! none — no head has a sink.
//!
//! exports  SINKS    whether heads have one
//!          sink_of  the logit of a head

const SINKS = false;

fn sink_of(head: u32) -> f32 {
    return 0.0;
}
