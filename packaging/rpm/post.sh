# RPM: after unpacking; $1 = how many versions are installed then. What no preset of the site enables is neither enabled
# nor started: har.service takes port 53 of the loopback addresses, which is for the operator to say.
systemd-sysusers har.conf >/dev/null 2>&1 || :
[ -d /var/lib/har ] || install -d -o har -g har -m 755 /var/lib/har || :
if command -v systemctl >/dev/null; then
    if [ "$1" -eq 1 ]; then
        systemctl --no-reload preset har.service har.socket >/dev/null 2>&1 || :
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload >/dev/null 2>&1 || :
        if [ "$1" -gt 1 ] && systemctl is-active --quiet har.service; then
            # Its reload has the new version check the configuration as the daemon will read it: the unit's file, as the
            # unit's user, in its sandbox. A daemon with old code is better than none.
            since=$(date +%s)
            if systemctl reload har.service; then
                systemctl try-restart har.service || :
            else
                journalctl --sync || :
                journalctl --quiet --no-pager --output=cat --unit=har.service --since="@$since" >&2 || :
                echo "har: this version refuses the configuration, see above; the running daemon goes on. Mend it, then: systemctl restart har" >&2
            fi
        fi
    fi
fi
