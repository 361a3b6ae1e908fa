//! The allocator of the C library.
//!
//! A crate of its own, since declaring a C function takes `unsafe` and no safe wrapper of it is published: `unsafe`
//! code is confined to `crates/`.

/// Returns freed memory to the system (`malloc_trim`). Does nothing with C libraries other than glibc.
///
/// glibc keeps freed memory for later allocations of the same thread. After a model is loaded, that is as much as its
/// largest tensors, while other threads compute.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: the declaration is that of glibc (malloc_trim(3)); any thread may call it at any time.
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // The result says whether there was memory to return.
        let _ = malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_in_use_survives() {
        let values = vec![7u8; 1 << 20];
        drop(vec![1u8; 1 << 22]);
        super::trim();
        assert!(values.iter().all(|&value| value == 7));
    }
}
