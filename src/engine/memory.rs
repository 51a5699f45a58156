//! What a model will take, before anything is taken.

use std::collections::HashMap;

use crate::backend::KvFormat;
use crate::backend::{Limits, Memory, PAGE_LEN, Weights};
use crate::error::{Error, Result};
use crate::graph::{Graph, Rows};

/// What `graph` takes with these limits: the weights as they are in the file, the pages of the KV cache, and twice the
/// most that intermediates need at a time, or with `keep_tensors` what all of them need. Twice, since buffers of different widths leave gaps, and logits are copied
/// once more to be read; programs are found to take between 0.9 and 1.8 times that (a test holds the bound).
pub(super) fn plan(graph: &Graph, weights: &dyn Weights, limits: &Limits, kv: KvFormat, keep_tensors: bool) -> Memory {
    let weight_refs = graph.ops.iter().flat_map(|op| op.weights());
    let by_name: HashMap<&str, u64> = weight_refs
        .filter_map(|w| weights.weight(&w.name).map(|weight| (w.name.as_str(), weight.bytes.len() as u64)))
        .collect();
    let kv_bytes: usize = graph.kv.iter().map(|shape| 2 * shape.n_head_kv * kv.head_bytes(shape.head_dim)).sum();
    Memory {
        weights_bytes: by_name.values().sum(),
        kv_bytes: (kv_bytes * PAGE_LEN * limits.n_pages) as u64,
        scratch_bytes: 2 * scratch_bytes(graph, limits, keep_tensors),
    }
}

/// The most bytes of values that are alive at a time, each in f32; with `keep_tensors` those of all values.
fn scratch_bytes(graph: &Graph, limits: &Limits, keep_tensors: bool) -> u64 {
    let bytes = |i: usize| {
        let value = &graph.values[i];
        let n_rows = if value.rows == Rows::Step { limits.max_rows } else { limits.max_outputs };
        4 * (n_rows * value.width) as u64
    };
    if keep_tensors {
        return (0..graph.ops.len()).map(bytes).sum();
    }
    let mut dies: HashMap<usize, Vec<usize>> = HashMap::new();
    for (value, last) in graph.last_uses().into_iter().enumerate() {
        dies.entry(last).or_default().push(value);
    }
    let (mut alive, mut most) = (0, 0);
    for i in 0..graph.ops.len() {
        alive += bytes(i);
        most = most.max(alive);
        alive -= dies.remove(&i).into_iter().flatten().map(bytes).sum::<u64>();
    }
    most
}

/// That `memory` is there to be taken.
///
/// # Errors
/// If it is known not to be. Mapped weights are not counted: the system can drop and read them again.
pub(super) fn check(what: &str, memory: &Memory, weights_are_mapped: bool) -> Result<()> {
    let weights_bytes = if weights_are_mapped { 0 } else { memory.weights_bytes };
    let needed_bytes = weights_bytes + memory.kv_bytes + memory.scratch_bytes;
    match available_bytes() {
        Some(available_bytes) if needed_bytes > available_bytes => {
            Err(Error::OutOfMemory { what: what.into(), needed_bytes, available_bytes })
        }
        _ => Ok(()),
    }
}

/// What the system can give to this process: free and droppable memory, within the limit of its control group. Known on
/// Linux only; elsewhere an allocation that fails says so.
pub fn available_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let system = available_in_meminfo(&read("/proc/meminfo")?)?;
    let group = || {
        let limit: u64 = read("/sys/fs/cgroup/memory.max")?.trim().parse().ok()?;
        let used: u64 = read("/sys/fs/cgroup/memory.current")?.trim().parse().ok()?;
        let droppable = inactive_file_in_stat(&read("/sys/fs/cgroup/memory.stat")?).unwrap_or(0);
        Some((limit + droppable).saturating_sub(used))
    };
    Some(group().map_or(system, |group| group.min(system)))
}

fn available_in_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn inactive_file_in_stat(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_texts_are_understood() {
        let meminfo = "MemTotal:       24689912 kB\nMemFree:        15920000 kB\nMemAvailable:   22012345 kB\n";
        assert_eq!(available_in_meminfo(meminfo), Some(22_012_345 * 1024));
        assert_eq!(available_in_meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(inactive_file_in_stat("anon 5\ninactive_file 4096\n"), Some(4096));
    }

    #[test]
    fn what_is_not_there_is_refused_before_it_is_taken() {
        let Some(available) = available_bytes() else { return };
        let memory = Memory { weights_bytes: u64::MAX / 4, kv_bytes: 1, scratch_bytes: 1 };
        assert!(check("a model", &memory, true).is_ok());
        assert!(matches!(check("a model", &memory, false), Err(Error::OutOfMemory { .. })));
        let memory = Memory { weights_bytes: 0, kv_bytes: 2 * available, scratch_bytes: 0 };
        assert!(matches!(check("a model", &memory, true), Err(Error::OutOfMemory { .. })));
    }
}
