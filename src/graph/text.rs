//! The text form of a graph, as `halfbyte inspect` prints it: one op a line, weights by name and shape.

use std::fmt;

use super::{Gating, Graph, Op, Rows, WeightRef};

impl fmt::Display for WeightRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(rows) = &self.rows {
            write!(f, "[{}..{}]", rows.start, rows.end)?;
        }
        match self.shape {
            [1, n] => write!(f, " [{n}]"),
            [m, k] => write!(f, " [{m}, {k}]"),
        }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (id, op, value) in self.iter() {
            let name = |v: &super::ValueId| self.value(*v).name.as_str();
            let rows = match value.rows {
                Rows::Step => "T",
                Rows::Output => "N",
            };
            write!(f, "%{:<3} {:<24} ", id.0, value.name)?;
            if value.width > 0 {
                write!(f, "[{rows}, {}] = ", value.width)?;
            }
            match op {
                Op::Embed { table, scale } => write!(f, "embed({table}) * {scale}")?,
                Op::RmsNorm { x, weight, eps } => write!(f, "rms_norm({}, {weight}, eps {eps:e})", name(x))?,
                Op::MatMul { x, weight, bias: None } => write!(f, "matmul({}, {weight})", name(x))?,
                Op::MatMul { x, weight, bias: Some(b) } => write!(f, "matmul({}, {weight}) + {b}", name(x))?,
                Op::Rope { x, head_dim, rope } => {
                    let r = &self.ropes[*rope];
                    let n = 2 * r.inv_freq.len();
                    write!(f, "rope({}, {:?} over {n} of {head_dim}, rope {rope})", name(x), r.kind)?;
                }
                Op::StoreKv { layer, k, v } => write!(f, "store_kv(layer {layer}, {}, {})", name(k), name(v))?,
                Op::Attention { q, spec, sinks } => {
                    write!(
                        f,
                        "attention({}, layer {}, {} heads on {}",
                        name(q),
                        spec.layer,
                        spec.n_head,
                        spec.n_head_kv
                    )?;
                    write!(f, " of {}, scale {}", spec.head_dim, spec.scale)?;
                    if let Some(window) = spec.window {
                        write!(f, ", window {window}")?;
                    }
                    if let Some(cap) = spec.softcap {
                        write!(f, ", softcap {cap}")?;
                    }
                    if let Some(sinks) = sinks {
                        write!(f, ", sinks {sinks}")?;
                    }
                    f.write_str(")")?;
                }
                Op::Route { x, bias, n_used, gating, scale } => {
                    write!(f, "route({}", name(x))?;
                    if let Some(bias) = bias {
                        write!(f, " + {bias}")?;
                    }
                    let what = match gating {
                        Gating::Used => "softmax of those used",
                        Gating::All => "softmax of all",
                        Gating::Sigmoid => "sigmoid",
                        Gating::NormedSigmoid => "normed sigmoid",
                    };
                    write!(f, ", {n_used} experts, {what}) * {scale}")?;
                }
                Op::RowGate { x, gate } => write!(f, "sigmoid({}) * {}", name(gate), name(x))?,
                Op::ExpertMatMul { x, route, weights, bias, n_expert, .. } => {
                    write!(f, "expert_matmul({}, {}, {}", name(x), name(route), weights[0])?;
                    if let [_, .., last] = &weights[..] {
                        write!(f, " to {last}")?;
                    }
                    write!(f, " of {n_expert} experts)")?;
                    if let Some(bias) = bias {
                        write!(f, " + {bias}")?;
                    }
                }
                Op::ExpertSum { x, route, .. } => write!(f, "expert_sum({}, {})", name(x), name(route))?,
                Op::Gated { gate, up, act } => write!(f, "{act:?}({}) * {}", name(gate), name(up))?,
                Op::Add { a, b } => write!(f, "{} + {}", name(a), name(b))?,
                Op::OutputRows { x } => write!(f, "output_rows({})", name(x))?,
                Op::Scale { x, factor } => write!(f, "{} * {factor}", name(x))?,
                Op::Softcap { x, cap } => write!(f, "softcap({}, {cap})", name(x))?,
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
