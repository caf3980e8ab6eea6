//! Memory that is free goes back to the kernel. The one place with unsafe code: two calls of the C library.
//!
//! A start and a reload take more than twice the memory that they leave in use. glibc keeps what was freed, and with an
//! arena for each thread it keeps it several times. One arena for all and a fixed limit beyond which an allocation
//! is a mapping of its own make [`give_back`] return nearly everything.

/// Allocations from here on are mappings of their own: what holds a whole state goes back as soon as it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: i32 = 128 << 10;

/// Sets the allocator up; to be called before there are threads.
pub fn set_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: `mallopt` takes two numbers and may be called at any time; one that it does not like it refuses.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// Gives free memory back to the kernel. Takes milliseconds after much was freed, in which allocations of other threads
/// wait: for after a start and a reload, not for every day.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[allow(unsafe_code)]
    // SAFETY: `malloc_trim` takes a number and locks what it works on.
    unsafe {
        libc::malloc_trim(0);
    }
}
