//! Making files: out of other GGUF files, and out of what models are published as.

mod budget;
mod commands;
mod imatrix;
mod output;
mod published;
mod quantize;

use std::ops::ControlFlow;
use std::path::Path;

use halfbyte::Result;
use halfbyte::convert::Plan;
use halfbyte::gguf::GgufWriter;

/// Writes a plan without anybody looking.
fn write(plan: &Plan, path: &Path) -> Result<()> {
    plan.write(path, [], &mut |_| ControlFlow::Continue(()))
}

/// A file with these tensors in F32 and these metadata.
fn file_with(path: &Path, tensors: &[(&str, &[usize], &[f32])]) {
    let mut writer = GgufWriter::new();
    writer.set("general.architecture", "llama");
    for (name, shape, _) in tensors {
        writer.tensor(name, shape, 0);
    }
    let mut stream = writer.create(path).expect("created");
    for (_, _, numbers) in tensors {
        stream.write(bytemuck::cast_slice(numbers)).expect("written");
    }
    stream.finish().expect("finished");
}

/// What lies in a folder, sorted.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
    names.sort();
    names
}
