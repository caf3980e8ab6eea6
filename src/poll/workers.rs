//! The worker threads: blocking jobs (checks, look-ups), run in the order they came, on a bounded pool.
//!
//! Threads are started when a job finds none idle and end after a while without work. The one that became idle last
//! gets the next job: its stack is still in the cache, and those that a burst needed end although there is always
//! some work. At the bound jobs wait, none is lost. Jobs that are likely to take their whole time (checks of targets that time out) go to the slow
//! lane, which may hold only half of the threads: whatever hangs, the rest stays prompt. A job returns its
//! value through whatever it captured, a [`crate::mailbox::Inbox`] mostly. Stopping waits for no job.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::health::Outcome;

/// What a worker runs.
pub type Job = Box<dyn FnOnce() + Send>;

/// Places for waiting jobs that are kept when none waits: what a round of an ordinary configuration needs.
const ROW_KEPT: usize = 1024;

/// Which share of the threads a job may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// All of them.
    Normal,
    /// Half of them: for jobs that are likely to hang until their deadline.
    Slow,
}

impl Lane {
    /// The lane of a check whose last result was this: what took its whole time will most likely do so again.
    pub fn after(last: Option<Outcome>) -> Lane {
        if last == Some(Outcome::Timeout) { Lane::Slow } else { Lane::Normal }
    }
}

/// Bounds of a pool.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Threads at most.
    pub threads: usize,
    /// Threads at most that run jobs of the slow lane.
    pub slow: usize,
    /// Stack of each, bytes.
    pub stack: usize,
    /// A thread without work ends after this.
    pub idle: Duration,
}

impl Default for Limits {
    /// 512 threads: 2,000 checks a second keep about 100 of them busy at 50 ms each, and 200 targets that begin to
    /// hang at the same moment still leave 300. Ten seconds outlast the usual interval, so that a
    /// round of checks finds the threads of the last one. A TLS handshake fits in 64 KiB of stack even without optimisation:
    /// a mebibyte is address space, not memory, and so much because the C library keeps 40 MiB of the stacks of threads that
    /// ended, with what they touched. Those are 40 of this size; of a quarter of it they would be 160, and 4 MB of memory.
    fn default() -> Limits {
        Limits { threads: 512, slow: 256, stack: 1 << 20, idle: Duration::from_secs(10) }
    }
}

/// A job that no thread exists for, nor could one be started: this host lacks threads or memory.
pub struct Refused {
    /// The job, not run.
    pub job: Job,
    /// Why no thread could be started.
    pub error: io::Error,
}

/// The workers. Dropping it forgets the jobs that wait and leaves those that run to their deadlines.
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    state: Mutex<State>,
}

/// Not bounded in length by itself: the schedule has one job under way for each address and definition.
#[derive(Default)]
struct State {
    normal: VecDeque<(u64, Job)>,
    slow: VecDeque<(u64, Job)>,
    /// Number of the next job: the order between the lanes.
    next: u64,
    threads: usize,
    /// Threads that wait for a job and were not woken for one, the longest idle one first.
    idle: Vec<Thread>,
    /// Threads that run a job of the slow lane.
    in_slow: usize,
    stopping: bool,
}

impl Pool {
    /// No thread yet.
    pub fn new(limits: Limits) -> Pool {
        Pool { shared: Arc::new(Shared { limits, state: Mutex::default() }) }
    }

    /// Queues a job and sees to it that a thread takes it.
    ///
    /// # Errors
    /// The job itself when there is no thread at all and none can be started. As long as there is one, a failed
    /// start only means that the job waits.
    pub fn submit(&self, lane: Lane, job: Job) -> Result<(), Refused> {
        let mut state = self.shared.lock();
        let number = state.next;
        state.next += 1;
        match lane {
            Lane::Normal => state.normal.push_back((number, job)),
            Lane::Slow => state.slow.push_back((number, job)),
        }
        if state.runnable(self.shared.limits) == 0 {
            return Ok(());
        }
        if let Some(thread) = state.idle.pop() {
            drop(state);
            thread.unpark();
            return Ok(());
        }
        if state.threads >= self.shared.limits.threads {
            return Ok(());
        }
        match self.shared.start_thread() {
            Ok(()) => state.threads += 1,
            Err(error) if state.threads == 0 => {
                let job = match lane {
                    Lane::Normal => state.normal.pop_back(),
                    Lane::Slow => state.slow.pop_back(),
                };
                return job.map_or(Ok(()), |(_, job)| Err(Refused { job, error }));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Jobs that wait for a thread.
    pub fn waiting(&self) -> usize {
        let state = self.shared.lock();
        state.normal.len() + state.slow.len()
    }

    /// Threads that exist.
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        state.normal.clear();
        state.slow.clear();
        state.idle.drain(..).for_each(|thread| thread.unpark());
    }
}

impl State {
    /// Jobs that a further thread could take now.
    fn runnable(&self, limits: Limits) -> usize {
        self.normal.len() + self.slow.len().min(limits.slow.saturating_sub(self.in_slow))
    }

    /// The oldest job that may run.
    fn take(&mut self, limits: Limits) -> Option<(Lane, Job)> {
        let slow = if self.in_slow < limits.slow { self.slow.front() } else { None };
        let slow_first = match (self.normal.front(), slow) {
            (Some((normal, _)), Some((slow, _))) => slow < normal,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if slow_first {
            let (_, job) = self.slow.pop_front()?;
            self.in_slow += 1;
            return Some((Lane::Slow, job));
        }
        let (_, job) = self.normal.pop_front()?;
        // A first round of fifty thousand checks leaves a row of places that nobody will need again.
        if self.normal.is_empty() && self.normal.capacity() > ROW_KEPT {
            self.normal = VecDeque::new();
        }
        Some((Lane::Normal, job))
    }
}

impl Shared {
    fn start_thread(self: &Arc<Shared>) -> io::Result<()> {
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("har-check".into()).stack_size(self.limits.stack);
        builder.spawn(move || shared.work_until_idle()).map(drop)
    }

    fn work_until_idle(&self) {
        let mut state = self.lock();
        loop {
            if state.stopping {
                break;
            }
            if let Some((lane, job)) = state.take(self.limits) {
                drop(state);
                job();
                state = self.lock();
                if lane == Lane::Slow {
                    state.in_slow -= 1;
                }
                continue;
            }
            state.idle.push(thread::current());
            drop(state);
            let worked = self.wait_for_work();
            state = self.lock();
            if !worked && state.runnable(self.limits) == 0 {
                break;
            }
        }
        state.threads -= 1;
    }

    /// Sleeps until this thread was taken out of the idle ones (`true`), or has been one of them for too long and
    /// takes itself out.
    fn wait_for_work(&self) -> bool {
        let (begin, own) = (Instant::now(), thread::current().id());
        loop {
            thread::park_timeout(self.limits.idle.saturating_sub(begin.elapsed()));
            let mut state = self.lock();
            let Some(place) = state.idle.iter().position(|thread| thread.id() == own) else { return true };
            if begin.elapsed() >= self.limits.idle {
                state.idle.remove(place);
                return false;
            }
        }
    }

    // A panic ends the process; in a test the state behind a poisoned lock is as good as before.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::mailbox::Inbox;

    const SOON: Duration = Duration::from_secs(60);

    fn pool(threads: usize, slow: usize) -> Pool {
        Pool::new(Limits { threads, slow, idle: Duration::from_millis(50), ..Limits::default() })
    }

    fn submit(pool: &Pool, lane: Lane, job: impl FnOnce() + Send + 'static) {
        assert!(pool.submit(lane, Box::new(job)).is_ok());
    }

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < SOON, "{what}");
            thread::yield_now();
        }
    }

    /// Jobs that run until the sender is dropped.
    fn hang(pool: &Pool, lane: Lane, count: usize) -> Vec<mpsc::Sender<()>> {
        let one = |_| {
            let (hold, held) = mpsc::channel::<()>();
            submit(pool, lane, move || {
                let _ = held.recv();
            });
            hold
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn what_timed_out_goes_to_the_slow_lane() {
        for last in Outcome::ALL {
            let expected = if last == Outcome::Timeout { Lane::Slow } else { Lane::Normal };
            assert_eq!(Lane::after(Some(last)), expected);
        }
        assert_eq!(Lane::after(None), Lane::Normal);
    }

    #[test]
    fn one_thread_runs_jobs_in_order_and_ends_when_idle() {
        let (pool, inbox) = (pool(1, 1), Inbox::new());
        for number in 0..100 {
            let inbox = inbox.clone();
            let lane = if number % 3 == 0 { Lane::Slow } else { Lane::Normal };
            submit(&pool, lane, move || inbox.send(number));
        }
        let mut got = Vec::new();
        while got.len() < 100 {
            inbox.wait(Some(SOON), &mut got);
        }
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        until("idle threads end", || pool.threads() == 0);
        submit(&pool, Lane::Normal, move || inbox.send(0));
        until("a new one is started", || pool.waiting() == 0);
    }

    #[test]
    fn threads_of_a_burst_end_although_there_is_always_some_work() {
        let pool = Pool::new(Limits { threads: 32, idle: Duration::from_millis(500), ..Limits::default() });
        drop(hang(&pool, Lane::Normal, 32));
        until("they are idle", || pool.shared.lock().idle.len() == 32);
        let (inbox, mut got) = (Inbox::new(), Vec::new());
        // Jobs so close to each other that nobody would ever be idle for long if all took turns.
        until("only those with work are left", || {
            let done = inbox.clone();
            submit(&pool, Lane::Normal, move || done.send(()));
            inbox.wait(Some(SOON), &mut got);
            pool.threads() <= 4
        });
        assert!(got.len() > 32);
    }

    #[test]
    fn a_full_slow_lane_delays_nothing_else() {
        let (pool, inbox) = (pool(8, 4), Inbox::new());
        let held = hang(&pool, Lane::Slow, 20);
        until("four hang", || pool.waiting() == 16);
        for number in 0..50 {
            let inbox = inbox.clone();
            submit(&pool, Lane::Normal, move || inbox.send(number));
        }
        let mut got = Vec::new();
        while got.len() < 50 {
            inbox.wait(Some(SOON), &mut got);
        }
        assert_eq!(pool.waiting(), 16);
        assert!(pool.threads() <= 8);
        drop(held);
        until("those that waited get their turn", || pool.waiting() == 0);
    }

    #[test]
    fn threads_are_bounded_and_nothing_is_lost() {
        let (pool, inbox) = (pool(4, 2), Inbox::new());
        let held = hang(&pool, Lane::Normal, 4);
        until("all threads are busy", || pool.waiting() == 0 && pool.threads() == 4);
        for number in 0..1000 {
            let inbox = inbox.clone();
            submit(&pool, Lane::Normal, move || inbox.send(number));
        }
        assert_eq!((pool.waiting(), pool.threads()), (1000, 4));
        drop(held);
        let mut got = Vec::new();
        while got.len() < 1000 {
            inbox.wait(Some(SOON), &mut got);
        }
        assert!(pool.threads() <= 4);
    }

    #[test]
    fn the_row_of_a_burst_does_not_stay() {
        let (pool, inbox) = (pool(2, 1), Inbox::new());
        let held = hang(&pool, Lane::Normal, 2);
        for number in 0..5000 {
            let inbox = inbox.clone();
            submit(&pool, Lane::Normal, move || inbox.send(number));
        }
        assert!(pool.shared.lock().normal.capacity() >= 5000);
        drop(held);
        let mut got = Vec::new();
        while got.len() < 5000 {
            inbox.wait(Some(SOON), &mut got);
        }
        assert!(pool.shared.lock().normal.capacity() <= ROW_KEPT);
    }

    #[test]
    fn two_hundred_hanging_jobs_do_not_delay_the_next() {
        let pool = Pool::new(Limits::default());
        let held = hang(&pool, Lane::Normal, 200);
        until("all hang", || pool.waiting() == 0);
        let delay = || {
            let (done, finished) = mpsc::channel();
            let start = Instant::now();
            submit(&pool, Lane::Normal, move || done.send(start.elapsed()).unwrap());
            finished.recv_timeout(SOON).unwrap()
        };
        // The least of some: a loaded machine delays others.
        assert!((0..20).any(|_| delay() < Duration::from_millis(100)));
        drop(held);
    }

    #[test]
    fn dropping_the_pool_waits_for_nothing() {
        let pool = pool(2, 2);
        let held = hang(&pool, Lane::Normal, 5);
        until("two hang", || pool.waiting() == 3);
        let shared = Arc::clone(&pool.shared);
        drop(pool);
        assert_eq!(shared.lock().normal.len(), 0);
        drop(held);
        until("the threads end", || shared.lock().threads == 0);
    }

    #[test]
    fn without_any_thread_the_job_comes_back() {
        // No address space has room for such a stack: every start fails.
        let pool = Pool::new(Limits { stack: 1 << 60, ..Limits::default() });
        let (done, finished) = mpsc::channel();
        let refused = pool.submit(Lane::Normal, Box::new(move || done.send(()).unwrap())).err().unwrap();
        assert_eq!((pool.waiting(), pool.threads()), (0, 0));
        (refused.job)();
        finished.recv_timeout(SOON).unwrap();
    }
}
