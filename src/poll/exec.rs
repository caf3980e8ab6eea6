//! `exec` checks: a command in a process group of its own, under the check's deadline.
//!
//! No shell, a clean environment, nothing on standard input. When the command ends or its time is up, SIGKILL goes to
//! the whole group, so that no helper of the command stays, and when har stops to the groups of all; one that has left the group (`setsid`, a daemon) is out of
//! reach. What the command left open does not hold the check up: its own end is what counts, and it is
//! waited for by a thread that outlives the check if it must.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use regex::bytes::Regex;

use crate::config::ExecCheck;
use crate::health::{CheckResult, Outcome};
use crate::os::privileges;
use crate::poll::checks::Route;
use crate::poll::connect::{Failure, Limit, bare, io_text, shown};
use crate::poll::tcp::compile;

/// As much of standard output is held against the patterns.
const MAX_OUTPUT: usize = 64 << 10;
/// As much of standard error is kept for the error text's one line.
const MAX_COMPLAINT: usize = 4 << 10;
/// Bytes taken from a command at most, both streams together; one that prints more is killed.
const MAX_TAKEN: usize = 1 << 20;
/// Runs of one check at the same time: its addresses, and what could not be killed (a dead disk). With so many no further
/// one is started.
const MAX_RUNS: usize = 256;
/// Largest priority, as in the configuration.
const MAX_PRIORITY: u32 = 65_535;
/// The waiting thread only makes two system calls.
const STACK: usize = 64 << 10;

/// Where a program without a path is looked for, and all that a command gets to know of har's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A prepared `exec` check.
pub struct ExecRunner {
    check: ExecCheck,
    expect: Option<Regex>,
    priority: Option<Regex>,
    /// Held by every run until its command is gone.
    runs: Arc<()>,
}

impl ExecRunner {
    /// Compiles the patterns.
    ///
    /// # Errors
    /// A pattern that does not compile, in a sentence.
    pub fn new(check: &ExecCheck) -> Result<ExecRunner, String> {
        Ok(ExecRunner {
            expect: check.expect.as_deref().map(compile).transpose()?,
            priority: check.priority.as_deref().map(compile).transpose()?,
            check: check.clone(),
            runs: Arc::default(),
        })
    }

    /// Runs it.
    pub fn run(&self, route: Route, limit: Limit) -> CheckResult {
        let mut status = None;
        let outcome = self.attempt(route, limit, &mut status);
        let total = limit.elapsed();
        let result = match outcome {
            Ok(priority) => CheckResult { priority, ..bare(Outcome::Ok, total) },
            Err(failure) => failure.into_result(total),
        };
        CheckResult { status, ..result }
    }

    fn attempt(&self, route: Route, limit: Limit, status: &mut Option<i64>) -> Result<Option<Option<u32>>, Failure> {
        if Arc::strong_count(&self.runs) > MAX_RUNS {
            let text = format!("{MAX_RUNS} earlier runs have not ended although they were killed: a dead disk?");
            return Err(Failure::heard(Outcome::OtherError, text));
        }
        let mut running = self.start(route, limit)?;
        let ended = running.listen(limit)?;
        // What it has said stays; whom it has left behind does not.
        let (output, complaint) = (std::mem::take(&mut running.output), std::mem::take(&mut running.complaint));
        drop(running);
        match ended {
            WaitStatus::Exited(_, code) => {
                *status = Some(i64::from(code));
                if code != 0 {
                    let text = format!("exit status {code}{}", first_line(&complaint));
                    return Err(Failure::heard(Outcome::ResponseError, text));
                }
            }
            WaitStatus::Signaled(_, signal, _) => {
                let text = format!("the command was ended by {signal}{}", first_line(&complaint));
                return Err(Failure::heard(Outcome::OtherError, text));
            }
            _ => return Err(Failure::heard(Outcome::OtherError, "the end of the command was not seen")),
        }
        self.judge(&output)
    }

    /// Starts the command, on a thread that then waits for its end: neither may take the deadline away.
    fn start(&self, route: Route, limit: Limit) -> Result<Running, Failure> {
        let (command, run) = (self.command(route), Arc::clone(&self.runs));
        let (hand_over, handed) = mpsc::channel();
        let thread = thread::Builder::new().name("har-exec".into()).stack_size(STACK);
        let thread = thread.spawn(move || {
            see_through(command, &hand_over);
            drop(run);
        });
        thread.map_err(|error| self.not_started(&error))?;
        match handed.recv_timeout(limit.left().unwrap_or_default()) {
            Ok(started) => started.map_err(|error| self.not_started(&error)),
            // What is started all the same is killed when it is handed over to nobody.
            Err(_) => Err(Failure::late(limit.timeout(), "starting the command")),
        }
    }

    /// What a command that ended well has said.
    fn judge(&self, output: &[u8]) -> Result<Option<Option<u32>>, Failure> {
        let failure = |text: String| Failure::heard(Outcome::ResponseError, text);
        if let Some(expect) = self.expect.as_ref().filter(|expect| !expect.is_match(output)) {
            let text = format!("the output ({} bytes) does not match {:?}", output.len(), expect.as_str());
            return Err(failure(text));
        }
        let Some(pattern) = &self.priority else { return Ok(None) };
        let Some(found) = pattern.captures(output).and_then(|captures| captures.get(1)) else { return Ok(Some(None)) };
        let number = std::str::from_utf8(found.as_bytes()).ok().and_then(|text| text.trim().parse().ok());
        match number.filter(|number| *number <= MAX_PRIORITY) {
            Some(number) => Ok(Some(Some(number))),
            None => Err(failure(format!(
                "the priority found by {:?} is not a whole number from 0 to {MAX_PRIORITY}",
                pattern.as_str()
            ))),
        }
    }

    fn command(&self, route: Route) -> Command {
        let address = route.to.to_string();
        let (program, arguments) = self.check.command.split_first().map_or(("", &[][..]), |(p, rest)| (p, rest));
        let mut command = Command::new(program);
        command
            .args(arguments.iter().map(|argument| argument.replace("{address}", &address)))
            .env_clear()
            .env("PATH", PATH)
            .env("HAR_NAME", &self.check.name)
            .env("HAR_HOST", &self.check.host)
            .env("HAR_ADDRESS", &address)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    fn not_started(&self, error: &io::Error) -> Failure {
        let program = self.check.command.first().map_or("", String::as_str);
        let text = format!("{program} cannot be started: {}", io_text(error));
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let shortage = matches!(errno, Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE);
        let outcome = if shortage { Outcome::LocalError } else { Outcome::OtherError };
        Failure::heard(outcome, text)
    }
}

/// The commands of this process, so that none outlives a clean stop.
static COMMANDS: Commands =
    Commands { state: Mutex::new(Groups { starting: 0, running: BTreeSet::new(), over: false }), idle: Condvar::new() };

/// A command that is being started is waited for at most this long when the process stops.
const LAST_START: Duration = Duration::from_secs(1);

/// Kills every command under way and lets none start any more. For the end of the process.
pub fn stop() {
    let started = |groups: &mut Groups| groups.starting > 0;
    let mut state = COMMANDS.lock();
    state.over = true;
    let waited = COMMANDS.idle.wait_timeout_while(state, LAST_START, started);
    let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    for group in &state.running {
        let _ = killpg(*group, Signal::SIGKILL);
    }
}

struct Commands {
    state: Mutex<Groups>,
    idle: Condvar,
}

struct Groups {
    starting: usize,
    running: BTreeSet<Pid>,
    over: bool,
}

impl Commands {
    /// Starts a command. Not under the lock: a program on a dead disk must hold nobody else up.
    fn start(&self, command: &mut Command) -> io::Result<Child> {
        {
            let mut state = self.lock();
            if state.over {
                return Err(io::Error::other("har is being stopped"));
            }
            state.starting += 1;
        }
        let child = command.spawn();
        let mut state = self.lock();
        state.starting -= 1;
        if let Ok(child) = &child {
            state.running.insert(pid(child));
            if state.over {
                let _ = killpg(pid(child), Signal::SIGKILL);
            }
        }
        self.idle.notify_all();
        child
    }

    /// Kills a group, which is not known any more afterwards.
    fn end(&self, group: Pid) {
        let mut state = self.lock();
        state.running.remove(&group);
        let _ = killpg(group, Signal::SIGKILL);
    }

    // A panic ends the process; in a test the state behind a poisoned lock is as good as before.
    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command under way.
struct Running {
    group: Pid,
    /// The streams, until they end.
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    output: Vec<u8>,
    complaint: Vec<u8>,
    taken: usize,
    /// Readable once the command has ended.
    end: io::PipeReader,
    /// How it ended.
    status: Receiver<nix::Result<WaitStatus>>,
    /// Goes after the group was killed: only then may the command be reaped, or its number could be another
    /// process' by then.
    _reap: Sender<Infallible>,
}

/// Starts a command, hands it over, waits for its end and reaps it when that is allowed. The thread is the command's alone: it
/// gives up what the command must not inherit.
fn see_through(mut command: Command, hand_over: &Sender<io::Result<Running>>) {
    let mut child = None;
    let _ = hand_over.send(Running::start(&mut command, &mut child));
    let Some(Waiting { mut child, ended, tell, reaped }) = child else { return };
    let _ = tell.send(wait_without_reaping(pid(&child)));
    drop(ended);
    let _ = reaped.recv();
    let _ = child.wait();
}

/// The side of a command that waits for its end.
struct Waiting {
    child: Child,
    ended: io::PipeWriter,
    tell: Sender<nix::Result<WaitStatus>>,
    reaped: Receiver<Infallible>,
}

impl Running {
    fn start(command: &mut Command, waiting: &mut Option<Waiting>) -> io::Result<Running> {
        let (end, ended) = io::pipe()?;
        let (tell, status) = mpsc::channel();
        let (reap, reaped) = mpsc::channel();
        privileges::leave_nothing_to_children().map_err(io::Error::other)?;
        let mut child = COMMANDS.start(command)?;
        let running = Running {
            group: pid(&child),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            output: Vec::new(),
            complaint: Vec::new(),
            taken: 0,
            end,
            status,
            _reap: reap,
        };
        *waiting = Some(Waiting { child, ended, tell, reaped });
        let streams = [running.stdout.as_ref().map(AsFd::as_fd), running.stderr.as_ref().map(AsFd::as_fd)];
        for stream in streams.into_iter().flatten() {
            fcntl(stream, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(running)
    }

    /// Takes what the command says until it ends, or the time is up, or it says too much.
    fn listen(&mut self, limit: Limit) -> Result<WaitStatus, Failure> {
        loop {
            let Some(left) = limit.left() else {
                let text =
                    format!("the command took longer than {}{}", shown(limit.timeout()), first_line(&self.complaint));
                return Err(Failure::heard(Outcome::Timeout, text));
            };
            let [ended, output, complaint] = self.wait(left);
            if output || ended {
                take(&mut self.stdout, &mut self.output, MAX_OUTPUT, &mut self.taken);
            }
            if complaint || ended {
                take(&mut self.stderr, &mut self.complaint, MAX_COMPLAINT, &mut self.taken);
            }
            if ended {
                let unseen = |errno: Errno| {
                    let text = format!("the end of the command was not seen: {}", errno.desc().to_lowercase());
                    Failure::heard(Outcome::OtherError, text)
                };
                return self.status.recv().unwrap_or(Err(Errno::ECHILD)).map_err(unseen);
            }
            if self.taken >= MAX_TAKEN {
                return Err(Failure::heard(
                    Outcome::ResponseError,
                    "the command printed more than 1 MiB and was killed",
                ));
            }
        }
    }

    /// Whether the command has ended, and which streams have something to say.
    fn wait(&self, left: Duration) -> [bool; 3] {
        let streams =
            [Some(self.end.as_fd()), self.stdout.as_ref().map(AsFd::as_fd), self.stderr.as_ref().map(AsFd::as_fd)];
        let mut open: Vec<PollFd<'_>> =
            streams.iter().flatten().map(|stream| PollFd::new(*stream, PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        if poll(&mut open, timeout).is_err() {
            return [false; 3];
        }
        let mut seen = open.iter().map(|one| one.any().unwrap_or(true));
        streams.map(|stream| stream.is_some() && seen.next().unwrap_or(false))
    }
}

impl Drop for Running {
    /// Kills whatever is left of the group.
    fn drop(&mut self) {
        // It exists until its leader is reaped, even if nobody else is in it.
        COMMANDS.end(self.group);
    }
}

/// Reads what is there without waiting. A stream that has ended is closed; what exceeds `keep` is thrown away.
fn take(stream: &mut Option<impl Read>, kept: &mut Vec<u8>, keep: usize, taken: &mut usize) {
    let mut chunk = [0; 16 << 10];
    while let Some(open) = stream.as_mut().filter(|_| *taken < MAX_TAKEN) {
        match open.read(&mut chunk) {
            Ok(read) if read > 0 => {
                *taken += read;
                kept.extend_from_slice(&chunk[..read.min(keep - kept.len())]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => *stream = None,
        }
    }
}

/// The first line of what a command complains of, as the end of a sentence.
fn first_line(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    line.map(|line| format!(": {line}")).unwrap_or_default()
}

/// Waits for the end and leaves the process as it is, so that its number stays taken.
fn wait_without_reaping(pid: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(Errno::EINTR) => {}
            ended => return ended,
        }
    }
}

/// A process id never exceeds what the kernel's own type holds.
fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))
}
