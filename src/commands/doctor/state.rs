//! The state file: there, readable by everybody, and of now.

use super::facts::{Kept, State};
use super::finding::Finding;
use super::{Scene, values};
use crate::store::{Life, Unreadable};

/// Read by everybody.
const ALL_READ: u32 = 0o004;
/// Entered by everybody.
const ALL_ENTER: u32 = 0o001;
/// Written by everybody.
const ALL_WRITE: u32 = 0o002;

/// Says what is wrong with it.
pub fn diagnose(scene: &Scene<'_>, out: &mut Vec<Finding>) {
    let state = &scene.facts.state;
    let before = out.len();
    let Some(kept) = &state.kept else {
        return out.push(absent(scene, state));
    };
    access(state, out);
    match kept {
        Err(error) => out.push(
            Finding::problem("state-unreadable", &state.path, &error.words)
                .why("`har status`, `har explain` and sqlite3 show nothing, and a restart would not begin warm")
                .mend(match error.kind {
                    Unreadable::Damaged => "`systemctl restart har`: it moves a damaged file aside and begins a new one",
                    Unreadable::Foreign => {
                        "move it away, or name another file with server.state, then `systemctl restart har`: as long as it is there har goes on in memory"
                    }
                    Unreadable::Missing | Unreadable::Barred => "look again, as root",
                }),
        ),
        Ok(kept) => freshness(scene, state, kept, out),
    }
    if out.len() == before {
        out.push(Finding::ok("state", &state.path, "written a moment ago, and readable by everybody"));
    }
}

fn absent(scene: &Scene<'_>, state: &State) -> Finding {
    if scene.runs_har() {
        return Finding::problem("state-absent", &state.path, "a daemon runs, and its state file is not there")
            .why("nobody sees what it does, and a restart begins cold")
            .mend("`journalctl -u har` says why it cannot write; or the daemon has another configuration (--config)");
    }
    if let Some(why) = &state.hindrance {
        return Finding::problem("state-folder", &state.path, format!("its folder cannot be made: {why}"))
            .why("har does not start without it")
            .mend("make the folder, or change server.state");
    }
    Finding::hint("state-none", &state.path, "there is no state file yet")
        .why("har has never run with this configuration: its first answers wait for first results")
        .mend("nothing: the daemon makes it (outside /var/lib/har, har.service needs ReadWritePaths= in a drop-in)")
}

fn access(state: &State, out: &mut Vec<Finding>) {
    let closed_folder = state.folder.as_ref().filter(|folder| folder.mode & ALL_ENTER == 0);
    let closed = state.file.as_ref().filter(|file| file.mode & ALL_READ == 0).or(closed_folder);
    if let Some(seen) = closed {
        out.push(
            Finding::warning("state-closed", &seen.path, format!("mode {:04o}: not everybody can read it", seen.mode))
                .why("`har status`, monitoring and sqlite3 need no root where the file is 0644 and its folder 0755")
                .mend(format!("chmod 0755 the folder and 0644 {}; a StateDirectoryMode=0755 in the unit", state.path)),
        );
    }
    let open = [&state.file, &state.folder].into_iter().flatten().find(|seen| seen.mode & ALL_WRITE != 0);
    if let Some(seen) = open {
        out.push(
            Finding::problem("state-open", &seen.path, format!("mode {:04o}: everybody can write it", seen.mode))
                .why("a row in the table `override` decides what every program on this host connects to")
                .mend(format!("chmod o-w {}", seen.path)),
        );
    }
    if let (Some(file), Some(folder)) = (&state.file, &state.folder)
        && file.uid != folder.uid
    {
        out.push(
            Finding::warning(
                "state-owner",
                &file.path,
                format!("it belongs to uid {}, its folder to uid {}", file.uid, folder.uid),
            )
            .why("a daemon that runs as the folder's owner cannot write the file and goes on in memory")
            .mend(format!("chown --reference={} {}*", folder.path, file.path)),
        );
    }
}

fn freshness(scene: &Scene<'_>, state: &State, kept: &Kept, out: &mut Vec<Finding>) {
    if let Some(at) = kept.heartbeat_at
        && at > scene.facts.now.after(std::time::Duration::from_secs(60))
    {
        let ahead = std::time::Duration::from_secs(at.since(scene.facts.now).as_secs());
        out.push(
            Finding::warning(
                "state-future",
                &state.path,
                format!("it was written {} from now", values::show_duration(ahead)),
            )
            .why("this host's clock was set back, or is wrong: ages and certificates are judged by it")
            .mend("have the clock set (`timedatectl`), then restart har"),
        );
    }
    match kept.life {
        Life::Running => {}
        Life::Silent if scene.is_mute() => out.push(
            Finding::problem("state-hung", &state.path, "its daemon has written nothing for more than 15 s")
                .why("it does not answer either: the process hangs")
                .mend("systemctl restart har; `journalctl -u har` for what came before"),
        ),
        Life::Silent => out.push(
            Finding::problem("state-stale", &state.path, "its daemon runs and has written nothing for more than 15 s")
                .why("a full or read-only disk: answers go on from memory, and a restart would not know them")
                .mend("`journalctl -u har`, `df` of the folder"),
        ),
        Life::Stopped | Life::Gone | Life::Never if scene.runs_har() => out.push(
            Finding::warning("state-other", &state.path, "a daemon runs, but did not write this file")
                .why("the daemon has another configuration, or cannot write: the commands show an old state")
                .mend("compare the unit's ExecStart with the file named here; `journalctl -u har`"),
        ),
        Life::Gone => out.push(
            Finding::hint("state-crash", &state.path, "its daemon did not end in order")
                .why("it was killed or the power went: nothing is lost but a few seconds")
                .mend("`journalctl -u har` says what happened"),
        ),
        Life::Stopped | Life::Never => {}
    }
    if let (Some(started), Life::Running) = (&kept.config, kept.life)
        && !scene.facts.is_same(started, &scene.config_shown())
    {
        out.push(
            Finding::warning(
                "other-config",
                scene.config_shown(),
                format!("the running daemon was started with {started}"),
            )
            .why("this is not the file that it answers by")
            .mend(format!("har doctor --config {started}")),
        );
    }
}
