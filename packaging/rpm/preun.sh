# RPM: before removal; $1 = how many versions are left, 0 unless it is an upgrade.
if [ "$1" -eq 0 ]; then
    if command -v systemctl >/dev/null; then
        if [ -d /run/systemd/system ]; then
            systemctl --no-reload disable --now har.socket har.service >/dev/null 2>&1 || :
        else
            systemctl --no-reload disable har.socket har.service >/dev/null 2>&1 || :
        fi
    fi
    if grep -Eqs '^[[:blank:]]*nameserver[[:blank:]]+(127\.0\.0\.1|::1)([[:blank:]]|$)' /etc/resolv.conf; then
        echo "har: /etc/resolv.conf names this host itself, where har answers no more; it is left as it is" >&2
    fi
fi
