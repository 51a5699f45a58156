//! What a model will take, before anything is taken.

use std::collections::HashMap;
use std::path::Path;

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

/// What the system can give to this process: free and droppable memory, within the limits of its control groups. Known on
/// Linux only; elsewhere an allocation that fails says so.
pub fn available_bytes() -> Option<u64> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let system = available_in_meminfo(&read("/proc/meminfo".as_ref())?)?;
    Some(available_in_groups(&read).map_or(system, |groups| groups.min(system)))
}

/// Where a version of control groups has which number.
struct Groups {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`, what can be dropped.
    droppable: &'static str,
}

const V2: Groups =
    Groups { root: "/sys/fs/cgroup", limit: "memory.max", used: "memory.current", droppable: "inactive_file " };
const V1: Groups = Groups {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    droppable: "total_inactive_file ",
};

/// What the groups of this process leave to it, with all those that they are in; `None` without a limit.
fn available_in_groups(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let own = read("/proc/self/cgroup".as_ref())?;
    let available = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let groups = match controllers {
            "" => V2,
            _ if controllers.split(',').any(|controller| controller == "memory") => V1,
            _ => return None,
        };
        let within = |group: &Path| {
            let folder = Path::new(groups.root).join(group.strip_prefix("/").ok()?);
            let number = |name: &str| read(&folder.join(name))?.trim().parse::<u64>().ok();
            let (limit, used) = (number(groups.limit)?, number(groups.used)?);
            let stat = read(&folder.join("memory.stat")).unwrap_or_default();
            let droppable = number_in_stat(&stat, groups.droppable).unwrap_or(0);
            Some(limit.saturating_add(droppable).saturating_sub(used))
        };
        Path::new(group).ancestors().filter_map(within).min()
    };
    own.lines().filter_map(available).min()
}

fn available_in_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

fn number_in_stat(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_texts_are_understood() {
        let meminfo = "MemTotal:       24689912 kB\nMemFree:        15920000 kB\nMemAvailable:   22012345 kB\n";
        assert_eq!(available_in_meminfo(meminfo), Some(22_012_345 * 1024));
        assert_eq!(available_in_meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(number_in_stat("anon 5\ninactive_file 4096\n", V2.droppable), Some(4096));
    }

    #[test]
    fn the_narrowest_group_counts_wherever_it_is() {
        let available = |files: &[(&str, &str)]| {
            let read = |path: &Path| Some(files.iter().find(|(name, _)| path == Path::new(name))?.1.to_owned());
            available_in_groups(&read)
        };
        let user = [
            ("/proc/self/cgroup", "0::/user.slice/a.scope\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "1000\n"),
            ("/sys/fs/cgroup/user.slice/memory.current", "600\n"),
            ("/sys/fs/cgroup/user.slice/memory.stat", "anon 500\ninactive_file 50\n"),
            ("/sys/fs/cgroup/user.slice/a.scope/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/a.scope/memory.current", "500\n"),
        ];
        assert_eq!(available(&user), Some(450));
        let own = [("/sys/fs/cgroup/user.slice/a.scope/memory.max", "700"), user[5]];
        assert_eq!(available(&[&user[..4], &own].concat()), Some(200));
        assert_eq!(available(&[user[0], user[4], user[5]]), None);
        let container = [
            ("/proc/self/cgroup", "9:cpu:/x\n5:memory,hugetlb:/docker/1\n0::/\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5000"),
            ("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 1000\n"),
        ];
        assert_eq!(available(&container), Some(96));
        assert_eq!(available(&[]), None);
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
