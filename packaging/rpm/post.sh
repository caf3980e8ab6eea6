# RPM: after unpacking; $1 = how many versions are installed then. What presets do not enable is neither enabled nor
# started: har.service takes port 53 of the loopback addresses, which is for the operator to say.
systemd-sysusers har.conf >/dev/null 2>&1 || :
systemd-tmpfiles --create har.conf >/dev/null 2>&1 || :
if command -v systemctl >/dev/null; then
    if [ "$1" -eq 1 ]; then
        systemctl --no-reload preset har.service har.socket >/dev/null 2>&1 || :
    fi
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload >/dev/null 2>&1 || :
        if [ "$1" -gt 1 ] && systemctl is-active --quiet har.service; then
            # A daemon with old code is better than none.
            if har check-config; then
                systemctl try-restart har.service || :
            else
                echo "har: this version refuses the configuration above; the running daemon goes on. Mend it, then: systemctl restart har" >&2
            fi
        fi
    fi
fi
