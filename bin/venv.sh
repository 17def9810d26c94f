# Sourced by bin/aitp and bin/test: makes and keeps the project's own virtual environment.
#
# `ensure_venv FILE…` returns at once if everything in those locked requirements is installed. Else it makes the
# environment ($AITP_VENV, or .venv in the project's root) or brings it up to date, under a lock, so that two first uses
# don't collide. Interrupted or killed at any point, it leaves nothing that passes for a finished environment. POSIX sh;
# expects $root, sets $venv.

venv=${AITP_VENV:-$root/.venv}
case $venv in
/*) ;;
*) venv=$PWD/$venv ;;
esac
# Locked while someone prepares the environment, and not empty while what stands there is half made.
lock=$venv.lock
# Where ensurepip and pip unpack things: they cannot clear away when they are killed.
scratch=$venv.tmp

say() {
    printf 'aitp: %s\n' "$*" >&2
}

die() {
    say "$@"
    exit 1
}

ensure_venv() {
    installed "$@" || prepare "$@"
}

# One stamp a requirements file: its checksum, that of the file that has the project's version, where both are, and which
# Python runs it. Each start of a command pays for what this starts.
stamp_of() {
    printf '%s\n%s\n' "$(cksum "$root/$1" "$root/aitp/__init__.py")" "$(readlink -f "$venv/bin/python")"
}

version_of_source() {
    sed -n 's/^__version__ = "\(.*\)"/\1/p' "$root/aitp/__init__.py"
}

installed() {
    [ ! -s "$lock" ] && [ -x "$venv/bin/python" ] || return 1
    for file in "$@"; do
        [ "$(cat "$venv/$file.stamp" 2>/dev/null)" = "$(stamp_of "$file")" ] || return 1
    done
}

prepare() {
    mkdir -p "$(dirname "$venv")" 2>/dev/null
    # Opened in a subshell first: a failing exec would end this shell without our own words.
    (: >>"$lock") 2>/dev/null ||
        die "cannot write to $(dirname "$venv"): run this once as its owner, or name another directory in AITP_VENV"
    exec 9>>"$lock"
    if ! flock -n 9; then
        say "waiting for another aitp that is preparing $venv"
        flock 9
    fi
    installed "$@" || fill "$@"
    # The lock must not live on in what this script becomes.
    exec 9>&-
}

fill() {
    if [ -e "$venv" ] && [ ! -d "$venv" ]; then
        die "$venv is not a directory; name another one in AITP_VENV"
    fi
    child=
    progress=
    trap 'give_up 129' HUP
    trap 'give_up 130' INT
    trap 'give_up 143' TERM
    umask 022 # whoever makes it, the service's user must be able to read it
    discard_unfinished
    if [ ! -e "$venv/pyvenv.cfg" ]; then
        if [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
            die "$venv is not empty and not a virtual environment; name another directory in AITP_VENV"
        fi
        make_venv
    elif ! "$venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
        # The Python that it was made with is gone or another one, as after an upgrade of the system.
        make_venv --clear
    else
        say "bringing the Python packages in $venv up to date"
    fi
    for file in "$@"; do
        rm -f "$venv/$file.stamp"
    done
    install -r "$root/requirements-build.txt"
    for file in "$@"; do
        install --no-build-isolation -r "$root/$file"
    done
    packages=$("$venv/bin/python" -I -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    register_ourselves
    for file in "$@"; do
        stamp_of "$file" >"$venv/$file.stamp"
    done
    rm -rf "$scratch"
    : >"$lock"
    trap - HUP INT TERM
}

# As a package that is installed from here (PEP 376): a package that asks for aitp finds it, and pip does not fetch a
# stranger's of that name from an index. Without a RECORD pip leaves it alone.
register_ourselves() {
    version=$(version_of_source)
    printf '%s\n' "$root" >"$packages/aitp.pth"
    rm -rf "$packages"/aitp-*.dist-info
    mkdir "$packages/aitp-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: aitp\nVersion: %s\n' "$version" >"$packages/aitp-$version.dist-info/METADATA"
}

# Packages of others, by the extensions.txt of a directory, from which relative paths in it count. None of what is locked
# is replaced, and nothing is built but by the setuptools that is there.
install_extensions() {
    locked=$venv/constraints.txt
    sed -n 's/^\([a-z0-9][a-z0-9._-]*==[^ ]*\) .*/\1/p' "$root/requirements.txt" >"$locked" && cd "$1" &&
        "$venv/bin/python" -I -m pip --disable-pip-version-check --no-input install --quiet --no-build-isolation \
            --root-user-action=ignore --no-user --constraint "$locked" -r extensions.txt
}

make_venv() {
    find_python
    say "making a virtual environment in $venv with $("$python" -V), and installing the packages that aitp needs;"
    say "this happens once and takes about a minute"
    echo unfinished >"$lock"
    run "$python" -I -m venv "$@" "$venv" || give_up 1
}

install() {
    mkdir -p "$scratch"
    if [ -t 2 ]; then
        for requirements; do :; done
        show_progress "$requirements" &
        progress=$!
    fi
    run "$venv/bin/python" -I -m pip --disable-pip-version-check --no-input --log "$scratch/pip.log" install --quiet \
        --require-hashes --root-user-action=ignore --no-user "$@"
    failed=$?
    end_progress
    [ "$failed" -eq 0 ] || {
        say "installing the Python packages failed (see above); the next run tries again"
        give_up 1
    }
}

# To whoever waits at a terminal: how many of the packages pip has come to. Ends with this script, however that ends.
show_progress() {
    of=$(sed -n '/^[A-Za-z].*==/p' "$1" | sed -n '$=')
    while sleep 0.5 && kill -0 $$ 2>/dev/null; do
        come_to=$(sed -n '/Collecting /p' "$scratch/pip.log" 2>/dev/null | sed -n '$=')
        printf '\raitp: %s of %s packages ' "${come_to:-0}" "$of" >&2
    done
}

end_progress() {
    if [ -n "$progress" ]; then
        kill "$progress" 2>/dev/null && wait "$progress" 2>/dev/null
        progress=
        printf '\r\033[K' >&2
    fi
    rm -f "$scratch/pip.log"
}

# In the background, because a shell answers signals only between its foreground commands; and in a group of its own,
# because ensurepip and pip start processes of their own, which would go on writing.
run() {
    mkdir -p "$scratch"
    TMPDIR=$scratch setsid "$@" </dev/null &
    child=$!
    wait "$child"
}

give_up() {
    trap '' HUP INT TERM
    end_progress
    if [ "$1" -gt 128 ]; then
        say "interrupted; removing what was half made"
    fi
    if [ -n "$child" ]; then
        kill -KILL "-$child" 2>/dev/null || kill -KILL "$child" 2>/dev/null
        wait "$child" 2>/dev/null
    fi
    discard_unfinished
    exit "$1"
}

discard_unfinished() {
    rm -rf "$scratch"
    if [ -s "$lock" ]; then
        # Twice, because what was killed just now may have made one last file meanwhile.
        rm -rf "$venv" 2>/dev/null || rm -rf "$venv"
        [ -e "$venv" ] || : >"$lock"
    fi
}

find_python() {
    found=
    for python in python3 python3.13 python3.12 python3.11; do
        # Run, not only found: a version manager's stand-in may be on the path for a Python that it hasn't got.
        "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
        found=$python
        "$python" -I -c 'import ensurepip, venv' >/dev/null 2>&1 && return
    done
    if [ -n "$found" ]; then
        die "$found cannot make virtual environments (no venv or ensurepip module); install them (Debian and Ubuntu: apt install python3-venv) and try again"
    fi
    old=$(python3 -I -V 2>/dev/null) || old="no python3"
    die "needs Python 3.11 or newer, and found $old; install it (Debian 12: apt install python3 python3-venv)"
}
