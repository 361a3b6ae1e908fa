//! `cloze devices`: the CPU and the GPU adapters of this machine.

use cloze::sys::{cpu, memory};

use super::model::cores;
use super::print;

/// Prints the CPU and every GPU adapter.
pub fn run() -> std::io::Result<()> {
    let mut lines = Vec::new();
    describe_cpu(&mut lines);
    describe_gpus(&mut lines);
    print(&lines)
}

fn describe_cpu(lines: &mut Vec<String>) {
    let name = cpu::name().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    lines.push(format!("cpu  {name}"));
    lines.push(format!("     cores     {} available to this process", cores()));
    #[cfg(feature = "cpu")]
    lines.push(format!("     features  {}", cloze::backend::cpu::cpu_features()));
    if let Some(available) = memory::available() {
        lines.push(format!("     memory    {} MiB available", available.bytes >> 20));
    }
    #[cfg(not(feature = "cpu"))]
    lines.push("     not in this build: enable the cargo feature cpu".to_owned());
    #[cfg(feature = "cpu")]
    lines.push("     flags     --backend cpu (the default)".to_owned());
}

#[cfg(feature = "gpu")]
fn describe_gpus(lines: &mut Vec<String>) {
    let adapters = cloze::backend::gpu::adapters();
    if adapters.is_empty() {
        lines.push("gpu  no adapter found through Vulkan, Metal or DX12".to_owned());
    }
    for (index, adapter) in adapters.iter().enumerate() {
        lines.push(format!("gpu  {}", adapter.name));
        lines.push(format!("     type      {}, {:?}", adapter.kind_name(), adapter.api));
        lines.push(format!("     driver    {}", adapter.driver.trim()));
        let yes_or_no = |has: bool| if has { "yes" } else { "no" };
        lines.push(format!("     f16       {}", yes_or_no(adapter.shader_f16)));
        let matrix_units = yes_or_no(adapter.matrix_units);
        // WGSL, the shading language of other builds, has no cooperative matrices.
        let reached = match adapter.matrix_units && !cfg!(feature = "vulkan") {
            true => "; this build does not use them: build with the cargo feature vulkan",
            false => "",
        };
        lines.push(format!(
            "     matrix    cooperative matrices (matrix units): {matrix_units}{reached}"
        ));
        lines.push(match adapter.memory() {
            Some(memory) => format!(
                "     memory    {} MiB, {} MiB free",
                memory.total >> 20,
                memory.free >> 20
            ),
            None => "     memory    unknown: the driver does not report it; an allocation is tried before loading"
                .to_owned(),
        });
        lines.push(format!("     buffers   up to {} MiB", adapter.buffer_bytes_max >> 20));
        let slower = if adapter.is_software() {
            " (slower than --backend cpu)"
        } else {
            ""
        };
        lines.push(format!("     flags     --backend gpu --gpu-device {index}{slower}"));
    }
}

#[cfg(not(feature = "gpu"))]
fn describe_gpus(lines: &mut Vec<String>) {
    lines.push("gpu  not in this build: enable the cargo feature gpu".to_owned());
}
