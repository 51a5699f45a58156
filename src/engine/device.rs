//! Which device runs a model, and why that one.
//!
//! There is one decision, [`choose`], and everything that tells people about it shows its reason.

use std::convert::Infallible;
use std::str::FromStr;

use crate::backend::gpu::{AdapterInfo, AdapterKind};
use crate::error::{Error, Result};

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Device {
    /// A hardware GPU if there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The best adapter, a software one included.
    Gpu,
    /// The best adapter whose name contains this, in upper or lower case.
    Named(String),
}

impl FromStr for Device {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Device::Auto,
            "cpu" => Device::Cpu,
            "gpu" => Device::Gpu,
            name => Device::Named(name.into()),
        })
    }
}

/// What was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Index of the adapter; `None` for the CPU.
    pub adapter: Option<usize>,
    /// Why, for people.
    pub reason: String,
    /// Whether people should be told without asking, since they may have expected another device.
    pub noteworthy: bool,
}

/// Chooses among `adapters`, which are sorted best first.
///
/// # Errors
/// If a GPU was asked for and none fits.
pub fn choose(device: &Device, adapters: &[AdapterInfo]) -> Result<Choice> {
    let cpu = |reason: String| Ok(Choice { adapter: None, reason, noteworthy: false });
    let gpu = |i: usize, reason: String| Ok(Choice { adapter: Some(i), reason, noteworthy: false });
    match device {
        Device::Cpu => cpu("the CPU, as asked for".into()),
        Device::Auto => match adapters.first() {
            None => cpu("the CPU, since there is no GPU adapter".into()),
            Some(best) if best.kind == AdapterKind::Software => {
                let reason = format!("the CPU, since {} is no hardware but slower software", best.name);
                Ok(Choice { adapter: None, reason, noteworthy: true })
            }
            Some(best) => gpu(0, format!("{}, the best GPU adapter", best.name)),
        },
        Device::Gpu => match adapters.first() {
            None => Err(Error::NoAdapter { wanted: None, found: vec![] }),
            Some(best) => gpu(0, format!("{}, the best GPU adapter", best.name)),
        },
        Device::Named(part) => {
            let fits = |a: &AdapterInfo| a.name.to_lowercase().contains(&part.to_lowercase());
            match adapters.iter().position(fits) {
                Some(i) => gpu(i, format!("{}, whose name contains `{part}`", adapters[i].name)),
                None => Err(Error::NoAdapter {
                    wanted: Some(part.clone()),
                    found: adapters.iter().map(|a| a.name.clone()).collect(),
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: AdapterKind) -> AdapterInfo {
        AdapterInfo {
            name: name.into(),
            backend: "Vulkan".into(),
            driver: "test".into(),
            kind,
            max_binding_bytes: 1 << 27,
            max_buffer_bytes: 1 << 28,
            subgroups: None,
            f16: false,
            matrix_side: None,
        }
    }

    fn chosen(device: &str, adapters: &[AdapterInfo]) -> Option<usize> {
        let device = device.parse().unwrap_or_else(|e: Infallible| match e {});
        choose(&device, adapters).expect("an adapter fits").adapter
    }

    #[test]
    fn auto_takes_hardware_and_never_a_software_adapter() {
        let software = adapter("llvmpipe", AdapterKind::Software);
        let hardware = adapter("Radeon", AdapterKind::Integrated);
        assert_eq!(chosen("auto", &[]), None);
        assert_eq!(chosen("auto", std::slice::from_ref(&software)), None);
        assert_eq!(chosen("auto", &[hardware.clone(), software.clone()]), Some(0));
        assert_eq!(chosen("gpu", std::slice::from_ref(&software)), Some(0));
        assert_eq!(chosen("cpu", std::slice::from_ref(&hardware)), None);
        assert_eq!(chosen("LLVM", &[hardware, software]), Some(1));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_that_names_those_that_are() {
        let error = choose(&Device::Named("arc".into()), &[adapter("Radeon", AdapterKind::Discrete)])
            .expect_err("no such adapter");
        assert_eq!(error.to_string(), "no GPU adapter whose name contains `arc`");
        assert_eq!(error.hint().as_deref(), Some("adapters here: Radeon"));
        assert_eq!(choose(&Device::Gpu, &[]).expect_err("none").to_string(), "no GPU adapter found");
    }
}
