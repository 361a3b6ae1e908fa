//! Devices that fail, and models that do not fit.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use burn::tensor::TensorData;

use super::*;
use crate::backend::{EncoderBackend, Tensor};
#[cfg(target_os = "linux")]
use crate::sys::memory::resident;

fn device() -> GpuDevice {
    open(None).unwrap()
}

fn numbers(gpu: &GpuDevice) -> Tensor<Gpu, 1> {
    Tensor::from_data([1.0, 2.0, 3.0], &gpu.device)
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_lost_device_is_a_fault_and_never_a_hang() {
    let gpu = device();
    let before = numbers(&gpu);
    let sum = (before.clone() + 1.0).into_vec().unwrap();
    assert_eq!(sum, [2.0, 3.0, 4.0]);
    assert_eq!(gpu.fault(), None);
    gpu.raw.destroy();
    // On a thread of its own, so that a hang is a failed test.
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // A panic or wrong numbers: neither may reach a caller.
        let _ = caught(|| (before * 2.0).into_vec());
        let _ = sender.send(gpu.fault());
    });
    let fault = receiver.recv_timeout(Duration::from_secs(30));
    let fault = fault.expect("reading from a lost device hangs");
    let fault = fault.expect("the loss is known");
    assert!(fault.starts_with("the GPU"), "{fault}");
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_device_that_fails_while_it_is_filled_is_an_error() {
    let gpu = device();
    let kept = gpu.fill(|_| numbers(&gpu)).unwrap();
    assert_eq!(kept.into_vec().unwrap(), [1.0, 2.0, 3.0]);
    // More than any buffer may have.
    let rows = gpu.adapter.buffer_bytes_max as usize / 4;
    let load = |device: &CubeDevice| Gpu::check(&Tensor::zeros([rows, 8], device));
    let error = match gpu.fill(load) {
        Ok(checked) => gpu.load_error(checked.unwrap_err()),
        Err(error) => error,
    };
    let sentence = error.to_string();
    assert!(sentence.starts_with("the model could not be put onto"), "{sentence}");
    assert!(!sentence.contains('\n') && sentence.len() < 1000, "{sentence}");
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_weight_that_no_kernel_can_read_is_an_error_of_the_load() {
    let gpu = device();
    // A page more than that; memory for it there is.
    let numbers = gpu.adapter.buffer_bytes_max as usize / 4 + 1024;
    let load = |device: &CubeDevice| {
        let weight = Tensor::<Gpu, 1>::from_data(TensorData::new(vec![0.0f32; numbers], [numbers]), device);
        Gpu::check(&weight)
    };
    let error = match gpu.fill(load) {
        Ok(checked) => gpu.load_error(checked.unwrap_err()),
        Err(error) => error,
    };
    let sentence = error.to_string();
    assert!(sentence.starts_with("the model could not be put onto"), "{sentence}");
}

#[test]
#[ignore = "needs a GPU adapter"]
fn tensors_of_a_load_take_their_own_size_and_dropped_ones_nothing() {
    let gpu = device();
    let numbers = 5 << 20;
    let zeros = |device: &CubeDevice| Tensor::<Gpu, 1>::zeros([numbers], device);
    let kept = gpu
        .fill(|device| {
            drop(zeros(device));
            [zeros(device), zeros(device)]
        })
        .unwrap();
    let expected = 2 * 4 * numbers as u64;
    let allocated = gpu.allocated_bytes();
    assert!(
        (expected..expected + expected / 100).contains(&allocated),
        "{allocated}"
    );
    drop(kept);
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_weight_larger_than_a_buffer_is_refused_before_loading() {
    let gpu = device();
    let bytes_max = gpu.adapter.buffer_bytes_max;
    assert!(gpu.check_fits(bytes_max, 4).is_ok());
    let error = gpu.check_fits(bytes_max + 1, 4).unwrap_err().to_string();
    assert!(error.contains("in one buffer") && error.contains("bytes"), "{error}");
}

#[test]
#[ignore = "needs a GPU adapter"]
fn weights_beyond_the_memory_are_refused_before_loading() {
    let gpu = device();
    // A pebibyte.
    let error = gpu.check_fits(4, 1 << 50).unwrap_err().to_string();
    assert!(error.contains("1073741824 MiB") && !error.contains("--"), "{error}");
}

#[test]
#[ignore = "needs a GPU adapter"]
fn memory_of_a_check_is_released() {
    let gpu = device();
    // Together more than most machines have.
    for _ in 0..64 {
        assert!(gpu.can_allocate(256 << 20));
    }
    assert_eq!(gpu.fault(), None);
}

#[test]
#[ignore = "needs a GPU adapter"]
fn a_panic_while_loading_is_an_error() {
    let gpu = device();
    let error = gpu.fill::<()>(|_| panic!("on purpose")).unwrap_err();
    let sentence = error.to_string();
    assert!(sentence.ends_with("on purpose"), "{sentence}");
    assert_eq!(gpu.fault(), None);
}

#[test]
fn f16_is_the_default_of_a_device_that_has_it_and_refused_by_others() {
    use Precision::{F16, F32};
    for (requested, has_f16, chosen) in [
        (None, true, Some(F16)),
        (None, false, Some(F32)),
        (Some(F32), true, Some(F32)),
        (Some(F32), false, Some(F32)),
        (Some(F16), true, Some(F16)),
        (Some(F16), false, None),
    ] {
        assert_eq!(choose_precision(requested, has_f16), chosen, "{requested:?}, {has_f16}");
    }
}

/// The number of times that the thread with this name has gone to sleep, if it exists.
#[cfg(target_os = "linux")]
fn sleeps(name: &str) -> Option<u64> {
    // A thread may end meanwhile.
    let threads = std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    let status = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("status")).ok());
    let mut named = status.filter(|status| status.lines().next() == Some(&format!("Name:\t{name}")));
    let count = named.next()?;
    let count = count
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    Some(count.unwrap().trim().parse().unwrap())
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "needs a GPU adapter"]
fn a_dropped_device_takes_neither_processor_time_nor_memory() {
    const BYTES: u64 = 96 << 20;
    let gpu = device();
    let CubeDevice::Wgpu(device) = &gpu.device else {
        panic!("{:?} is not of wgpu", gpu.device);
    };
    let thread = faults::thread_name(device).expect("the device was opened here");
    let large: Tensor<Gpu, 1> = Tensor::zeros([BYTES as usize / 4], &gpu.device);
    Wgpu::sync(&gpu.device).unwrap();
    // Of a card with memory of its own, the process cannot tell.
    let shares_memory = gpu.adapter.is_software();
    let before = resident().unwrap();
    assert!(sleeps(&thread).is_some(), "no thread is named {thread}");
    drop((large, gpu));
    // CubeCL's thread sleeps 150 microseconds at a time while it polls.
    let ends_by = Instant::now() + Duration::from_secs(30);
    loop {
        let slept = sleeps(&thread);
        std::thread::sleep(Duration::from_millis(100));
        let released = before.saturating_sub(resident().unwrap());
        if sleeps(&thread) == slept && (!shares_memory || released > BYTES / 2) {
            break;
        }
        assert!(
            Instant::now() < ends_by,
            "{thread} polls, or {released} of {BYTES} bytes were released"
        );
    }
}
