//! What Metal's compiler is given for each kernel: wgpu translates WGSL to MSL, with checks or, for shaders that it is told to
//! trust, without. A clamp on each index and a counter in each loop keep loops from being unrolled and loads from being
//! merged, so that no kernel may have one. These tests are the only look at that without a Mac.

use naga::proc::BoundsCheckPolicy;
use wgpu::ShaderRuntimeChecks;

use super::inventory::{Kernel, kernels};

/// Every way to fill the slots of every kernel, once: constants decide about no check.
fn each_once() -> Vec<Kernel> {
    let mut kernels = kernels(None).expect("the kernels can be listed");
    kernels.dedup_by_key(|kernel| (kernel.kernel, kernel.modules.clone()));
    kernels
}

/// The MSL of a kernel, made as wgpu's Metal back end makes it.
fn msl(kernel: &Kernel, checks: ShaderRuntimeChecks) -> String {
    let (text, constants) = kernel.key.link();
    let name = &kernel.name;
    let module = naga::front::wgsl::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&text)));
    let flags = naga::valid::ValidationFlags::all();
    let mut validator = naga::valid::Validator::new(flags, naga::valid::Capabilities::all());
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    let values = constants.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let entry = naga::ShaderStage::Compute;
    let (module, info) =
        naga::back::pipeline_constants::process_overrides(&module, &info, Some((entry, "main")), &values)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    let policy = if checks.bounds_checks { BoundsCheckPolicy::Restrict } else { BoundsCheckPolicy::Unchecked };
    let options = naga::back::msl::Options {
        lang_version: (3, 0),
        bounds_check_policies: naga::proc::BoundsCheckPolicies {
            index: policy,
            buffer: policy,
            image_load: policy,
            binding_array: BoundsCheckPolicy::Unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: checks.force_loop_bounding,
        emit_int_div_checks: checks.int_div_checks,
        // Where a binding goes is decided by the layout, which is not the subject here.
        fake_missing_bindings: true,
        ..Default::default()
    };
    let pipeline = naga::back::msl::PipelineOptions { entry_point: Some((entry, "main".into())), ..Default::default() };
    naga::back::msl::write_string(&module, &info, &options, &pipeline).unwrap_or_else(|e| panic!("{name}: {e}")).0
}

const CLAMP: &str = "metal::min(unsigned(";
const COUNTER: &str = "loop_bound";
const DIVISION: [&str; 2] = ["naga_div(", "naga_mod("];

#[test]
fn trusted_kernels_have_no_clamps_and_no_loop_counters() {
    for kernel in each_once() {
        let text = msl(&kernel, ShaderRuntimeChecks::unchecked());
        for check in [CLAMP, COUNTER].iter().chain(&DIVISION) {
            assert!(!text.contains(check), "{}: the trusted build has `{check}`:\n{text}", kernel.name);
        }
    }
}

/// The test above can only fail if these are what checks look like.
#[test]
fn checked_kernels_have_clamps_and_loop_counters() {
    let mut of_each_file = each_once();
    of_each_file.dedup_by_key(|kernel| kernel.kernel);
    let texts = of_each_file.iter().map(|kernel| (kernel, msl(kernel, ShaderRuntimeChecks::checked())));
    let (mut clamps, mut counters, mut divisions) = (0, 0, 0);
    for (kernel, text) in texts {
        let loops = text.contains("while(true)");
        assert_eq!(text.contains(COUNTER), loops, "{}: loops, and their counters:\n{text}", kernel.name);
        clamps += usize::from(text.contains(CLAMP));
        counters += usize::from(loops);
        divisions += usize::from(DIVISION.iter().any(|function| text.contains(function)));
    }
    assert_eq!(clamps, of_each_file.len(), "every kernel indexes buffers");
    assert!(counters > 3 && divisions > 0, "{counters} kernels loop, {divisions} divide");
}
