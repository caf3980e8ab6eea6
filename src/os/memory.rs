//! Memory that is free, or was needed by the start alone, goes back to the kernel.
//!
//! A start and a reload take more than twice the memory that they leave in use. glibc keeps what was freed, and with an
//! arena for each thread it keeps it several times: one arena for all, and a fixed size from which an allocation is a
//! mapping of its own, let [`give_heap_back`] return nearly everything.
//!
//! The kernel maps a program's pages as they are used, with 15 neighbours each, and keeps them mapped. What parsed the
//! command line and the configuration, opened the state file and prepared its statements is most of what a start
//! touches, and is never run again. Unmapping all of it costs some hundred short page faults: what is in use comes
//! back from the page cache at once.
//!
//! [`fetch`] is about the nearest memory there is: the processor's caches.

#![expect(unsafe_code, reason = "advice to the kernel, the C library and the processor on this program's own memory")]

use std::ffi::c_void;
use std::ptr::NonNull;

use nix::sys::mman::{MmapAdvise, madvise};

/// What of the process the kernel has mapped where, with sizes.
const MAPPINGS: &str = "/proc/self/smaps";

/// Allocations of this many bytes or more are mappings of their own: what holds a whole state goes back when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: i32 = 128 << 10;

/// Has the processor bring a place of memory near that is about to be read. Any address will do; where there is no such
/// instruction nothing happens.
#[inline]
pub fn fetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction is in every such processor; it reads nothing, and an address that is none does no harm.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Sets the allocator up; to be called before there are threads.
pub fn set_up() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and may be called at any time; one that it does not like it refuses.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED_FROM);
    }
}

/// Gives back the code that was used and the heap that was freed: once, after the start.
pub fn give_back() {
    give_code_back();
    give_heap_back();
}

/// Gives back the heap that was freed. Takes milliseconds after much was, in which allocations of other threads wait:
/// for after a start and a reload, not for every day.
pub fn give_heap_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches nothing but what is free, under the locks of the heaps.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Unmaps the pages of programs and libraries that are as they are in their files.
fn give_code_back() {
    let Ok(mappings) = std::fs::read_to_string(MAPPINGS) else { return };
    for (start, length) in unchanged(&mappings) {
        let Some(start) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(start)) else { continue };
        // SAFETY: the range is a private mapping of a file that cannot be written and of which no page differs from
        // the file, says the kernel; whatever is read there next is read from the file again. Nobody unmaps or
        // protects program code while the process runs.
        let advised = unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) };
        if let Err(errno) = advised {
            log::debug!("pages of code are kept in memory: {errno}");
        }
    }
}

/// Where private mappings of files begin and how long they are, if they cannot be written and no page of them is a
/// copy of the process's own, as relocated tables are.
fn unchanged(smaps: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match first {
            "Anonymous:" if second == "0" => found.extend(mapping.take()),
            _ if first.ends_with(':') => {}
            _ => {
                let of_file = words.nth(2).is_some_and(|inode| inode != "0");
                mapping = range(first).filter(|_| of_file && matches!(second, "r-xp" | "r--p"));
            }
        }
    }
    found
}

/// The start and the length of `START-END`.
fn range(word: &str) -> Option<(usize, usize)> {
    let (start, end) = word.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_as_in_its_file_is_given_back() {
        let text = "\
1000-3000 r-xp 00001000 fe:01 77 /usr/bin/har
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
3000-4000 r--p 00003000 fe:01 77 /usr/bin/har
Anonymous:             4 kB
4000-5000 rw-p 00004000 fe:01 77 /usr/bin/har
Anonymous:             0 kB
5000-6000 r--p 00000000 00:00 0
Anonymous:             0 kB
6000-7000 r--s 00000000 fe:01 78 /var/lib/har/har.db-shm
Anonymous:             0 kB
7000-9000 r--p 00000000 fe:01 79 /usr/lib/libc.so.6
Anonymous:             0 kB
";
        assert_eq!(unchanged(text), [(0x1000, 0x2000), (0x7000, 0x2000)]);
        assert!(unchanged("garbage\nAnonymous: 0 kB\n-").is_empty());
    }

    #[test]
    fn the_process_goes_on_with_fewer_pages() {
        let files = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        // Tests beside this one bring pages back at once: that some were given back is seen sooner or later.
        let gave = || {
            let before = files();
            give_code_back();
            files() < before
        };
        assert!((0..100).any(|_| gave()), "as much of the files is in memory as before");
    }
}
