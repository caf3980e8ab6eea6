# RPM: after removal, which keeps the state file and what was changed in /etc/har.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload >/dev/null 2>&1 || :
fi
