//! Whether a process is there, and since when: a number is given again to another one, at the latest after a boot.

use std::fs;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Whether there is such a process. Another user's cannot be signalled, which also says that it is there.
pub fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0).map(Pid::from_raw);
    pid.is_some_and(|pid| !matches!(kill(pid, None), Err(Errno::ESRCH)))
}

/// How long a process has been there; `None` where its line of `/proc` cannot be read.
pub fn age(pid: u32) -> Option<Duration> {
    let begun = begun(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let ticks = u64::try_from(sysconf(SysconfVar::CLK_TCK).ok()??).ok().filter(|&ticks| ticks > 0)?;
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    Some(since_boot.saturating_sub(Duration::from_millis(begun.saturating_mul(1000) / ticks)))
}

/// When it was started, in ticks since the boot: the 22nd field (proc(5)). The second is a name, which may hold anything.
fn begun(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    behind_name.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there_and_young() {
        let own = std::process::id();
        assert!(is_there(own));
        assert!(age(own).expect("/proc is there") < Duration::from_secs(24 * 3600));
        // A number that the kernel never gives out.
        assert!(!is_there(i32::MAX as u32) && !is_there(0) && age(i32::MAX as u32).is_none());
        let first = age(1).expect("everybody reads this");
        assert!(first >= age(own).expect("/proc is there"), "the first process is no younger: {first:?}");
    }

    #[test]
    fn a_name_with_blanks_and_brackets_is_one_field() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(begun(&format!("77 (a) b (c) {rest}")), Some(4711));
        assert_eq!(begun("77 (x) S 1"), None);
    }
}
