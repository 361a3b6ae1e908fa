//! `cloze devices`: what a model can run on here.

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
    lines.push(format!("     cores     {} that this process may use", cores()));
    #[cfg(feature = "cpu")]
    lines.push(format!("     features  {}", cloze::backend::cpu::cpu_features()));
    if let Some(available) = memory::available() {
        lines.push(format!("     memory    {} MiB available", available >> 20));
    }
    #[cfg(not(feature = "cpu"))]
    lines.push("     not in this build: build it with the cargo feature cpu".to_owned());
    #[cfg(feature = "cpu")]
    lines.push("     use it    --backend cpu (the default)".to_owned());
}

#[cfg(feature = "gpu")]
fn describe_gpus(lines: &mut Vec<String>) {
    let adapters = cloze::backend::gpu::adapters();
    if adapters.is_empty() {
        lines.push("gpu  none: no adapter was found through Vulkan, Metal or DX12".to_owned());
    }
    for (index, adapter) in adapters.iter().enumerate() {
        lines.push(format!("gpu  {}", adapter.name));
        lines.push(format!("     type      {}, {:?}", adapter.kind_name(), adapter.api));
        lines.push(format!("     driver    {}", adapter.driver.trim()));
        let yes_or_no = |has: bool| if has { "yes" } else { "no" };
        lines.push(format!("     f16       {}", yes_or_no(adapter.shader_f16)));
        let matrix_units = yes_or_no(adapter.matrix_units);
        lines.push(format!(
            "     matrix    units offered by the driver (cooperative matrices): {matrix_units}"
        ));
        lines.push(match adapter.memory() {
            Some(memory) => format!(
                "     memory    {} MiB, of which {} MiB are free",
                memory.total >> 20,
                memory.free >> 20
            ),
            None => "     memory    not known: neither wgpu nor this driver tells; it is tried out before loading"
                .to_owned(),
        });
        lines.push(format!("     buffers   up to {} MiB", adapter.buffer_bytes_max >> 20));
        let slower = if adapter.is_software() {
            ", which is slower than --backend cpu here"
        } else {
            ""
        };
        lines.push(format!("     use it    --backend gpu --gpu-device {index}{slower}"));
    }
}

#[cfg(not(feature = "gpu"))]
fn describe_gpus(lines: &mut Vec<String>) {
    lines.push("gpu  not in this build: build it with the cargo feature gpu".to_owned());
}
