# shellcheck shell=bash
# Sourced by the scripts of this folder: how they talk, how they wait, and how they become root.

# Breaks lines between words where standard error is a terminal, which itself breaks them anywhere.
wrap() {
    local size
    if [[ ! -t 2 ]]; then
        cat
        return
    fi
    size=$(stty size <&2 2>/dev/null) || size=
    size=${size#* }
    if ((${size:-0} < 20)); then size=80; fi
    fold -s -w "$size"
}

say() { printf '%s\n' "$*" | wrap >&2; }

fail() {
    printf 'error: %s\n' "$*" | wrap >&2
    exit 1
}

as_root() {
    if [[ $(id -u) -eq 0 ]]; then "$@"; else sudo -- "$@"; fi
}

# long_step TITLE USUALLY LOG PROGRESS COMMAND...
#
# Runs COMMAND with its output in the file LOG and says meanwhile that it lives: on a terminal one line is rewritten every
# second, elsewhere a line is added every 15 s. PROGRESS is a command that prints how far it is, or `:`.
long_step() {
    local title=$1 usually=$2 log=$3 progress=$4 began=$SECONDS step_status=0 line
    shift 4
    say "$title (usually $usually)"
    # With job control the command and all its children are one process group, and end together when setup is interrupted.
    set -m
    "$@" >"$log" 2>&1 9>&- </dev/null &
    set +m
    local child=$!
    # shellcheck disable=SC2064  # the id is wanted as it is now
    trap "kill -- -$child 2>/dev/null || true" EXIT
    while kill -0 "$child" 2>/dev/null; do
        sleep 1
        line="  $((SECONDS - began)) s $("$progress")"
        if [[ -t 2 ]]; then
            printf '\r\033[K%s' "$line" >&2
        elif (((SECONDS - began) % 15 == 0)); then
            say "$line"
        fi
    done
    if [[ -t 2 ]]; then printf '\r\033[K' >&2; fi
    wait "$child" || step_status=$?
    trap - EXIT
    if ((step_status != 0)); then
        tail -n 30 "$log" >&2
        fail "\"$title\" failed; the lines above are the end of $log. Once their cause is gone, run the same command again."
    fi
    say "  done in $((SECONDS - began)) s"
}
