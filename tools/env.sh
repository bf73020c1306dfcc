# shellcheck shell=sh
# The environment of this checkout. .venv/bin/activate sources it, so plain POSIX shell (and zsh) must do.
#
# What the user has chosen stays: only what is unset is set, and `deactivate` takes back what was set here, so that the
# next checkout or project in the same shell does not work on this one's state.

_WSGI_FLEET_ENVIRONMENT=PULUMI_SKIP_UPDATE_CHECK
export PULUMI_SKIP_UPDATE_CHECK=true

# A user who is logged in to a backend keeps it, as they would without this file.
if [ -z "${PULUMI_BACKEND_URL:-}" ] &&
    ! grep -qs '"current": *"[^"]' "${PULUMI_HOME:-$HOME/.pulumi}/credentials.json"; then
    export PULUMI_BACKEND_URL="file://${VIRTUAL_ENV%/.venv}/.state/pulumi"
    _WSGI_FLEET_ENVIRONMENT="$_WSGI_FLEET_ENVIRONMENT PULUMI_BACKEND_URL"
fi

# An empty PULUMI_CONFIG_PASSPHRASE is a choice as well: Pulumi takes it as the passphrase.
if [ -z "${PULUMI_CONFIG_PASSPHRASE+chosen}" ] && [ -z "${PULUMI_CONFIG_PASSPHRASE_FILE:-}" ]; then
    export PULUMI_CONFIG_PASSPHRASE_FILE="${VIRTUAL_ENV%/.venv}/.state/passphrase"
    _WSGI_FLEET_ENVIRONMENT="$_WSGI_FLEET_ENVIRONMENT PULUMI_CONFIG_PASSPHRASE_FILE"
fi
