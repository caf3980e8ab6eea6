# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_har_global_optspecs
    string join \n h/help V/version
end

function __fish_har_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_har_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_har_using_subcommand
    set -l cmd (__fish_har_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c har -n "__fish_har_needs_command" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_needs_command" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_needs_command" -f -a "serve" -d 'Run the daemon in the foreground; log to standard error'
complete -c har -n "__fish_har_needs_command" -f -a "check-config" -d 'Report everything that is wrong with the configuration, at once (exit status 2 if anything is)'
complete -c har -n "__fish_har_needs_command" -f -a "status" -d 'Show what is answered now and why'
complete -c har -n "__fish_har_needs_command" -f -a "metrics" -d 'Show the state as metrics of Prometheus, for the node exporter\'s textfile collector'
complete -c har -n "__fish_har_needs_command" -f -a "replay" -d 'Show what another configuration would have answered, from the recorded check results'
complete -c har -n "__fish_har_needs_command" -f -a "events" -d 'Show what happened: changes of state and of answers, with the reasons'
complete -c har -n "__fish_har_needs_command" -f -a "report" -d 'Write a page (HTML) of what was answered, how every address did and why, over the last day or so'
complete -c har -n "__fish_har_needs_command" -f -a "probe" -d 'Run the checks once, now, without a daemon (exit status 1 when a name has nothing up)'
complete -c har -n "__fish_har_needs_command" -f -a "explain" -d 'Say what is answered for a name and why, and each candidate\'s part in it'
complete -c har -n "__fish_har_needs_command" -f -a "drain" -d 'Take a candidate out without touching the service'
complete -c har -n "__fish_har_needs_command" -f -a "undrain" -d 'Take a drained candidate in again'
complete -c har -n "__fish_har_needs_command" -f -a "force-up" -d 'Hold a candidate up whatever its checks say'
complete -c har -n "__fish_har_needs_command" -f -a "pin" -d 'Freeze the answer of a name'
complete -c har -n "__fish_har_needs_command" -f -a "unpin" -d 'Let the answer of a name move again'
complete -c har -n "__fish_har_needs_command" -f -a "bypass" -d 'Forward configured names too, as if har knew none of them'
complete -c har -n "__fish_har_needs_command" -f -a "overrides" -d 'List what was ordered: drained, held up, pinned, bypassed, and what is left of the time'
complete -c har -n "__fish_har_needs_command" -f -a "doctor" -d 'Look at this host and say what is wrong with its way to har, and the mend; changes nothing'
complete -c har -n "__fish_har_needs_command" -f -a "demo" -d 'Show har at work: three small HTTP servers, the real daemon on 127.0.0.1:5300, a failure and a recovery'
complete -c har -n "__fish_har_needs_command" -f -a "completions" -d 'Print what bash, zsh or fish need to complete har\'s command line'
complete -c har -n "__fish_har_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c har -n "__fish_har_using_subcommand serve" -l config -d 'Configuration file' -r -F
complete -c har -n "__fish_har_using_subcommand serve" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand serve" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand check-config" -l config -d 'Configuration file' -r -F
complete -c har -n "__fish_har_using_subcommand check-config" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand check-config" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand status" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand status" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand status" -l json -d 'Machine-readable output'
complete -c har -n "__fish_har_using_subcommand status" -l check -d 'One line and an exit status for monitoring plugins: 0 ok, 1 warning, 2 critical, 3 unknown'
complete -c har -n "__fish_har_using_subcommand status" -l watch -d 'Go on: a live table on a terminal (q quits), a plain table for each change in a pipe'
complete -c har -n "__fish_har_using_subcommand status" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand status" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand metrics" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand metrics" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand metrics" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand replay" -l config -d 'The configuration to be tried' -r -F
complete -c har -n "__fish_har_using_subcommand replay" -l old -d 'The configuration to compare with (the one that the daemon was started with)' -r -F
complete -c har -n "__fish_har_using_subcommand replay" -l state -d 'The state file with the recorded results (that of the new configuration)' -r -F
complete -c har -n "__fish_har_using_subcommand replay" -l json -d 'Machine-readable output'
complete -c har -n "__fish_har_using_subcommand replay" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand replay" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand events" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand events" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand events" -l limit -d 'At most this many, the latest ones' -r
complete -c har -n "__fish_har_using_subcommand events" -l follow -d 'Go on with new ones as they come'
complete -c har -n "__fish_har_using_subcommand events" -l json -d 'Machine-readable output, an object a line'
complete -c har -n "__fish_har_using_subcommand events" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand events" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand report" -l output -d 'Where to write the page (replaced as a whole); - is standard output' -r -F
complete -c har -n "__fish_har_using_subcommand report" -l since -d 'How far back, such as 30m, 24h or 168h' -r
complete -c har -n "__fish_har_using_subcommand report" -l limit -d 'At most this many names, when none are given' -r
complete -c har -n "__fish_har_using_subcommand report" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand report" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand report" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand report" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand probe" -l config -d 'Configuration file' -r -F
complete -c har -n "__fish_har_using_subcommand probe" -l json -d 'Machine-readable output'
complete -c har -n "__fish_har_using_subcommand probe" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand probe" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand explain" -l config -d 'Configuration file' -r -F
complete -c har -n "__fish_har_using_subcommand explain" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand explain" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand drain" -l name -d 'Only for this name; left out, for all names' -r
complete -c har -n "__fish_har_using_subcommand drain" -l for -d 'End by itself after this long, such as 10m; left out, it holds until it is undone' -r
complete -c har -n "__fish_har_using_subcommand drain" -l reason -d 'Why, for the colleague who finds it' -r
complete -c har -n "__fish_har_using_subcommand drain" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand drain" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand drain" -l force -d 'Take a name or target that the configuration does not know'
complete -c har -n "__fish_har_using_subcommand drain" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand drain" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand undrain" -l name -d 'The name it was drained for' -r
complete -c har -n "__fish_har_using_subcommand undrain" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand undrain" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand undrain" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand undrain" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand force-up" -l name -d 'Only for this name; left out, for all names' -r
complete -c har -n "__fish_har_using_subcommand force-up" -l for -d 'End by itself after this long, such as 10m; left out, it holds until it is undone' -r
complete -c har -n "__fish_har_using_subcommand force-up" -l reason -d 'Why, for the colleague who finds it' -r
complete -c har -n "__fish_har_using_subcommand force-up" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand force-up" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand force-up" -l remove -d 'Take it back: its checks count again'
complete -c har -n "__fish_har_using_subcommand force-up" -l force -d 'Take a name or target that the configuration does not know'
complete -c har -n "__fish_har_using_subcommand force-up" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand force-up" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand pin" -l for -d 'End by itself after this long, such as 10m; left out, it holds until it is undone' -r
complete -c har -n "__fish_har_using_subcommand pin" -l reason -d 'Why, for the colleague who finds it' -r
complete -c har -n "__fish_har_using_subcommand pin" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand pin" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand pin" -l force -d 'Take a name or target that the configuration does not know'
complete -c har -n "__fish_har_using_subcommand pin" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand pin" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand unpin" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand unpin" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand unpin" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand unpin" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand bypass" -l for -d 'End by itself after this long, such as 10m; left out, it holds until it is undone' -r
complete -c har -n "__fish_har_using_subcommand bypass" -l reason -d 'Why, for the colleague who finds it' -r
complete -c har -n "__fish_har_using_subcommand bypass" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand bypass" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand bypass" -l remove -d 'Take it back: configured names are answered again'
complete -c har -n "__fish_har_using_subcommand bypass" -l force -d 'Take a name or target that the configuration does not know'
complete -c har -n "__fish_har_using_subcommand bypass" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand bypass" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand overrides" -l config -d 'Configuration file; when it is invalid, only where the state file is' -r -F
complete -c har -n "__fish_har_using_subcommand overrides" -l state -d 'The state file; the configuration is not read then' -r -F
complete -c har -n "__fish_har_using_subcommand overrides" -l json -d 'Machine-readable output'
complete -c har -n "__fish_har_using_subcommand overrides" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand overrides" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand doctor" -l root -d 'Look at the files of a host below this folder, such as a mounted image; nobody is asked then' -r -F
complete -c har -n "__fish_har_using_subcommand doctor" -l config -d 'Configuration file' -r -F
complete -c har -n "__fish_har_using_subcommand doctor" -l json -d 'Machine-readable output'
complete -c har -n "__fish_har_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand doctor" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand demo" -l for -d 'End by itself after this long, such as 30s' -r
complete -c har -n "__fish_har_using_subcommand demo" -l listen -d 'Where the daemon of the demonstration listens' -r
complete -c har -n "__fish_har_using_subcommand demo" -s h -l help -d 'Print help'
complete -c har -n "__fish_har_using_subcommand demo" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c har -n "__fish_har_using_subcommand completions" -s V -l version -d 'Print version'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "serve" -d 'Run the daemon in the foreground; log to standard error'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "check-config" -d 'Report everything that is wrong with the configuration, at once (exit status 2 if anything is)'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "status" -d 'Show what is answered now and why'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "metrics" -d 'Show the state as metrics of Prometheus, for the node exporter\'s textfile collector'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "replay" -d 'Show what another configuration would have answered, from the recorded check results'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "events" -d 'Show what happened: changes of state and of answers, with the reasons'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "report" -d 'Write a page (HTML) of what was answered, how every address did and why, over the last day or so'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "probe" -d 'Run the checks once, now, without a daemon (exit status 1 when a name has nothing up)'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "explain" -d 'Say what is answered for a name and why, and each candidate\'s part in it'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "drain" -d 'Take a candidate out without touching the service'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "undrain" -d 'Take a drained candidate in again'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "force-up" -d 'Hold a candidate up whatever its checks say'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "pin" -d 'Freeze the answer of a name'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "unpin" -d 'Let the answer of a name move again'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "bypass" -d 'Forward configured names too, as if har knew none of them'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "overrides" -d 'List what was ordered: drained, held up, pinned, bypassed, and what is left of the time'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "doctor" -d 'Look at this host and say what is wrong with its way to har, and the mend; changes nothing'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "demo" -d 'Show har at work: three small HTTP servers, the real daemon on 127.0.0.1:5300, a failure and a recovery'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "completions" -d 'Print what bash, zsh or fish need to complete har\'s command line'
complete -c har -n "__fish_har_using_subcommand help; and not __fish_seen_subcommand_from serve check-config status metrics replay events report probe explain drain undrain force-up pin unpin bypass overrides doctor demo completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
